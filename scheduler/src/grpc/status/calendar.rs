//! Why a dated quota cannot be set or cancelled, in words.

use dure_core::rejected::CalendarRefusal;
use dure_core::units::Time;
use tonic::Code;

use super::refusal::list;
use crate::grpc::text::moment;

pub(super) fn code(why: &CalendarRefusal) -> Code {
    match why {
        CalendarRefusal::TooManyDatedQuotas { .. } => Code::ResourceExhausted,
        CalendarRefusal::NoDatedQuota { .. } => Code::NotFound,
        CalendarRefusal::DateInThePast { .. } | CalendarRefusal::DatedQuotasOverlap { .. } => Code::FailedPrecondition,
        CalendarRefusal::EndsBeforeItBegins { .. } => Code::InvalidArgument,
    }
}

pub(super) fn field(why: &CalendarRefusal) -> &'static str {
    match why {
        CalendarRefusal::DateInThePast { .. }
        | CalendarRefusal::DatedQuotasOverlap { .. }
        | CalendarRefusal::TooManyDatedQuotas { .. } => "dated_quotas.from_ms",
        CalendarRefusal::EndsBeforeItBegins { .. } => "dated_quotas.until_ms",
        CalendarRefusal::NoDatedQuota { .. } => "from_ms",
    }
}

pub(super) fn problem(why: &CalendarRefusal) -> String {
    match why {
        CalendarRefusal::DateInThePast { from, now } => format!("{} is before now, {}", moment(*from), moment(*now)),
        CalendarRefusal::EndsBeforeItBegins { from, until } => {
            format!("from {} until {}", moment(*from), moment(*until))
        }
        CalendarRefusal::DatedQuotasOverlap { tenant, from, until } => overlap(tenant, *from, *until),
        CalendarRefusal::TooManyDatedQuotas { limit } => {
            format!("the calendar holds {limit} dated quotas, which is the limit")
        }
        CalendarRefusal::NoDatedQuota { tenant, from, known } => no_dated(tenant, *from, known),
    }
}

pub(super) fn remedy(why: &CalendarRefusal) -> &'static str {
    match why {
        CalendarRefusal::DateInThePast { .. } => "name a date to come; for a change from now on leave the dates out",
        CalendarRefusal::EndsBeforeItBegins { .. } => "end it later",
        CalendarRefusal::DatedQuotasOverlap { .. } => "cancel that one first (dure quota cancel), or name other dates",
        CalendarRefusal::TooManyDatedQuotas { .. } => {
            "cancel some (dure quota cancel), or raise max_dated_quotas in [policy] of the scheduler's configuration"
        }
        CalendarRefusal::NoDatedQuota { .. } => "see the dates: dure quota calendar",
    }
}

fn overlap(tenant: &str, from: Time, until: Option<Time>) -> String {
    let until = until.map_or_else(|| "for good".to_owned(), |until| format!("until {}", moment(until)));
    format!("{tenant:?} has another dated quota in this pool then: from {} {until}", moment(from))
}

fn no_dated(tenant: &str, from: Time, known: &[Time]) -> String {
    let known: Vec<Box<str>> = known.iter().map(|time| moment(*time).into()).collect();
    format!("no quota of {tenant:?} begins at {}, there is {}", moment(from), list(&known))
}
