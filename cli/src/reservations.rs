//! `dure reservation`: nodes that are kept for a period to come. In the API they are bookings.

use clap::{Args, Subcommand};
use dure_proto::v1::{self, Booking, BookingState, CancelBookingRequest, CreateBookingRequest, ListBookingsRequest};

use crate::{context::Context, draft::constraints, failure::Failure, show::Out, submit, when};

/// Dates are whole seconds, so that what a table shows can be typed.
const SECOND_MS: u64 = 1_000;

/// What to do with reservations.
#[derive(Debug, Subcommand)]
pub(crate) enum ReservationCommand {
    /// List them, with the nodes that they keep
    #[command(visible_alias = "show")]
    List,
    Create(Box<CreateArgs>),
    /// Take one back; jobs that named it wait, or run on, like any other
    Cancel {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Why, for the record
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// Keep nodes for a period to come
///
/// Until it begins only what is over by then starts on its nodes; what already runs into it is stopped in time, with its
/// grace, and queued again. With --maintenance nobody runs there; else the jobs that name it (dure submit --reservation),
/// and with --every-job all jobs of --tenant.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// From then on: now+2h, 16:30, 2026-12-01T08:00
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    from: u64,
    /// Until then; for maintenance it may be left out: then the nodes are drained
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    until: Option<u64>,
    /// These nodes: n[1-4],n7
    #[arg(long, value_name = "NODES", value_parser = nodes, conflicts_with = "count")]
    nodes: Option<Nodes>,
    /// So many nodes of a pool, those on which least is lost
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// The pool of those [default: the first one]
    #[arg(long, default_value = "", hide_default_value = true, requires = "count")]
    pool: String,
    /// Nobody runs there
    #[arg(long, conflicts_with_all = ["tenant", "every_job"])]
    maintenance: bool,
    /// Whose jobs run there [default: everybody's]
    #[arg(short = 'A', long, visible_alias = "account", default_value = "", hide_default_value = true)]
    tenant: String,
    /// All jobs of --tenant, not only those that name it
    #[arg(long, requires = "tenant")]
    every_job: bool,
    /// What runs into it runs on to its limit
    #[arg(long, conflicts_with = "force")]
    keep_running: bool,
    /// Also stop jobs that must not be evicted
    #[arg(long)]
    force: bool,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Clone, Debug)]
struct Nodes(Vec<String>);

fn nodes(text: &str) -> Result<Nodes, String> {
    constraints::nodes(text).map(Nodes)
}

impl CreateArgs {
    fn request(self) -> Result<CreateBookingRequest, Failure> {
        let whole = |ms: u64| ms.div_ceil(SECOND_MS) * SECOND_MS;
        Ok(CreateBookingRequest {
            request_id: submit::request_id()?,
            name: self.name,
            // One that is to begin now begins in the next second.
            from_ms: whole(self.from.max(when::now_ms() + SECOND_MS)),
            until_ms: self.until.map(whole),
            nodes: self.nodes.map(|list| list.0).unwrap_or_default(),
            count: self.count.unwrap_or_default(),
            pool: self.pool,
            maintenance: self.maintenance,
            tenant: self.tenant,
            all_jobs: self.every_job,
            spare_running: self.keep_running,
            force: self.force,
            reason: self.reason,
        })
    }
}

/// `dure reservation [list | create | cancel]`.
pub(crate) async fn run(command: Option<ReservationCommand>, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.bookings().await?;
    let refused = |status| context.refused(status);
    match command.unwrap_or(ReservationCommand::List) {
        ReservationCommand::List => {
            let all = client.list(ListBookingsRequest {}).await.map_err(refused)?.into_inner();
            out.answer("ListBookingsResponse", &all, || table(&all.bookings, out))
        }
        ReservationCommand::Create(args) => {
            let booking = client.create(args.request()?).await.map_err(refused)?.into_inner();
            out.answer("Booking", &booking, || table(std::slice::from_ref(&booking), out))
        }
        ReservationCommand::Cancel { name, reason } => {
            let request = CancelBookingRequest { request_id: submit::request_id()?, name, reason };
            let booking = client.cancel(request).await.map_err(refused)?.into_inner();
            out.answer("Booking", &booking, || format!("reservation {} is cancelled", booking.name))
        }
    }
}

fn table(bookings: &[Booking], out: Out) -> String {
    if bookings.is_empty() {
        return "no reservations: dure reservation create".to_owned();
    }
    let mut rows = out.table(&["name", "state", "from", "until", "for", "gpus>", "waiting>", "running>", "nodes"]);
    for booking in bookings {
        rows.row([
            booking.name.clone(),
            state(booking.state()).to_owned(),
            when::shown(booking.from_ms),
            booking.until_ms.map_or_else(|| "then drained".to_owned(), when::shown),
            purpose(booking),
            booking.gpus.to_string(),
            booking.waiting.to_string(),
            booking.running.to_string(),
            booking.nodes.join(","),
        ]);
    }
    rows.text()
}

fn state(state: BookingState) -> &'static str {
    match state {
        BookingState::Unspecified => "unknown",
        BookingState::Ahead => "to come",
        BookingState::Clearing => "clearing",
        BookingState::Begun => "active",
        BookingState::Cancelled => "cancelled",
    }
}

fn purpose(booking: &Booking) -> String {
    match (booking.maintenance, &*booking.tenant, booking.all_jobs) {
        (true, ..) => "maintenance".to_owned(),
        (false, "", _) => "who names it".to_owned(),
        (false, tenant, false) => format!("{tenant}, by name"),
        (false, tenant, true) => format!("all of {tenant}"),
    }
}

/// What keeps a node, as a line for each.
pub(crate) fn of_node(bookings: &[v1::NodeBooking]) -> String {
    let line = |booking: &v1::NodeBooking| {
        let end =
            booking.until_ms.map_or_else(|| ", then drained".to_owned(), |ms| format!(" until {}", when::shown(ms)));
        let what = if booking.maintenance { ", maintenance" } else { "" };
        format!("reserved:   {} from {}{end}{what}\n", booking.name, when::shown(booking.from_ms))
    };
    bookings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_list_of_reservations() {
        let campaign = Booking {
            name: "race".into(),
            nodes: vec!["n0".into(), "n1".into()],
            gpus: 16,
            from_ms: 1_800_000_000_000,
            until_ms: Some(1_800_003_600_000),
            tenant: "fusion".into(),
            state: BookingState::Begun.into(),
            waiting: 3,
            running: 2,
            ..Booking::default()
        };
        let drain = Booking {
            name: "drain-n7".into(),
            nodes: vec!["n7".into()],
            gpus: 8,
            maintenance: true,
            until_ms: None,
            state: BookingState::Ahead.into(),
            ..Booking::default()
        };
        let all = Booking { all_jobs: true, name: "all".into(), ..campaign.clone() };
        let text = table(&[campaign, drain, all], Out::plain());
        let without_times: Vec<String> = text
            .lines()
            .map(|line| {
                line.split_whitespace()
                    .filter(|word| !word.contains(':') && !word.starts_with("2027"))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        expect![[r#"
            NAME STATE FROM UNTIL FOR GPUS WAITING RUNNING NODES
            race active fusion, by name 16 3 2 n0,n1
            drain-n7 to come - then drained maintenance 8 0 0 n7
            all active all of fusion 16 3 2 n0,n1"#]]
        .assert_eq(&without_times.join("\n"));
    }
}
