//! What always holds, one property per file.
//!
//! In: a cluster between two inputs. Out: nothing, or which property is broken and where. Every property is recounted from
//! the definitions, without the code that keeps it. Property tests, the simulator and debug builds share these checks;
//! they cost O(everything) and never change the state.

mod accounting;
mod arrays;
mod bookings;
mod borrowed_rule;
mod budgets;
mod calendar;
mod classes_counted;
mod dependencies;
mod ended_list;
mod evictions;
mod gang_whole;
mod gpus_held_once;
mod held_counted;
mod idle_counted;
mod lending_rule;
mod limits;
mod no_reservation_delayed_by_backfill;
mod phases;
mod promises;
mod queue_places;
mod reservations;
pub mod skip_is_sound;
mod spares;
mod started_within;
mod timers_live;
pub mod whole_domains;

use crate::cluster::Cluster;
use crate::cycle::Cycled;
use crate::event::Event;

/// The result of one check: what is wrong, in words.
pub type Check = Result<(), String>;

/// A property of a state by its name.
type Property = (&'static str, fn(&Cluster) -> Check);

/// Every property of a state.
const ALL: [Property; 22] = [
    ("gpus_held_once", gpus_held_once::check),
    ("promises", promises::check),
    ("spares", spares::check),
    ("whole_domains", whole_domains::check),
    ("reservations", reservations::check),
    ("bookings", bookings::check),
    ("gang_whole", gang_whole::check),
    ("phases", phases::check),
    ("limits", limits::check),
    ("held_counted", held_counted::check),
    ("borrowed_rule", borrowed_rule::check),
    ("idle_counted", idle_counted::check),
    ("queue_places", queue_places::check),
    ("classes_counted", classes_counted::check),
    ("timers_live", timers_live::check),
    ("dependencies", dependencies::check),
    ("accounting", accounting::check),
    ("budgets", budgets::check),
    ("calendar", calendar::check),
    ("ended_list", ended_list::check),
    ("arrays", arrays::check),
    ("skip_is_sound", skip_is_sound::check),
];

/// Checks every property of the state.
///
/// # Errors
/// The first that is broken: its name, and what is wrong.
///
/// # Panics
/// When the placement index is wrong: its own check says which node or domain.
pub fn check_all(cluster: &Cluster) -> Check {
    ALL.iter().try_for_each(|(name, check)| check(cluster).map_err(|why| format!("{name}: {why}")))
}

/// Checks what a cycle has done, right after it: `events` are those that it made.
///
/// # Errors
/// The first property that is broken: its name, and what is wrong.
pub fn check_cycle(cluster: &Cluster, cycled: Cycled, events: &[Event]) -> Check {
    started_within::check(cluster, events).map_err(|why| format!("started_within: {why}"))?;
    lending_rule::check(cluster, events).map_err(|why| format!("lending_rule: {why}"))?;
    no_reservation_delayed_by_backfill::check(cluster, events)
        .map_err(|why| format!("no_reservation_delayed_by_backfill: {why}"))?;
    evictions::check(cluster, events).map_err(|why| format!("evictions: {why}"))?;
    skip_is_sound::check_cycle(cluster, cycled).map_err(|why| format!("skip_is_sound: {why}"))
}

/// `Ok` when `holds`; else what is wrong.
fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(wrong()) }
}
