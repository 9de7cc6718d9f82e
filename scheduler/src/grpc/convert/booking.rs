//! A booking of the core -> the wire.

use std::collections::BTreeSet;

use dure_core::Cluster;
use dure_core::booking::{Booking, Purpose, Stage};
use dure_core::ids::JobId;
use dure_core::node::Node;
use dure_core::units::Gpus;
use dure_proto::v1;

/// A booking. Its position is for the caller to fill in.
pub fn booking(cluster: &Cluster, booking: &Booking) -> v1::Booking {
    let nodes = || booking.nodes.iter().map(|node| cluster.node(*node));
    let gpus: Gpus = nodes().map(|node| node.capacity.gpus.count()).sum();
    let running: BTreeSet<JobId> = nodes().flat_map(|node| &node.residents).map(|resident| resident.job).collect();
    let (maintenance, tenant, all_jobs) = match booking.purpose {
        Purpose::Maintenance => (true, String::new(), false),
        Purpose::Jobs { tenant, all } => (false, cluster.tenant(tenant).name.to_string(), all),
    };
    v1::Booking {
        name: booking.name.to_string(),
        nodes: nodes().map(|node| node.name.to_string()).collect(),
        gpus: gpus.rounded_up(),
        from_ms: booking.from.0,
        until_ms: booking.until.map(|until| until.0),
        maintenance,
        tenant,
        all_jobs,
        evicts: booking.evicts,
        clears_ms: booking.clears_at.0,
        made_ms: booking.made_at.0,
        state: state(booking.stage).into(),
        waiting: u32::try_from(cluster.invited_of(booking.id)).unwrap_or(u32::MAX),
        running: u32::try_from(running.len()).unwrap_or(u32::MAX),
        position: None,
    }
}

fn state(stage: Stage) -> v1::BookingState {
    match stage {
        Stage::Ahead => v1::BookingState::Ahead,
        Stage::Cleared => v1::BookingState::Clearing,
        Stage::Begun => v1::BookingState::Begun,
    }
}

/// What keeps a node, now and in time to come, in that order.
pub fn of_node(cluster: &Cluster, node: &Node) -> Vec<v1::NodeBooking> {
    let mut found: Vec<&Booking> = cluster.bookings_of(node.index).collect();
    found.sort_by_key(|booking| booking.from);
    let one = |booking: &Booking| v1::NodeBooking {
        name: booking.name.to_string(),
        from_ms: booking.from.0,
        until_ms: booking.until.map(|until| until.0),
        maintenance: booking.purpose == Purpose::Maintenance,
        begun: booking.stage == Stage::Begun,
    };
    found.into_iter().map(one).collect()
}
