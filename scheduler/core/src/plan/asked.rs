//! What planning sees of a job that asks for room, and the index that it is tried on.
//!
//! A plan may be sought for a job as it is, or for one that is only thought of (what if it asked for less?).

use std::sync::Arc;

use smallvec::SmallVec;

use crate::admit::lending::Start;
use crate::admit::start::Wish;
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{BookingId, JobId, NodeIndex, PoolIndex, PriorityIndex, TenantIndex, UserIndex};
use crate::job::Job;
use crate::place::{PlaceIndex, Scratch};
use crate::placement::Members;
use crate::request::Request;
use crate::units::{Gpus, Span, Time};

/// A job that asks for room, real or only thought of.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Which job, or in whose place.
    pub(crate) job: JobId,
    pub(crate) tenant: TenantIndex,
    pub(crate) priority: PriorityIndex,
    pub(crate) user: UserIndex,
    pub(crate) preemptible: bool,
    pub(crate) time_limit: Span,
    pub(crate) time_min: Option<Span>,
    pub(crate) grace: Span,
    pub(crate) booking: Option<BookingId>,
    pub(crate) request: Arc<Request>,
    pub(crate) avoid: SmallVec<[NodeIndex; 2]>,
    /// Before then no plan to take back is sought for it: none paid.
    pub(crate) rests_until: Option<Time>,
    /// By these times lent GPUs are back for it; before, they are taken back only where that pays.
    pub(crate) deadlines: SmallVec<[(PoolIndex, Time); 1]>,
    /// By then the plan in time has room for it, though nobody is evicted.
    pub(crate) room_by: Option<(PoolIndex, Time)>,
    /// Whether it is worked out what lies in the way where there is no plan.
    pub(crate) tells: bool,
}

impl Asked {
    /// The job as it is.
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            job: job.id,
            tenant: job.spec.tenant,
            priority: job.spec.priority,
            user: job.spec.user,
            preemptible: job.spec.preemptible,
            time_limit: job.spec.time_limit,
            time_min: job.spec.time_min,
            grace: job.spec.grace,
            booking: job.spec.booking,
            request: job.spec.request.clone(),
            avoid: job.avoid.clone(),
            rests_until: None,
            deadlines: SmallVec::new(),
            room_by: None,
            tells: true,
        }
    }

    /// By when lent GPUs are back for it in a pool.
    pub(crate) fn deadline(&self, pool: PoolIndex) -> Option<Time> {
        self.deadlines.iter().find(|(of, _)| *of == pool).map(|(_, time)| *time)
    }

    /// By when it has room in a pool though nobody is evicted, where that is known.
    pub(crate) fn room_by(&self, pool: PoolIndex) -> Option<Time> {
        self.room_by.filter(|(of, _)| *of == pool).map(|(_, time)| time)
    }

    /// As the gates see it.
    pub(crate) fn wish(&self) -> Wish<'_> {
        let Self { job, tenant, user, preemptible, time_limit, grace, booking, .. } = *self;
        Wish { job, at: None, tenant, user, preemptible, time_limit, grace, booking, request: &self.request }
    }

    /// As a start that is thought of.
    pub(crate) fn start(&self, scavenger: bool) -> Start {
        self.wish().start(self.gpus(), scavenger)
    }

    /// The GPUs without which it does not start.
    pub(crate) fn gpus(&self) -> Gpus {
        self.request.least_gpus()
    }
}

/// An index on which plans are tried: the cluster's own (every trial is rolled back) or a copy.
#[derive(Debug)]
pub(crate) struct TrialIndex<'i> {
    pub(crate) index: &'i mut PlaceIndex,
    pub(crate) scratch: &'i mut Scratch,
}

impl TrialIndex<'_> {
    /// A place among what is free in `pool`, whatever admission says.
    ///
    /// # Errors
    /// As `PlaceIndex::place`.
    pub(crate) fn place(&mut self, cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> Result<Members, Blocked> {
        self.index.place(&asked.request, pool, &asked.avoid, cluster.policy.search_steps, self.scratch)
    }
}
