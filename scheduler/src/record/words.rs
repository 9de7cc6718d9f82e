//! Enums, both ways. On the wire 0 is "none"; every other value that is unknown here is an error.

use dure_core::booking::Stage;
use dure_core::idle::IdleAction;
use dure_core::job::{DependencyKind, MemberPhase, Outcome, StopReason};
use dure_core::node::Contact;
use dure_core::promise::DropCause;
use dure_core::request::Level;
use dure_proto::journal::v1;

use super::fault::{Fault, needed};

/// An enum of the core that has a number on the wire.
pub(super) trait Word: Copy {
    /// Its number.
    fn to_wire(self) -> i32;

    /// The word of a number; none for 0.
    fn optional(field: &'static str, value: i32) -> Result<Option<Self>, Fault>;

    /// The word of a number where there must be one.
    fn from_wire(field: &'static str, value: i32) -> Result<Self, Fault> {
        needed(field, Self::optional(field, value)?)
    }
}

/// The number of a word that may be absent.
pub(super) fn or_none<W: Word>(word: Option<W>) -> i32 {
    word.map_or(0, Word::to_wire)
}

macro_rules! words {
    ($($word:ident { $($variant:ident),+ $(,)? })+) => {$(
        impl Word for $word {
            fn to_wire(self) -> i32 {
                let wire = match self {
                    $($word::$variant => v1::$word::$variant,)+
                };
                wire as i32
            }

            fn optional(field: &'static str, value: i32) -> Result<Option<Self>, Fault> {
                match v1::$word::try_from(value) {
                    Ok(v1::$word::Unspecified) => Ok(None),
                    $(Ok(v1::$word::$variant) => Ok(Some($word::$variant)),)+
                    Err(_) => Err(Fault::UnknownWord { field, value }),
                }
            }
        }
    )+};
}

words! {
    Contact { Ready, Suspect, Lost }
    Level { Node, Nvlink, Leaf, Spine, Site }
    DependencyKind { AfterOk, AfterAny, AfterNotOk }
    MemberPhase { Ordered, Prepared, Running, Gone }
    Outcome { Completed, Failed, Cancelled, TimedOut, LaunchFailed, NodeLost, Evicted, Drained, DependencyFailed, GpuFault, Resized, Idle }
    DropCause { NotWanted, NodeClosed, NotAllowed, Late, NoSpare, Booked }
    StopReason { Cancelled, TimeLimit, GangBroken, LaunchDeadline, NodeLost, Evicted, Drained, Resized, ScriptEnded, Idle }
    Stage { Ahead, Cleared, Begun }
    IdleAction { Ignore, Notify, Requeue, Cancel }
}
