//! Who called: what a batch says, beside its events, of the calls that led to them.

use dure_proto::journal::v1;

/// Texts of a call are cut at this many bytes: they come from outside.
const MAX_TEXT: usize = 512;

/// A call that changed something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallRecord {
    /// Who.
    pub user: Box<str>,
    /// In which role.
    pub role: Box<str>,
    /// From which address.
    pub origin: Box<str>,
    /// What was called, as `Jobs/Cancel`.
    pub method: Box<str>,
    /// Path of the tenant that it was about; empty for the cluster.
    pub tenant: Box<str>,
    /// The job, or the first of those, that it was about; 0 for none.
    pub job: u64,
    /// The rest, in words.
    pub what: Box<str>,
    /// Why, in the caller's own words.
    pub reason: Box<str>,
    /// Events that it led to, before the cycle that followed.
    pub events: u32,
}

pub(super) fn to_wire(call: &CallRecord) -> v1::Call {
    v1::Call {
        user: cut(&call.user),
        role: cut(&call.role),
        origin: cut(&call.origin),
        method: cut(&call.method),
        tenant: cut(&call.tenant),
        job_id: call.job,
        what: cut(&call.what),
        reason: cut(&call.reason),
        events: call.events,
    }
}

pub(super) fn from_wire(call: v1::Call) -> CallRecord {
    CallRecord {
        user: call.user.into(),
        role: call.role.into(),
        origin: call.origin.into(),
        method: call.method.into(),
        tenant: call.tenant.into(),
        job: call.job_id,
        what: call.what.into(),
        reason: call.reason.into(),
        events: call.events,
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}
