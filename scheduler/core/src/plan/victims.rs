//! Which attempts to evict so that a gang fits: the least GPU-time lost, then the fewest.
//!
//! In: attempts that may be evicted. Out: victims and the place that they leave, proven on the index with checkpoint and
//! rollback; or what is in the way. Candidates are given back in order until the gang fits (found by doubling and
//! halving), all that do not touch its place are taken back, then one after the other the dearest that it can do without.
//! Two orders are tried: by loss alone, and node by node, the cheapest to empty first. If all candidates together do
//! not help there is no plan, and if there is a plan no victim of it can be spared.
//! It must leave the index as it found it.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::claim::Relief;
use crate::cluster::Cluster;
use crate::ids::{JobId, NodeIndex, PoolIndex};
use crate::job::{Job, Phase};
use crate::jobs::Jobs;
use crate::node::Node;
use crate::place::{Mark, PlaceIndex, Scratch};
use crate::placement::{Members, Placed};
use crate::policy::Policy;
use crate::request::Request;
use crate::tenant::Tenant;
use crate::units::{GpuTime, Gpus, Time};

/// An attempt that may be evicted.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) job: JobId,
    pub(super) gpus: Gpus,
    /// GPU-time that its eviction throws away.
    pub(super) loss: GpuTime,
    /// Not before this.
    pub(super) ripe_at: Time,
    /// How much it gives back where the beneficiary is short, in the order of the shortages.
    pub(super) relief: Relief,
}

/// For whom and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others {
    pub(super) pool: PoolIndex,
    pub(super) id: JobId,
    pub(super) now: Time,
}

/// What came of the search.
pub(super) enum Found {
    /// The gang fits here when these are gone; each of them is needed.
    Victims { members: Members, victims: Vec<JobId> },
    /// It will, when more of them have run their minimum.
    Ripening { until: Time },
    /// It does not fit though everything is given back that may be: what others run is in the way until then at the latest.
    InTheWay { reclaimable: Gpus, until: Time },
    /// Evictions are not what it waits for.
    Nothing,
}

/// Something that holds GPUs: where, and under which request.
struct Holder {
    request: Arc<Request>,
    placed: Range<usize>,
}

/// The index during one search.
struct Trial<'c> {
    index: &'c mut PlaceIndex,
    scratch: &'c mut Scratch,
    request: &'c Request,
    pool: PoolIndex,
    avoid: &'c [NodeIndex],
    steps: u32,
    /// All candidates, then everything else that will end.
    holders: Vec<Holder>,
    placed: Vec<Placed>,
    relief: Vec<Relief>,
    missing: Relief,
}

/// Looks for victims; `missing` is what they must give back where the beneficiary is short.
pub(super) fn search(
    cluster: &mut Cluster,
    others: &Others,
    mut candidates: Vec<Candidate>,
    missing: Relief,
) -> Found {
    let Others { pool, id, now } = *others;
    candidates.sort_unstable_by_key(|c| (c.ripe_at.max(now), c.loss, Reverse(c.gpus), c.job));
    let ripe = candidates.iter().take_while(|candidate| candidate.ripe_at <= now).count();
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let mut trial = Trial {
        index: &mut cluster.index,
        scratch: &mut cluster.scratch,
        request: &job.spec.request,
        pool,
        avoid: &job.avoid,
        steps: cluster.policy.search_steps,
        holders: Vec::with_capacity(candidates.len()),
        placed: Vec::new(),
        relief: candidates.iter().map(|candidate| candidate.relief.clone()).collect(),
        missing,
    };
    for candidate in &candidates {
        trial.add(cluster.jobs.get(candidate.job).expect("what holds GPUs exists"), &cluster.nodes);
    }
    let by_loss: Vec<usize> = (0..ripe).collect();
    match trial.needed(&by_loss) {
        Some(0) => Found::Nothing,
        Some(count) => {
            let (members, victims) = trial.cheapest(&candidates[..ripe], &by_loss[..count]);
            Found::Victims { members, victims: victims.into_iter().map(|at| candidates[at].job).collect() }
        }
        None => {
            let rest = rest(&cluster.jobs, &cluster.tenants, &cluster.policy, others, &candidates);
            for (_, job) in &rest {
                trial.add(cluster.jobs.get(*job).expect("what holds GPUs exists"), &cluster.nodes);
            }
            let all: Vec<usize> = (0..trial.holders.len()).collect();
            let count = trial.needed(&all);
            later(cluster, id, &candidates, ripe, &rest, count)
        }
    }
}

/// What the gang waits for when it needs the first `count` of the candidates and the rest, more than are ripe.
fn later(
    cluster: &Cluster,
    id: JobId,
    candidates: &[Candidate],
    ripe: usize,
    rest: &[(Time, JobId)],
    count: Option<usize>,
) -> Found {
    let Some(count) = count else { return Found::Nothing };
    if count <= candidates.len() {
        return Found::Ripening { until: candidates[count - 1].ripe_at };
    }
    let (until, last) = rest[count - candidates.len() - 1];
    // What its own mission runs is not in its way: it is what its quota is used for.
    let mission_of = |job: JobId| cluster.job(job).and_then(|job| cluster.mission(job.spec.tenant));
    if mission_of(last) == mission_of(id) {
        return Found::Nothing;
    }
    Found::InTheWay { reclaimable: candidates[..ripe].iter().map(|candidate| candidate.gpus).sum(), until }
}

/// Everything else in the pool that will end, by the latest time at which it does.
fn rest(
    jobs: &Jobs,
    tenants: &[Tenant],
    policy: &Policy,
    others: &Others,
    candidates: &[Candidate],
) -> Vec<(Time, JobId)> {
    let mut listed: Vec<JobId> = candidates.iter().map(|candidate| candidate.job).collect();
    listed.sort_unstable();
    let missions = tenants.iter().filter(|tenant| tenant.depth == 1);
    let keys = missions.flat_map(|mission| mission.attempts.iter());
    let mut found: Vec<(Time, JobId)> = keys
        .filter(|key| listed.binary_search(&key.job).is_err())
        .filter_map(|key| Some((latest_end(policy, jobs.get(key.job)?, others)?, key.job)))
        .collect();
    found.sort_unstable();
    found
}

/// When an attempt in the pool is over at the latest, by its limit; none when nobody can say.
fn latest_end(policy: &Policy, job: &Job, others: &Others) -> Option<Time> {
    let attempt = job.live_attempt().filter(|attempt| attempt.pool == others.pool)?;
    let slack = policy.time_limit_slack;
    match job.phase {
        Phase::Launching | Phase::Running => {
            let start = attempt.started_at.unwrap_or(attempt.placed_at + policy.launch_deadline);
            Some(start + job.spec.time_limit + job.spec.grace + slack)
        }
        Phase::Stopping(_) => Some(others.now + job.spec.grace + slack),
        Phase::AwaitingProof(_) | Phase::Waiting | Phase::Spread | Phase::Ended(_) => None,
    }
}

impl Trial<'_> {
    /// What becomes free when the job's attempt is over: nothing on closed nodes, and no fenced GPU.
    fn add(&mut self, job: &Job, nodes: &[Node]) {
        let from = self.placed.len();
        let members = job.live_attempt().into_iter().flat_map(|attempt| attempt.members.iter());
        let usable = members.map(|member| {
            let Placed { node, gpus } = member.placed;
            Placed { node, gpus: gpus.and(nodes[node.at()].usable()) }
        });
        self.placed.extend(usable.filter(|placed| !placed.gpus.is_empty()));
        self.holders.push(Holder { request: job.spec.request.clone(), placed: from..self.placed.len() });
    }

    fn release(&mut self, order: &[usize]) {
        for at in order {
            let holder = &self.holders[*at];
            self.index.release(&self.placed[holder.placed.clone()], &holder.request);
        }
    }

    fn take(&mut self, at: usize) {
        let holder = &self.holders[at];
        self.index.take(&self.placed[holder.placed.clone()], &holder.request);
    }

    /// Whether the gang fits into the index as it is.
    fn place(&mut self) -> Option<Members> {
        self.index.place(self.request, self.pool, self.avoid, self.steps, self.scratch).ok()
    }

    /// Whether those in `gone` give back what is missing; more than the candidates never do.
    fn relieves(&self, gone: impl Iterator<Item = usize> + Clone) -> bool {
        self.missing.iter().enumerate().all(|(short, missing)| {
            let given = gone.clone().filter_map(|at| self.relief.get(at)).map(|relief| relief[short]);
            given.sum::<Gpus>() >= *missing
        })
    }

    fn has_room(&mut self) -> bool {
        self.index.fits(self.request, self.pool, self.avoid, self.steps, self.scratch)
    }

    fn fits(&mut self, gone: &[usize]) -> bool {
        self.relieves(gone.iter().copied()) && self.has_room()
    }

    /// How many of `order` must be given back, from its start, until the gang fits; none when all are not enough.
    /// The index is as before.
    fn needed(&mut self, order: &[usize]) -> Option<usize> {
        let outer = self.index.checkpoint();
        let count = self.bisect(order);
        self.index.rollback(outer);
        count
    }

    fn bisect(&mut self, order: &[usize]) -> Option<usize> {
        if self.fits(&[]) {
            return Some(0);
        }
        let (mut low, mut step) = (0, 1);
        // The first `low` are given back for good and are not enough; `high` are, tried and taken back.
        let mut high = loop {
            if low == order.len() {
                return None;
            }
            let high = (low + step).min(order.len());
            if self.try_more(order, low, high) {
                break high;
            }
            self.release(&order[low..high]);
            (low, step) = (high, step * 2);
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.try_more(order, low, middle) {
                high = middle;
            } else {
                self.release(&order[low..middle]);
                low = middle;
            }
        }
        Some(high)
    }

    /// Whether the gang fits with `order[low..high]` given back as well, the first `low` being so already.
    fn try_more(&mut self, order: &[usize], low: usize, high: usize) -> bool {
        if !self.relieves(order[..high].iter().copied()) {
            return false;
        }
        let mark: Mark = self.index.checkpoint();
        self.release(&order[low..high]);
        let fits = self.has_room();
        self.index.rollback(mark);
        fits
    }

    /// The better of two searches among `ripe`: in `by_loss`, of whom all are needed, and node by node. The place, and the
    /// victims.
    fn cheapest(&mut self, ripe: &[Candidate], by_loss: &[usize]) -> (Members, Vec<usize>) {
        let first = self.victims(by_loss, ripe);
        if first.1.len() <= 1 {
            return first;
        }
        let by_node = self.by_node(ripe);
        let count = self.needed(&by_node).expect("all together are enough");
        let second = self.victims(&by_node[..count], ripe);
        let cost = |found: &(Members, Vec<usize>)| {
            let loss: GpuTime = found.1.iter().map(|at| ripe[*at].loss).sum();
            (loss, found.1.len())
        };
        if cost(&second) < cost(&first) { second } else { first }
    }

    /// The candidates by the node of theirs that is cheapest to empty.
    fn by_node(&self, ripe: &[Candidate]) -> Vec<usize> {
        let mut costs: Vec<(NodeIndex, u64)> = Vec::with_capacity(self.placed.len());
        for (at, candidate) in ripe.iter().enumerate() {
            costs.extend(self.placed[self.holders[at].placed.clone()].iter().map(|p| (p.node, candidate.loss.0)));
        }
        costs.sort_unstable();
        costs.dedup_by(|next, sum| {
            let same = next.0 == sum.0;
            if same {
                sum.1 = sum.1.saturating_add(next.1);
            }
            same
        });
        let cost = |node: NodeIndex| costs.binary_search_by_key(&node, |(node, _)| *node).map_or(0, |at| costs[at].1);
        let key = |at: usize| self.placed[self.holders[at].placed.clone()].iter().map(|p| (cost(p.node), p.node)).min();
        let mut order: Vec<(Option<(u64, NodeIndex)>, usize)> = (0..ripe.len()).map(|at| (key(at), at)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, at)| at).collect()
    }

    /// Those of `enough` of whom none can be spared, and the place that they leave.
    fn victims(&mut self, enough: &[usize], ripe: &[Candidate]) -> (Members, Vec<usize>) {
        let outer = self.index.checkpoint();
        self.release(enough);
        let place = self.place().expect("so many are enough");
        let mut nodes: Vec<NodeIndex> = place.iter().map(|placed| placed.node).collect();
        nodes.sort_unstable();
        let mut kept: Vec<usize> = Vec::new();
        for at in enough {
            let touches = self.placed[self.holders[*at].placed.clone()]
                .iter()
                .any(|placed| nodes.binary_search(&placed.node).is_ok());
            if touches || self.relief[*at].iter().any(|gpus| *gpus > Gpus::ZERO) {
                kept.push(*at);
            } else {
                self.take(*at);
            }
        }
        kept.sort_unstable_by_key(|at| Reverse((ripe[*at].loss, ripe[*at].gpus, *at)));
        let mut spared = 0;
        while spared < kept.len() {
            let at = kept.remove(spared);
            self.take(at);
            if !self.fits(&kept) {
                self.release(&[at]);
                kept.insert(spared, at);
                spared += 1;
            }
        }
        let place = self.place().expect("what it cannot do without is given back");
        self.index.rollback(outer);
        kept.sort_unstable();
        (place, kept)
    }
}
