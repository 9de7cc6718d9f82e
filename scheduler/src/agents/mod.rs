//! The sessions of the agents, as a synchronous machine: their messages in, inputs for the core and effects out.
//!
//! `orders` turns events into what agents are told, `welcome` reconciles a node that says hello, `inventory` reads what it
//! has, `liveness` counts silence, `session` is the gRPC stream that pumps messages, `logs` the desk where output is read.
//! Nothing in here decides: who is lost, what runs where, is the core's to say.

pub mod breaker;
pub mod exec;
pub mod inventory;
pub mod liveness;
pub mod logs;
pub mod orders;
pub mod session;
pub mod welcome;

pub use session::Outgoing;

use dure_core::ids::{AttemptNumber, JobId, MemberIndex};
use dure_core::input::MemberReport;
use dure_core::job::{Exit, ExitHow};
use dure_proto::v1;
use dure_proto::v1::scheduler_message::Kind;

/// What reaches the owner of the cluster from the sessions.
pub enum FromAgent {
    /// A session has begun. Everything for the agent goes into `outgoing`.
    Opened {
        /// Number of the session: one whose stream was opened later has a higher number.
        session: u64,
        /// The answer to its challenge; `hello.node` has been checked against its identity.
        hello: Box<v1::Hello>,
        /// To the agent.
        outgoing: Outgoing,
    },
    /// The agent lives and measured this.
    Heartbeat {
        /// Of which session.
        session: u64,
        /// Name of its node.
        node: String,
        /// The message.
        heartbeat: Box<v1::Heartbeat>,
    },
    /// Something happened to a member.
    Reported {
        /// Of which session.
        session: u64,
        /// Name of its node.
        node: String,
        /// The message.
        report: Box<v1::Report>,
    },
    /// The session is over.
    Closed {
        /// Which.
        session: u64,
        /// Name of its node.
        node: String,
    },
}

/// Wraps what is said to an agent.
pub(crate) fn say(kind: Kind) -> v1::SchedulerMessage {
    v1::SchedulerMessage { kind: Some(kind) }
}

/// A report as the core takes it; none when the agent said nothing.
pub(crate) fn report_of(report: &v1::Report) -> Option<(JobId, AttemptNumber, MemberIndex, MemberReport)> {
    let what = match report.what.as_ref()? {
        v1::report::What::Prepared(_) => MemberReport::Prepared,
        v1::report::What::StartedPid(_) => MemberReport::Started,
        v1::report::What::Checkpoint(saved) => MemberReport::Checkpointed { step: saved.step },
        v1::report::What::Gone(exit) => MemberReport::Gone(exit_of(exit)),
    };
    Some((JobId(report.job_id), AttemptNumber(report.attempt), MemberIndex(report.member), what))
}

/// The end of a member as the core takes it.
pub(crate) fn exit_of(exit: &v1::Exit) -> Exit {
    let how = match &exit.how {
        Some(v1::exit::How::Code(code)) => ExitHow::Code(*code),
        Some(v1::exit::How::Signal(signal)) => ExitHow::Signal(*signal),
        Some(v1::exit::How::LaunchFailure(why)) => ExitHow::LaunchFailed(clip(why)),
        Some(v1::exit::How::Unknown(why)) => ExitHow::Unknown(clip(why)),
        None => ExitHow::Unknown("the agent did not say how".into()),
    };
    Exit { how, timed_out: exit.timed_out, out_of_memory: exit.out_of_memory, detail: clip(&exit.detail) }
}

/// Text from outside that goes into the journal has a bound, in bytes.
const MAX_REASON: usize = 512;

fn clip(text: &str) -> Box<str> {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
