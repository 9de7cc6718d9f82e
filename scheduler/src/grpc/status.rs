//! Every error and its gRPC status: the right code, a message that names field, value and remedy, and the same as rich
//! details. One exhaustive match over the core's refusals.

mod booking;
mod calendar;
mod domains;
mod refusal;

use std::fmt::Write as _;

use dure_core::ids::Seq;
use dure_core::rejected::{Refusal, Rejected};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::limits::{COME_BACK_AFTER, ROOM_WITHIN};
use crate::auth::Denied;
use crate::handle::CallError;

/// A field that cannot be as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Path of the field, as `jobs[3].shape.members`.
    pub field: String,
    /// What is wrong, with the value, and what it should be.
    pub problem: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same, with `prefix.` before the field.
    pub fn inside(self, prefix: &str) -> Self {
        Self { field: format!("{prefix}.{}", self.field), problem: self.problem }
    }
}

impl From<Violation> for Status {
    fn from(violation: Violation) -> Self {
        invalid(&[violation])
    }
}

/// `INVALID_ARGUMENT` with every field that is at fault; at least one.
pub fn invalid(violations: &[Violation]) -> Status {
    let mut message = String::new();
    let mut details = ErrorDetails::new();
    for violation in violations {
        let separator = if message.is_empty() { "" } else { " | " };
        let _ = write!(message, "{separator}{}: {}", violation.field, violation.problem);
        details.add_bad_request_violation(&violation.field, &violation.problem);
    }
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// `OUT_OF_RANGE` for a watch that begins before what the journal keeps.
pub(super) fn kept_no_longer(after: Seq, kept_from: u64) -> Status {
    let (field, oldest) = ("after_seq", kept_from.saturating_sub(1));
    let problem = format!(
        "{after} lies before position {kept_from}, the first that the journal keeps; watch from {oldest} on, or from now \
         on with 0, and read in the history what happened before: dure history attempts"
    );
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation(field, &problem);
    Status::with_error_details(Code::OutOfRange, format!("{field}: {problem}"), details)
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Rejected(rejected) => refused(&rejected),
            CallError::Overloaded => busy(error.to_string()),
            CallError::NoRoom => {
                let details = ErrorDetails::with_retry_info(Some(ROOM_WITHIN));
                Status::with_error_details(Code::ResourceExhausted, error.to_string(), details)
            }
            CallError::Stopped(_) => Status::unavailable(format!(
                "{error}; whether the call took effect is not known: repeat it with its request id"
            )),
        }
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Status::permission_denied(denied.to_string())
    }
}

/// `RESOURCE_EXHAUSTED` with the time after which to come back.
pub fn busy(message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_retry_info(Some(COME_BACK_AFTER));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A refusal of the core as one line.
pub fn rejected_text(rejected: &Rejected) -> String {
    let field = field_path(rejected);
    let separator = if field.is_empty() { "" } else { ": " };
    format!("{field}{separator}{}", description(&rejected.why))
}

fn description(why: &Refusal) -> String {
    format!("{}; {}", refusal::problem(why), refusal::remedy(why))
}

fn field_path(rejected: &Rejected) -> String {
    match (rejected.job, refusal::field(&rejected.why)) {
        (Some(job), "") => format!("jobs[{job}]"),
        (Some(job), field) => format!("jobs[{job}].{field}"),
        (None, field) => field.to_owned(),
    }
}

/// The status of a refusal of the core.
pub fn refused(rejected: &Rejected) -> Status {
    let (code, field) = (refusal::code(&rejected.why), field_path(rejected));
    let description = description(&rejected.why);
    let mut details = ErrorDetails::new();
    match code {
        Code::ResourceExhausted => {
            details.add_quota_failure_violation(field, description);
        }
        Code::FailedPrecondition => {
            details.add_precondition_failure_violation("STATE", field, description);
        }
        _ if field.is_empty() => {}
        _ => {
            details.add_bad_request_violation(field, description);
        }
    }
    Status::with_error_details(code, rejected_text(rejected), details)
}

#[cfg(test)]
mod tests;
