//! Defragmentation: which running jobs could move closer together, and what that would free.
//!
//! In: the state, read only, and a pool. Out: a plan that a person can look at: moves, all of them made at once on a copy of
//! the index, as they will be, and the room before and after. Nothing is moved by itself: `Input::Defragment` carries a plan out
//! by stopping those jobs; they are queued again, at the front of their tenants, and the tight nodes that the plan shows are
//! where placement puts them, unless something comes before them.
//! It must never move what must not be evicted, what has not run its minimum, or what would leave less room for anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decide::Events;
use crate::finish;
use crate::ids::{AttemptNumber, JobId, NodeIndex, PoolIndex};
use crate::job::{Attempt, Job, Phase, StopReason};
use crate::node::{Contact, Node, Resident};
use crate::place::{PlaceIndex, Scratch};
use crate::placement::{Members, Placed};
use crate::plan;
use crate::rejected::{Refusal, Rejected};
use crate::reply::Reply;
use crate::request::Request;
use crate::units::{GpuTime, Gpus, Time};

/// Jobs that one plan moves at most.
pub const MAX_MOVES: u32 = 256;

/// A job that would move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which.
    pub job: JobId,
    /// The attempt that would be stopped.
    pub attempt: AttemptNumber,
    /// What it holds.
    pub gpus: Gpus,
    /// Where it runs, by rank.
    pub from: Vec<NodeIndex>,
    /// Where it would run, by rank.
    pub to: Vec<NodeIndex>,
    /// GPU-time since its last checkpoint, which is lost.
    pub loss: GpuTime,
}

/// What room a pool has for gangs of whole nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WholeNodes {
    /// Nodes that are open and entirely free.
    pub nodes: u32,
    /// The most of them in one NVLink domain that spans nodes.
    pub in_nvlink: u32,
    /// The most of them in one leaf.
    pub in_leaf: u32,
}

impl WholeNodes {
    /// More whole nodes, and nowhere less room for a gang.
    fn is_better_than(self, other: Self) -> bool {
        self.nodes > other.nodes && self.in_leaf >= other.in_leaf && self.in_nvlink >= other.in_nvlink
    }
}

/// A plan; without moves there is nothing to gain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Defrag {
    /// Where.
    pub pool: PoolIndex,
    /// In the order in which they find their places, once all have stopped.
    pub moves: Vec<Move>,
    /// As things are.
    pub before: WholeNodes,
    /// When all have moved.
    pub after: WholeNodes,
}

impl Cluster {
    /// A plan of at most `max_moves` moves for a pool. O(nodes of the pool, squared) on copies of the index.
    pub fn plan_defrag(&self, pool: PoolIndex, max_moves: u32, now: Time) -> Defrag {
        let mut trial = Trial::of(self, pool);
        let before = trial.room();
        let mut left = max_moves.min(MAX_MOVES) as usize;
        let mut emptied: Vec<Vec<JobId>> = Vec::new();
        for (_, node) in trial.by_loss(now) {
            if let Some(found) = trial.empty(node, left, now) {
                left -= found.len();
                emptied.push(found);
            }
        }
        // One after the other they found other places than they do when all stop at once.
        while !emptied.is_empty() {
            let moves = Trial::of(self, pool).at_once(emptied.concat(), now);
            if let Some((moves, after)) = moves.filter(|(_, after)| after.is_better_than(before)) {
                return Defrag { pool, moves, before, after };
            }
            emptied.pop();
        }
        Defrag { pool, moves: Vec::new(), before, after: before }
    }
}

/// Carries out the moves of a plan: all of them, or none.
pub(crate) fn apply(
    cluster: &mut Cluster,
    moves: &[(JobId, AttemptNumber)],
    now: Time,
    out: &mut Events,
) -> Result<Reply, Rejected> {
    for (id, attempt) in moves {
        let job = cluster.job(*id).ok_or(Refusal::UnknownJob { job: *id })?;
        if movable(cluster, job, now).is_none_or(|found| found.number != *attempt) {
            return Err(Refusal::CannotMove { job: *id, attempt: attempt.0 }.into());
        }
    }
    for (id, _) in moves {
        finish::stop(cluster, *id, StopReason::Drained, now, out);
    }
    Ok(Reply::Done)
}

/// The attempt of a job that may be stopped to run elsewhere.
fn movable<'j>(cluster: &Cluster, job: &'j Job, now: Time) -> Option<&'j Attempt> {
    let attempt = job.live_attempt()?;
    let started = attempt.started_at?;
    let is_heard = |node: &Node| node.contact == Contact::Ready;
    let has_run = started + plan::min_run(cluster, job.spec.tenant) <= now;
    let may_move = job.spec.preemptible && job.phase == Phase::Running && has_run;
    let is_there = attempt.members.iter().all(|member| is_heard(cluster.node(member.placed.node)));
    // An elastic gang would come back in another size.
    (may_move && is_there && job.spec.request.only.least.is_none()).then_some(attempt)
}

/// A copy of the index, and what was moved on it.
struct Trial<'c> {
    cluster: &'c Cluster,
    pool: PoolIndex,
    index: PlaceIndex,
    scratch: Scratch,
    moved: BTreeSet<JobId>,
}

impl<'c> Trial<'c> {
    fn of(cluster: &'c Cluster, pool: PoolIndex) -> Self {
        let index = cluster.fresh_index();
        Self { cluster, pool, index, scratch: Scratch::default(), moved: BTreeSet::new() }
    }

    fn nodes(&self) -> impl Iterator<Item = &'c Node> + use<'c> {
        let pool = self.pool;
        self.cluster.nodes().iter().filter(move |node| node.pool == pool)
    }

    fn room(&self) -> WholeNodes {
        let mut found = WholeNodes::default();
        let (mut leaves, mut links): (BTreeMap<_, u32>, BTreeMap<_, u32>) = Default::default();
        for node in self.nodes() {
            let all = node.capacity.gpus;
            if all.is_empty() || self.index.free_on(node.index) != all {
                continue;
            }
            found.nodes += 1;
            let place = &node.location;
            *leaves.entry((&place.site, &place.spine, &place.leaf)).or_default() += 1;
            if !place.nvlink.is_empty() {
                *links.entry((&place.site, &place.spine, &place.leaf, &place.nvlink)).or_default() += 1;
            }
        }
        found.in_leaf = leaves.into_values().max().unwrap_or_default();
        found.in_nvlink = links.into_values().max().unwrap_or_default();
        found
    }

    /// The nodes that could be emptied, those first that lose least.
    fn by_loss(&self, now: Time) -> Vec<(GpuTime, NodeIndex)> {
        let of_node = |node: &'c Node| {
            let jobs = self.jobs_on(node.index, now)?;
            let loss = jobs.iter().map(|(job, attempt)| loss(job, attempt, now)).sum();
            (!jobs.is_empty() && node.is_open()).then_some((loss, node.index))
        };
        let mut found: Vec<(GpuTime, NodeIndex)> = self.nodes().filter_map(of_node).collect();
        found.sort_unstable();
        found
    }

    /// The jobs on a node; none when one of them may not move.
    fn jobs_on(&self, node: NodeIndex, now: Time) -> Option<Vec<(&'c Job, &'c Attempt)>> {
        let cluster = self.cluster;
        let mut ids: Vec<JobId> = cluster.node(node).residents.iter().map(|Resident { job, .. }| *job).collect();
        ids.sort_unstable();
        ids.dedup();
        let one = |id: JobId| {
            let job = cluster.job(id).filter(|job| !self.moved.contains(&job.id))?;
            Some((job, movable(cluster, job, now)?))
        };
        ids.into_iter().map(one).collect()
    }

    /// Where all these jobs find their places once all of them have stopped, the oldest first, and the room then.
    fn at_once(mut self, mut jobs: Vec<JobId>, now: Time) -> Option<(Vec<Move>, WholeNodes)> {
        jobs.sort_unstable();
        let jobs: Vec<(&Job, &Attempt)> = jobs
            .into_iter()
            .map(|id| self.cluster.job(id).and_then(|job| Some((job, job.live_attempt()?))))
            .collect::<Option<_>>()?;
        for (job, attempt) in &jobs {
            self.index.release(&usable(&self.index, attempt), &job.spec.request);
        }
        let moves: Option<Vec<Move>> = jobs.iter().map(|(job, attempt)| self.place(job, attempt, now)).collect();
        Some((moves?, self.room()))
    }

    /// Moves everything on a node elsewhere, if that leaves more room and nowhere less: the jobs.
    fn empty(&mut self, node: NodeIndex, most: usize, now: Time) -> Option<Vec<JobId>> {
        let mut jobs = self.jobs_on(node, now).filter(|jobs| (1..=most).contains(&jobs.len()))?;
        // The largest first: the others find a place where it left one.
        jobs.sort_unstable_by_key(|(job, attempt)| (std::cmp::Reverse(attempt.gpus()), job.id));
        let before = self.room();
        let mark = self.index.checkpoint();
        for (job, attempt) in &jobs {
            self.index.release(&usable(&self.index, attempt), &job.spec.request);
        }
        let are_placed = jobs.iter().all(|(job, attempt)| self.place(job, attempt, now).is_some());
        if are_placed && self.room().is_better_than(before) {
            self.index.commit(mark);
            self.moved.extend(jobs.iter().map(|(job, _)| job.id));
            return Some(jobs.iter().map(|(job, _)| job.id).collect());
        }
        self.index.rollback(mark);
        None
    }

    /// Where a start would put it: as the cycle asks, with nothing kept free on purpose.
    fn place(&mut self, job: &Job, attempt: &Attempt, now: Time) -> Option<Move> {
        let request: &Arc<Request> = &job.spec.request;
        let steps = self.cluster.policy.search_steps;
        let members: Members = self.index.place(request, self.pool, &job.avoid, steps, &mut self.scratch).ok()?;
        self.index.take(&members, request);
        Some(Move {
            job: job.id,
            attempt: attempt.number,
            gpus: attempt.gpus(),
            from: attempt.members.iter().map(|member| member.placed.node).collect(),
            to: members.iter().map(|placed| placed.node).collect(),
            loss: loss(job, attempt, now),
        })
    }
}

/// What becomes free when the attempt is over.
fn usable(index: &PlaceIndex, attempt: &Attempt) -> Vec<Placed> {
    let placed = attempt.members.iter().map(|member| member.placed);
    placed.map(|placed| Placed { gpus: placed.gpus.and(index.usable(placed.node)), ..placed }).collect()
}

fn loss(job: &Job, attempt: &Attempt, now: Time) -> GpuTime {
    attempt.gpus().over(now.since(job.kept_until(attempt)))
}
