//! Refusals, counted: per minute, user, role, method and code, with the last address and reason.
//!
//! They are in no journal: whoever is refused must not be able to fill a disk. So many kinds are counted between two
//! writes, further ones together; what was counted since the last write is lost with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Code;

use crate::auth::Caller;

/// Kinds of refusals that are told apart between two writes.
const MAX_KINDS: usize = 4096;
/// Longest reason that is kept, in bytes.
const MAX_WHY: usize = 512;
/// Longest user or method that is kept, in bytes.
const MAX_NAME: usize = 128;
/// A minute in milliseconds.
const MINUTE_MS: u64 = 60_000;
/// Whose refusals are counted once there are too many kinds.
const OTHERS: &str = "(others)";

/// So many refusals of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// When the minute began.
    pub minute_ms: u64,
    /// Who.
    pub user: Box<str>,
    /// In which role.
    pub role: &'static str,
    /// The method.
    pub method: Box<str>,
    /// The status code, as `PERMISSION_DENIED`.
    pub code: &'static str,
    /// Address of the last one.
    pub origin: Box<str>,
    /// Reason of the last one.
    pub why: Box<str>,
    /// How many.
    pub count: u64,
}

type Kind = (u64, Box<str>, &'static str, Box<str>, &'static str);
/// Address and reason of the last one, and how many.
type Last = (Box<str>, Box<str>, u64);

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    counted: Arc<Mutex<BTreeMap<Kind, Last>>>,
}

impl Refusals {
    /// Counts one, unless its code is that of a fault of ours or of an absence.
    pub fn count(&self, by: &Caller, code: Code, why: &str, now_ms: u64) {
        let Some(code) = word(code) else { return };
        let minute = now_ms / MINUTE_MS * MINUTE_MS;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind: Kind = (minute, cut(&by.user, MAX_NAME), by.role, cut(&by.method, MAX_NAME), code);
        if counted.len() >= MAX_KINDS && !counted.contains_key(&kind) {
            kind = (minute, OTHERS.into(), "", OTHERS.into(), code);
        }
        let entry = counted.entry(kind).or_default();
        *entry = (by.origin.clone(), cut(why, MAX_WHY), entry.2 + 1);
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Vec<Refusal> {
        let counted = std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner));
        let refusal = |((minute_ms, user, role, method, code), (origin, why, count))| Refusal {
            minute_ms,
            user,
            role,
            method,
            code,
            origin,
            why,
            count,
        };
        counted.into_iter().map(refusal).collect()
    }
}

fn cut(text: &str, limit: usize) -> Box<str> {
    text[..text.floor_char_boundary(limit)].into()
}

/// The name of a code that is a refusal.
fn word(code: Code) -> Option<&'static str> {
    match code {
        Code::InvalidArgument => Some("INVALID_ARGUMENT"),
        Code::NotFound => Some("NOT_FOUND"),
        Code::AlreadyExists => Some("ALREADY_EXISTS"),
        Code::PermissionDenied => Some("PERMISSION_DENIED"),
        Code::ResourceExhausted => Some("RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => Some("FAILED_PRECONDITION"),
        Code::OutOfRange => Some("OUT_OF_RANGE"),
        Code::Unimplemented => Some("UNIMPLEMENTED"),
        Code::Unauthenticated => Some("UNAUTHENTICATED"),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_a_kind_are_one_row_and_a_flood_stays_small() {
        let refusals = Refusals::default();
        let by = |user: &str| Caller { user: user.into(), role: "member", ..Caller::default() };
        for at in 0..1000 {
            refusals.count(&by("ana"), Code::NotFound, &format!("no job {at}"), 60_000 + at);
        }
        refusals.count(&by("ana"), Code::Unavailable, "absence is no refusal", 60_000);
        let taken = refusals.take();
        assert_eq!((taken.len(), taken[0].count, &*taken[0].why), (1, 1000, "no job 999"));
        assert!(refusals.take().is_empty());
        for user in 0..2 * MAX_KINDS {
            refusals.count(&by(&format!("u{user}")), Code::Unauthenticated, "no token", 5);
        }
        let taken = refusals.take();
        assert_eq!(taken.len(), MAX_KINDS + 1);
        let others = taken.iter().find(|refusal| &*refusal.user == OTHERS).expect("the rest");
        assert_eq!(others.count, MAX_KINDS as u64);
    }
}
