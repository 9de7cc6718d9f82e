//! Survivors: what is left of the places of a gang that lost a node or a GPU stays the gang's for a time that it has asked for,
//! while another place is sought for the rest; then it starts again there at once.
//!
//! In: an attempt that is over through a loss. Out: a promise of what is left (`SurvivorsHeld`), the gang placed on it and on
//! what takes the place of the rest, or the promise dropped with its time. Held GPUs count like an attempt and are in nobody's
//! index. Only what lies inside quota is held: what is lent goes back.
//! It must never start anything before what was lost is proven dead.

use smallvec::SmallVec;

use crate::admit::fits::domain_of;
use crate::admit::start::{self, Wish};
use crate::admit::whole::Way;
use crate::cluster::Cluster;
use crate::cycle::Cycled;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{JobId, MemberIndex, NodeIndex};
use crate::job::{Attempt, Job, Outcome, Phase};
use crate::node::Node;
use crate::place::{PlaceIndex, Scratch};
use crate::placement::{Members, Placed};
use crate::promise::{DropCause, Promise};
use crate::request::{Constraints, Level, Part, Request, Shape};
use crate::reserve;
use crate::units::{Gpus, Span, Time};

/// Whether what an attempt came to is a loss of nodes or GPUs.
fn is_loss(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::NodeLost | Outcome::GpuFault)
}

/// Whether a job has asked for what is left of its places, and may have it.
fn may_hold(job: &Job, attempt: &Attempt) -> bool {
    let is_lent = attempt.borrowed || attempt.scavenger;
    job.spec.hold_survivors > Span::ZERO && job.spec.request.part == Part::Whole && !is_lent
}

/// Whether an attempt that is being stopped leaves its places to the next one of its job.
pub(crate) fn will_hold(job: &Job) -> bool {
    let Some(attempt) = job.live_attempt() else { return false };
    let Phase::Stopping(reason) = job.phase else { return false };
    may_hold(job, attempt) && is_loss(reason.outcome(attempt.broken.unwrap_or(Outcome::Failed)))
}

/// Whether its attempt is over, and waits for proof that what it lost is dead.
pub(crate) fn awaits_proof(job: &Job) -> bool {
    matches!(job.phase, Phase::AwaitingProof(outcome) if is_loss(outcome))
}

/// After an attempt ended: what is left of its places is held, if the job has asked for it.
pub(crate) fn hold(cluster: &mut Cluster, id: JobId, outcome: Outcome, now: Time, out: &mut Events) {
    let Some(job) = cluster.job(id).filter(|_| is_loss(outcome)) else { return };
    let Some(attempt) = job.live_attempt().filter(|attempt| may_hold(job, attempt)) else { return };
    let lost = lost_ranks(cluster, job, attempt);
    if lost.is_empty() || lost.len() == attempt.members.len() {
        return;
    }
    let until = now + job.spec.hold_survivors;
    emit(cluster, now, Event::SurvivorsHeld { job: id, lost, until }, out);
}

/// The ranks whose places are not free for the next attempt.
fn lost_ranks(cluster: &Cluster, job: &Job, attempt: &Attempt) -> SmallVec<[MemberIndex; 2]> {
    let request = &job.spec.request;
    let mut kept: Vec<NodeIndex> = Vec::new();
    let mut lost = SmallVec::new();
    for (rank, member) in attempt.members.iter().enumerate() {
        let node = cluster.node(member.placed.node);
        let beside = 1 + kept.iter().filter(|other| **other == node.index).count() as u64;
        let has_cpu = node.cpu_free().0 >= request.cpu.0.saturating_mul(beside);
        let has_memory = node.memory_free().0 >= request.memory.0.saturating_mul(beside);
        if node.free().contains(member.placed.gpus) && has_cpu && has_memory {
            kept.push(node.index);
        } else {
            lost.push(MemberIndex::of(rank));
        }
    }
    lost
}

/// Starts a gang on what is held for it, if there is a place for the rest; gives up when its time is over. An elastic gang
/// that can do without the rest starts without it.
pub(crate) fn complete(cluster: &mut Cluster, id: JobId, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let Some(promise) = cluster.promises.get(&id) else { return };
    let (pool, due) = (promise.pool, promise.due);
    let job = cluster.job(id).expect("a promise is for a job that exists");
    let is_ready = job.is_eligible();
    let least = job.spec.request.least_members() as usize;
    let without = (promise.members.len() >= least).then(|| promise.members.clone());
    let members = if is_ready { find(cluster, id, now).or(without) } else { None };
    let attempt = cluster.next_attempt(id);
    if let Some(members) = members {
        cycled.jobs += 1;
        cycled.members += members.len() as u32;
        for placed in &members {
            if cluster.node(placed.node).spare {
                emit(cluster, now, Event::NodeSpared { node: placed.node, spare: false }, out);
            }
        }
        let (scavenger, guest, lowered) = (false, false, None);
        emit(cluster, now, Event::JobPlaced { job: id, attempt, pool, members, scavenger, guest, lowered }, out);
    } else if due <= now {
        emit(cluster, now, Event::PromiseDropped { job: id, why: DropCause::NoSpare }, out);
    }
}

/// The places of all members: those that are held, and for the rest the nearest that will do.
fn find(cluster: &mut Cluster, id: JobId, now: Time) -> Option<Members> {
    let (job, promise) = (cluster.jobs.get(id)?, cluster.promises.get(&id)?);
    let shape = &job.spec.request.shape;
    let more = promise.sought.iter().map(|rank| u32::from(shape.gpus_of(rank.at()))).sum();
    if !start::may_complete(cluster, &Wish::of(job), promise.pool, Gpus::whole(more)) {
        return None;
    }
    let (pool, way) = (promise.pool, Way::of(cluster, &Wish::of(job), promise.pool));
    let (mut index, mut scratch) = (std::mem::take(&mut cluster.index), std::mem::take(&mut cluster.scratch));
    let mark = index.checkpoint();
    if let Some(way) = &way {
        index.bar(pool, &way.first_bars(cluster));
    }
    let search = Search { cluster, job: cluster.jobs.get(id)?, promise: cluster.promises.get(&id)?, now };
    let found = search.all(&mut index, &mut scratch);
    let found = found.filter(|members| way.is_none_or(|way| way.allows(cluster, &index, members)));
    index.unbar(pool);
    index.rollback(mark);
    (cluster.index, cluster.scratch) = (index, scratch);
    found
}

/// A search for the places of what a gang has lost.
struct Search<'c> {
    cluster: &'c Cluster,
    job: &'c Job,
    promise: &'c Promise,
    now: Time,
}

/// The places that are known, by rank.
type Known = [Option<Placed>];

impl Search<'_> {
    fn all(&self, index: &mut PlaceIndex, scratch: &mut Scratch) -> Option<Members> {
        let Promise { pool, members, sought, .. } = self.promise;
        // Spares are in nobody's index: here they are.
        for node in self.cluster.nodes.iter().filter(|node| node.spare && node.pool == *pool) {
            index.set_aside(&Node { spare: false, ..node.clone() }, &node.reserved);
        }
        reserve::show(self.cluster, index, &Wish::of(self.job), *pool, self.now);
        let mut held = members.iter().copied();
        let ranks = 0..members.len() + sought.len();
        let mut known: Vec<Option<Placed>> =
            ranks.map(|rank| if sought.contains(&MemberIndex::of(rank)) { None } else { held.next() }).collect();
        for rank in sought.iter().map(|rank| rank.at()) {
            let placed = self.one(rank, &known, index, scratch)?;
            index.take(&[placed], &self.alone(rank, placed.node));
            known[rank] = Some(placed);
        }
        known.into_iter().collect()
    }

    /// A place for one member: the nearest to the others; of equally near ones no spare, then the tightest.
    fn one(&self, rank: usize, known: &Known, index: &mut PlaceIndex, scratch: &mut Scratch) -> Option<Placed> {
        let gpus = u32::from(self.job.spec.request.shape.gpus_of(rank));
        let may_lie = |node: &&Node| {
            let has_room = index.free_on(node.index).len() >= gpus;
            node.pool == self.promise.pool && has_room && self.may_lie(rank, node, known)
        };
        let rank_of = |node: &Node| (self.distance(node), node.spare, index.free_on(node.index).len(), node.index);
        let mut candidates: Vec<_> = self.cluster.nodes.iter().filter(may_lie).map(rank_of).collect();
        candidates.sort_unstable();
        candidates.into_iter().find_map(|(.., node)| {
            let request = self.alone(rank, node);
            let steps = self.cluster.policy.search_steps;
            index.place(&request, self.promise.pool, &[], steps, scratch).ok().map(|members| members[0])
        })
    }

    /// What a member asks for on one node.
    fn alone(&self, rank: usize, node: NodeIndex) -> Request {
        let request = &self.job.spec.request;
        Request {
            shape: Shape::Equal { members: 1, gpus: request.shape.gpus_of(rank) },
            pools: [self.promise.pool].into(),
            required: None,
            preferred: None,
            distinct_nodes: false,
            only: Constraints { include: [node].into(), ..Constraints::default() },
            ..(**request).clone()
        }
    }

    /// Whether a node keeps what the job asks of its nodes and domains, beside the places that are known.
    fn may_lie(&self, rank: usize, node: &Node, known: &Known) -> bool {
        let request = &self.job.spec.request;
        let others = || known.iter().flatten().map(|placed| self.cluster.node(placed.node));
        let shares = |level: Level, other: &Node| domain_of(other, Some(level)) == domain_of(node, Some(level));
        let is_alone = !request.distinct_nodes || others().all(|other| other.index != node.index);
        let is_inside = request.required.is_none_or(|level| others().all(|other| shares(level, other)));
        let in_segment = request.only.segment.is_none_or(|segment| {
            let size = segment.members.max(1) as usize;
            let mut of_it = known.iter().skip(rank / size * size).take(size).flatten();
            of_it.all(|placed| shares(segment.level, self.cluster.node(placed.node)))
        });
        let is_welcome = request.only.matches(node) && !self.job.avoid.contains(&node.index);
        self.cluster.admits(node.index, &Wish::of(self.job), self.now)
            && is_welcome
            && is_alone
            && is_inside
            && in_segment
    }

    /// How far a node is from the nearest that is held: the place in `Level::ALL` of the lowest domain that has both.
    fn distance(&self, node: &Node) -> usize {
        let held = || self.promise.members.iter().map(|placed| self.cluster.node(placed.node));
        let shares =
            |level: &Level| held().any(|other| domain_of(other, Some(*level)) == domain_of(node, Some(*level)));
        Level::ALL.iter().position(shares).unwrap_or(Level::ALL.len())
    }
}
