//! Bookings: nodes kept for a period to come, for maintenance, for a tenant, or for the jobs that name the booking.
//!
//! In: which nodes, from when until when, for what. Out: who may start where, so that it is over in time or may stay. While
//! a booking lies ahead or holds, its nodes are in nobody's index; they are shown to one job at a time, as reservations
//! are (`reserve`), if it is over by its limit before the booking begins or may run in it.
//! It must never be in the way of what may run in it, nor cost anything where nothing is booked.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::admit::start::Wish;
use crate::cluster::Cluster;
use crate::ids::{BookingId, JobId, NodeIndex, PoolIndex, PriorityIndex, TenantIndex};
use crate::job::Job;
use crate::news::Versions;
use crate::node::{Booked, Node};
use crate::queue::QueueKey;
use crate::reserve::over_by;
use crate::timers::Timer;
use crate::units::{Gpus, Time};

/// What nodes are booked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// Nobody runs there.
    Maintenance,
    /// Jobs of a tenant and of all below it; the root: of everybody.
    Jobs {
        /// Whose.
        tenant: TenantIndex,
        /// All of them; else only those that name the booking.
        all: bool,
    },
}

/// How far a booking is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// It lies ahead.
    Ahead,
    /// What would run into it has been told to go.
    Cleared,
    /// It holds.
    Begun,
}

/// Nodes for a period.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Booking {
    /// Its id, its own only while it is there.
    pub id: BookingId,
    /// Its name, unique among those that are there.
    pub name: Box<str>,
    /// Which nodes, rising, each once, at least one.
    pub nodes: Box<[NodeIndex]>,
    /// From then on.
    pub from: Time,
    /// Until then; absent: at its begin the nodes are drained, and it is over.
    pub until: Option<Time>,
    /// For what.
    pub purpose: Purpose,
    /// What would run into it is stopped in time; else it runs on to its limit.
    pub evicts: bool,
    /// Then what would run into it is told to go, so that it is gone at its begin.
    pub clears_at: Time,
    /// When it was made: what was placed before may run into it.
    pub made_at: Time,
    /// How far it is.
    pub stage: Stage,
}

impl Booking {
    /// Whether two periods have a moment in common.
    pub(crate) fn meets(&self, from: Time, until: Option<Time>) -> bool {
        self.until.is_none_or(|end| from < end) && until.is_none_or(|until| self.from < until)
    }

    /// Whether it keeps this node.
    pub fn keeps(&self, node: NodeIndex) -> bool {
        self.nodes.binary_search(&node).is_ok()
    }

    /// Whether a job of a tenant that does not name it may run in it.
    fn is_for_all_of(&self, cluster: &Cluster, of: TenantIndex) -> bool {
        match self.purpose {
            Purpose::Maintenance => false,
            Purpose::Jobs { tenant, all } => all && cluster.is_within(of, tenant),
        }
    }

    /// Whether a job of `of` that names `named` may run in it.
    pub(crate) fn is_open_to(&self, cluster: &Cluster, of: TenantIndex, named: Option<BookingId>) -> bool {
        named == Some(self.id) || self.is_for_all_of(cluster, of)
    }

    /// Whether a job may run in it.
    pub fn is_for(&self, cluster: &Cluster, job: &Job) -> bool {
        self.is_open_to(cluster, job.spec.tenant, job.spec.booking)
    }

    /// When it has its next step to take.
    pub(crate) fn timer(&self) -> Option<(Time, Timer)> {
        match self.stage {
            Stage::Ahead => Some((self.clears_at, Timer::BookingClear(self.id))),
            Stage::Cleared => Some((self.from, Timer::BookingBegin(self.id))),
            Stage::Begun => Some((self.until?, Timer::BookingEnd(self.id))),
        }
    }
}

/// The place of a queued job among those that name a booking: a higher class first, then as in the queue.
pub(crate) type InvitedKey = (std::cmp::Reverse<PriorityIndex>, QueueKey);

/// All bookings that are not over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bookings {
    list: BTreeMap<BookingId, Booking>,
    // What follows is derived.
    on_node: BTreeMap<NodeIndex, SmallVec<[BookingId; 1]>>,
    /// The state in which those that may start in theirs were last tried.
    pub(crate) seen: Option<Versions>,
    /// Queued jobs that name a booking.
    invited: BTreeMap<BookingId, BTreeSet<InvitedKey>>,
}

impl Bookings {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, id: BookingId) -> Option<&Booking> {
        self.list.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Booking> {
        self.list.values()
    }

    /// The id of the next one.
    pub(crate) fn next_id(&self) -> BookingId {
        BookingId(self.list.keys().next_back().map_or(1, |last| last.0 + 1))
    }

    /// The nodes that any keeps, now or in time to come, rising.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeIndex> {
        self.on_node.keys().copied()
    }

    /// Those that keep a node.
    pub(crate) fn on(&self, node: NodeIndex) -> impl Iterator<Item = &Booking> {
        self.on_node.get(&node).into_iter().flatten().filter_map(|id| self.list.get(id))
    }

    pub(crate) fn insert(&mut self, booking: Booking) {
        for node in &booking.nodes {
            self.on_node.entry(*node).or_default().push(booking.id);
        }
        self.list.insert(booking.id, booking);
    }

    pub(crate) fn remove(&mut self, id: BookingId) -> Option<Booking> {
        let booking = self.list.remove(&id)?;
        for node in &booking.nodes {
            let Some(on_node) = self.on_node.get_mut(node) else { continue };
            on_node.retain(|other| *other != id);
            if on_node.is_empty() {
                self.on_node.remove(node);
            }
        }
        Some(booking)
    }

    pub(crate) fn set_stage(&mut self, id: BookingId, stage: Stage) {
        if let Some(booking) = self.list.get_mut(&id) {
            booking.stage = stage;
        }
    }

    /// What the node says of itself.
    pub(crate) fn state_of(&self, node: NodeIndex) -> Booked {
        let is_maintained =
            |booking: &Booking| booking.purpose == Purpose::Maintenance && booking.stage == Stage::Begun;
        Booked { kept: self.on_node.contains_key(&node), maintained: self.on(node).any(is_maintained) }
    }

    /// A job that names a booking came into its queue, or left it.
    pub(crate) fn note_invited(&mut self, id: BookingId, key: InvitedKey, is_queued: bool) {
        let invited = self.invited.entry(id).or_default();
        if is_queued {
            invited.insert(key);
        } else {
            invited.remove(&key);
            if invited.is_empty() {
                self.invited.remove(&id);
            }
        }
    }

    /// The queued jobs that name a booking which holds, in their order.
    pub(crate) fn invited(&self) -> impl Iterator<Item = JobId> {
        let begun = self.invited.iter().filter(|(id, _)| self.get(**id).is_some_and(|of| of.stage == Stage::Begun));
        begun.flat_map(|(_, invited)| invited).map(|(_, key)| key.job)
    }
}

impl Cluster {
    /// All bookings that are not over, by id.
    pub fn bookings(&self) -> impl Iterator<Item = &Booking> {
        self.bookings.iter()
    }

    /// A booking that is not over.
    pub fn booking(&self, id: BookingId) -> Option<&Booking> {
        self.bookings.get(id)
    }

    /// The booking with this name.
    pub fn find_booking(&self, name: &str) -> Option<&Booking> {
        self.bookings.iter().find(|booking| &*booking.name == name)
    }

    /// Queued jobs that name a booking.
    pub fn invited_of(&self, id: BookingId) -> usize {
        self.bookings.invited.get(&id).map_or(0, BTreeSet::len)
    }

    /// Those that keep a node, now or in time to come.
    pub fn bookings_of(&self, node: NodeIndex) -> impl Iterator<Item = &Booking> {
        self.bookings.on(node)
    }

    /// Whether what starts at `at` may lie on a node, as far as bookings go: it is over by its limit before each of them
    /// begins, or may run in it; and who names one lies in it.
    pub(crate) fn admits(&self, node: NodeIndex, wish: &Wish<'_>, at: Time) -> bool {
        if self.bookings.is_empty() {
            return true;
        }
        let until = over_by(&self.policy, wish.time_limit, wish.grace, at);
        let is_invited = |booking: &Booking| wish.booking == Some(booking.id);
        let admits = |booking: &Booking| {
            if is_invited(booking) {
                booking.stage == Stage::Begun
            } else {
                !booking.meets(at, Some(until)) || booking.is_for_all_of(self, wish.tenant)
            }
        };
        let is_inside = wish.booking.is_none() || self.bookings.on(node).any(is_invited);
        is_inside && self.bookings.on(node).all(admits)
    }

    /// The bookings that keep idle GPUs of a pool from a start at `at`, each with how many, in the order of their begin.
    pub(crate) fn booked_from(&self, wish: &Wish<'_>, pool: PoolIndex, at: Time) -> Vec<(&Booking, Gpus)> {
        let until = over_by(&self.policy, wish.time_limit, wish.grace, at);
        let is_in_way =
            |booking: &&Booking| booking.meets(at, Some(until)) && !booking.is_for_all_of(self, wish.tenant);
        let idle = |booking: &Booking| -> Gpus {
            let nodes = booking.nodes.iter().map(|node| self.node(*node));
            nodes.filter(|node| node.pool == pool).map(|node| node.free().count()).sum()
        };
        let mut found: Vec<_> = self.bookings.iter().filter(is_in_way).map(|of| (of, idle(of))).collect();
        found.retain(|(_, idle)| *idle > Gpus::ZERO);
        found.sort_unstable_by_key(|(booking, _)| (booking.from, booking.id));
        found
    }

    /// Whether a job waits for the booking that it names, and is tried in it alone.
    pub(crate) fn is_invited(&self, job: JobId) -> bool {
        self.job(job).is_some_and(|job| job.spec.booking.is_some())
    }

    /// What bookings make of these nodes is worked out anew.
    pub(crate) fn rebook(&mut self, nodes: &[NodeIndex]) {
        for node in nodes {
            let booked = self.bookings.state_of(*node);
            let entry: &mut Node = &mut self.nodes[node.at()];
            if std::mem::replace(&mut entry.booked, booked) != booked {
                self.node_changed(*node);
            }
        }
    }
}
