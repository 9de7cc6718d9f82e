//! The whole state as events: applied to an empty cluster they build the same state again.
//!
//! A snapshot has no format of its own, so that whatever can read the journal can read it.

use std::hash::{Hash, Hasher};

use crate::cluster::Cluster;
use crate::event::{Event, TenantChange};
use crate::ids::{PoolIndex, UserIndex};
use crate::node::{Booked, Node, SetAside};
use crate::tenant::{Quota, UserLedger};
use crate::units::Time;

impl Cluster {
    /// Events that build this state from nothing, in order. Lazily: a large cluster is never copied whole.
    pub fn snapshot(&self) -> impl Iterator<Item = Event> {
        self.snapshot_division().chain(self.snapshot_work()).chain(self.snapshot_ledgers())
    }

    /// A digest of all durable state: equal for equal states, on every machine and build.
    pub fn digest(&self) -> u64 {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        for event in self.snapshot() {
            event.hash(&mut hasher);
        }
        hasher.finish()
    }

    fn snapshot_division(&self) -> impl Iterator<Item = Event> {
        let pools = self.pools.iter().enumerate().map(|(at, pool)| Event::PoolDefined {
            pool: PoolIndex::of(at),
            name: pool.name.clone(),
            model: pool.model.clone(),
            gpus_per_node: pool.gpus_per_node,
        });
        let users = self
            .users
            .iter()
            .enumerate()
            .map(|(at, name)| Event::UserSeen { user: UserIndex::of(at), name: name.clone() });
        let tenants = self.tenants.iter().flat_map(|tenant| {
            let defined = tenant.parent.map(|parent| Event::TenantDefined {
                tenant: tenant.index,
                parent,
                name: tenant.name.clone(),
            });
            let quotas = tenant.quotas.iter().enumerate().map(|(at, quota)| (PoolIndex::of(at), *quota));
            let change = TenantChange {
                weight: Some(tenant.weight),
                default_time_limit: tenant.default_time_limit,
                min_run: tenant.min_run,
                caps: (!tenant.caps.is_empty()).then_some(tenant.caps),
                budget: tenant.budget.map(|budget| Some(budget.grant)),
                reclaim_within: tenant.reclaim_within,
                idle: tenant.idle,
                quotas: quotas.filter(|(_, quota)| *quota != Quota::default()).collect(),
                forecast: None,
            };
            let changed = Event::TenantChanged { tenant: tenant.index, change };
            let paused = tenant.paused.then_some(Event::Paused { tenant: tenant.index, paused: true });
            defined.into_iter().chain([changed]).chain(paused)
        });
        let dated = self.calendar().map(|dated| Event::QuotaDated { dated: *dated });
        pools.chain(users).chain(tenants).chain(dated)
    }

    fn snapshot_work(&self) -> impl Iterator<Item = Event> {
        // What is promised follows from the promises.
        let bare = |node: &Node| Node {
            promised: SetAside::default(),
            reserved: SetAside::default(),
            booked: Booked::default(),
            ..node.clone()
        };
        let nodes = self.nodes.iter().map(move |node| Event::NodeRestored { node: Box::new(bare(node)) });
        let booked = self.bookings.iter().map(|booking| Event::BookingMade { booking: Box::new(booking.clone()) });
        // Ended jobs in the order of their ends, then the rest by id. What a job waits for is older and not ended.
        let restored = |job: &crate::job::Job| {
            let mut job = job.clone();
            // The class is an index into derived state; the place in the queue follows from the rest.
            job.queued = None;
            Event::JobRestored { job: Box::new(job) }
        };
        let ended = self.ended.iter().filter_map(move |id| Some(restored(self.job(*id)?)));
        let is_ended = |job: &&crate::job::Job| matches!(job.phase, crate::job::Phase::Ended(_));
        let live = self.jobs.iter().filter(move |job| !is_ended(job)).map(restored);
        let promises = self.promises();
        let promises =
            promises.map(|(job, promise)| Event::PromiseRestored { job, promise: Box::new(promise.clone()) });
        let reservations = self.reservations();
        let planned = (!reservations.is_empty()).then(|| Event::Planned { reservations: reservations.to_vec() });
        let wanted: Vec<_> = self.wanted_back().collect();
        let wanted = (!wanted.is_empty()).then(|| Event::WantedBack { begun: wanted, over: Vec::new() });
        let kinds: Vec<_> = self.index.workload.remembered().collect();
        let learned =
            (self.jobs.iter().next().is_some() || !kinds.is_empty()).then(|| Event::WorkloadRestored { kinds });
        let counted = (self.counted_from > Time(0)).then_some(Event::CountedAnew { since: self.counted_from });
        counted
            .into_iter()
            .chain(nodes)
            .chain(booked)
            .chain(ended)
            .chain(live)
            .chain(learned)
            .chain(promises)
            .chain(planned)
            .chain(wanted)
    }

    fn snapshot_ledgers(&self) -> impl Iterator<Item = Event> {
        let (next_job, next_start, skipped_attempts) = (self.next_job, self.next_start, self.skipped_attempts);
        let counters = Event::CountersRestored { next_job, next_start, skipped_attempts };
        let tenants = self.tenants.iter().flat_map(|tenant| {
            let (total, excess, budget) = (tenant.total, tenant.excess, tenant.budget);
            let own = Event::TenantRestored { tenant: tenant.index, total, excess, budget };
            let users = tenant.users.iter().map(|(user, ledger)| Event::UserRestored {
                tenant: tenant.index,
                user: *user,
                ledger: UserLedger { running: 0, submitted: 0, ..ledger.clone() },
            });
            std::iter::once(own).chain(users)
        });
        let requests = self.request_order.iter().filter_map(|key| {
            let answer = self.requests.get(key)?;
            let (user, id) = key.clone();
            Some(Event::RequestAnswered { user, id, digest: answer.digest, reply: answer.reply })
        });
        std::iter::once(counters).chain(tenants).chain(requests)
    }
}

/// FNV-1a, because the standard hashers promise no stable result.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
