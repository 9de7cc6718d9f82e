//! What planning sees of a job that asks for room, and the index that it is tried on.
//!
//! A plan may be sought for a job as it is, or for one that is only thought of (what if it asked for less?).

use std::sync::Arc;

use smallvec::SmallVec;

use crate::admit::lending::Start;
use crate::admit::start::Wish;
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{JobId, NodeIndex, PoolIndex, PriorityIndex, TenantIndex, UserIndex};
use crate::job::Job;
use crate::place::{PlaceIndex, Scratch};
use crate::placement::Members;
use crate::request::Request;
use crate::units::{Gpus, Span, Time};

/// A job that asks for room, real or only thought of.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) tenant: TenantIndex,
    pub(crate) priority: PriorityIndex,
    pub(crate) user: UserIndex,
    pub(crate) preemptible: bool,
    pub(crate) time_limit: Span,
    pub(crate) grace: Span,
    pub(crate) request: Arc<Request>,
    pub(crate) avoid: SmallVec<[NodeIndex; 2]>,
    /// Before these times nothing is taken back for it from others; it may end by itself.
    pub(crate) patience: SmallVec<[(PoolIndex, Time); 1]>,
    /// Before these times GPUs are taken back for it from others only where that pays.
    pub(crate) deadlines: SmallVec<[(PoolIndex, Time); 1]>,
    /// Whether it is worked out what lies in the way where there is no plan.
    pub(crate) tells: bool,
}

impl Asked {
    /// The job as it is.
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            tenant: job.spec.tenant,
            priority: job.spec.priority,
            user: job.spec.user,
            preemptible: job.spec.preemptible,
            time_limit: job.spec.time_limit,
            grace: job.spec.grace,
            request: job.spec.request.clone(),
            avoid: job.avoid.clone(),
            patience: SmallVec::new(),
            deadlines: SmallVec::new(),
            tells: true,
        }
    }

    /// Until when nothing is taken back for it in a pool.
    pub(crate) fn waits_until(&self, pool: PoolIndex) -> Option<Time> {
        self.patience.iter().find(|(of, _)| *of == pool).map(|(_, time)| *time)
    }

    /// From when on GPUs are taken back for it in a pool whatever that costs.
    pub(crate) fn deadline(&self, pool: PoolIndex) -> Option<Time> {
        self.deadlines.iter().find(|(of, _)| *of == pool).map(|(_, time)| *time)
    }

    /// As the gates see it, in the place of `job`.
    pub(crate) fn wish(&self, job: JobId) -> Wish<'_> {
        let Self { tenant, user, preemptible, time_limit, grace, .. } = *self;
        Wish { job, until: None, tenant, user, preemptible, time_limit, grace, request: &self.request }
    }

    /// As a start that is thought of.
    pub(crate) fn start(&self, scavenger: bool) -> Start {
        Start { tenant: self.tenant, gpus: self.gpus(), grace: self.grace, preemptible: self.preemptible, scavenger }
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
