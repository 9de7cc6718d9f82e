//! Why nodes cannot be booked so, in words: as `refusal`.

use dure_core::rejected::BookingRefusal;
use dure_core::units::Time;
use tonic::Code;

use super::refusal::list;
use crate::grpc::text::{gpus, moment};

pub(super) fn code(why: &BookingRefusal) -> Code {
    match why {
        BookingRefusal::TooMany { .. } => Code::ResourceExhausted,
        BookingRefusal::NameTaken { .. } => Code::AlreadyExists,
        BookingRefusal::Unknown { .. } => Code::NotFound,
        BookingRefusal::InThePast { .. }
        | BookingRefusal::TooFarAhead { .. }
        | BookingRefusal::NodeBooked { .. }
        | BookingRefusal::TooFewNodes { .. }
        | BookingRefusal::InTheWay { .. }
        | BookingRefusal::OverQuota { .. }
        | BookingRefusal::ForNobody { .. }
        | BookingRefusal::ForOthers { .. }
        | BookingRefusal::TooSmall { .. } => Code::FailedPrecondition,
        BookingRefusal::BadName { .. }
        | BookingRefusal::EndsBeforeItBegins { .. }
        | BookingRefusal::WithoutEnd
        | BookingRefusal::WithoutNodes
        | BookingRefusal::NamedAndCounted
        | BookingRefusal::MaintenanceForJobs
        | BookingRefusal::ForAll
        | BookingRefusal::ForNoMission => Code::InvalidArgument,
    }
}

pub(super) fn field(why: &BookingRefusal) -> &'static str {
    match why {
        BookingRefusal::TooMany { .. } | BookingRefusal::BadName { .. } | BookingRefusal::NameTaken { .. } => "name",
        BookingRefusal::InThePast { .. } | BookingRefusal::TooFarAhead { .. } => "from_ms",
        BookingRefusal::EndsBeforeItBegins { .. } | BookingRefusal::WithoutEnd => "until_ms",
        BookingRefusal::WithoutNodes
        | BookingRefusal::NamedAndCounted
        | BookingRefusal::NodeBooked { .. }
        | BookingRefusal::InTheWay { .. } => "nodes",
        BookingRefusal::TooFewNodes { .. } | BookingRefusal::OverQuota { .. } => "count",
        BookingRefusal::MaintenanceForJobs => "maintenance",
        BookingRefusal::ForAll | BookingRefusal::ForNoMission => "tenant",
        BookingRefusal::Unknown { .. }
        | BookingRefusal::ForNobody { .. }
        | BookingRefusal::ForOthers { .. }
        | BookingRefusal::TooSmall { .. } => "booking",
    }
}

pub(super) fn problem(why: &BookingRefusal) -> String {
    match why {
        BookingRefusal::TooMany { limit } => format!("there are {limit} reservations, which is the limit"),
        BookingRefusal::BadName { name } => {
            format!("{name:?} is no name for a reservation: 1 to 128 letters, digits, dots, dashes and underscores are")
        }
        BookingRefusal::NameTaken { name, from } => format!("{name:?} is there already, from {}", moment(*from)),
        BookingRefusal::Unknown { name, known } => {
            format!("there is no reservation {name:?}, there is {}", list(known))
        }
        BookingRefusal::InThePast { from, now } => format!("{} is before now, {}", moment(*from), moment(*now)),
        BookingRefusal::TooFarAhead { from, latest } => {
            format!("{} is too far ahead, the latest is {}", moment(*from), moment(*latest))
        }
        BookingRefusal::EndsBeforeItBegins { from, until } => {
            format!("from {} until {}", moment(*from), moment(*until))
        }
        BookingRefusal::WithoutEnd => "nodes without an end are for maintenance only".to_owned(),
        BookingRefusal::WithoutNodes => "neither nodes nor their number".to_owned(),
        BookingRefusal::NamedAndCounted => "nodes, and their number as well".to_owned(),
        BookingRefusal::MaintenanceForJobs => "maintenance, and a tenant or its jobs as well".to_owned(),
        BookingRefusal::ForAll => "all jobs of everybody".to_owned(),
        BookingRefusal::ForNoMission => "none; you may book for your own missions only".to_owned(),
        BookingRefusal::NodeBooked { node, booking, from, until } => {
            format!("node {node:?} is kept by reservation {booking:?} {}", period(*from, *until))
        }
        BookingRefusal::TooFewNodes { pool, want, all, have } => {
            format!("{want} nodes of pool {pool:?}, which has {all}; {have} of them could be kept then")
        }
        BookingRefusal::InTheWay { node, job, until, fixed } => {
            let by = moment(*until);
            let why = if *fixed { "must not be evicted" } else { "lies inside the quota of another mission" };
            format!("job {job} on node {node:?} runs until {by} by its limit, and {why}")
        }
        BookingRefusal::OverQuota { tenant, want, booked, quota, at } => {
            let when = moment(*at);
            format!(
                "{} beside {booked} that are kept already for {tenant:?} at {when}, its quota is {quota}",
                gpus(*want)
            )
        }
        BookingRefusal::ForNobody { name } => format!("reservation {name:?} is maintenance: nobody runs there"),
        BookingRefusal::ForOthers { name, tenant } => format!("reservation {name:?} is for jobs of {tenant:?}"),
        BookingRefusal::TooSmall { name, nodes } => {
            format!("the {nodes} nodes of reservation {name:?} could not hold the gang though they were empty")
        }
    }
}

fn period(from: Time, until: Option<Time>) -> String {
    until.map_or_else(
        || format!("from {} on", moment(from)),
        |until| format!("from {} until {}", moment(from), moment(until)),
    )
}

pub(super) fn remedy(why: &BookingRefusal) -> &'static str {
    match why {
        BookingRefusal::TooMany { .. } => {
            "cancel some (dure reservation cancel), or raise max_bookings in [policy] of the scheduler's configuration"
        }
        BookingRefusal::BadName { .. } => "use such a name",
        BookingRefusal::NameTaken { .. } => "use another name, or cancel that one first: dure reservation cancel",
        BookingRefusal::Unknown { .. } => "see them: dure reservation",
        BookingRefusal::InThePast { .. } => "name a time to come",
        BookingRefusal::TooFarAhead { .. } => {
            "name an earlier one, or raise max_booking_ahead in [policy] of the scheduler's configuration"
        }
        BookingRefusal::EndsBeforeItBegins { .. } => "end it later",
        BookingRefusal::WithoutEnd => "say when it ends: --until",
        BookingRefusal::WithoutNodes => "name them (--nodes), or say how many: --count and --pool",
        BookingRefusal::NamedAndCounted => "say the one or the other",
        BookingRefusal::MaintenanceForJobs => "leave the tenant out, or the maintenance",
        BookingRefusal::ForAll => "name the tenant: --tenant",
        BookingRefusal::ForNoMission => "name the mission: --tenant",
        BookingRefusal::NodeBooked { .. } => {
            "name other nodes or times, or cancel that one first: dure reservation cancel"
        }
        BookingRefusal::TooFewNodes { .. } => "ask for fewer, or for another time: dure nodes shows what keeps them",
        BookingRefusal::InTheWay { .. } => "begin after its end or name other nodes; an operator may --force it",
        BookingRefusal::OverQuota { .. } => "ask for fewer nodes, or have an operator book them or raise the quota",
        BookingRefusal::ForNobody { .. } | BookingRefusal::ForOthers { .. } => "leave it out, or name another",
        BookingRefusal::TooSmall { .. } => "ask for less, or leave the reservation out",
    }
}
