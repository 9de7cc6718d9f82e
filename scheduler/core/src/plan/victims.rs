//! Which attempts to evict so that a gang fits: the least GPU-time lost, then the fewest.
//!
//! In: attempts that may be evicted. Out: victims and the place that they leave, proven on the index with checkpoint and
//! rollback; or what is in the way. Candidates are given back in order until the gang fits, all that do not touch its place are taken back, then one after the other the dearest that it can do without.
//! Two orders are tried: by loss alone, and node by node, the cheapest to empty first. If all candidates together do
//! not help there is no plan, and if there is a plan no victim of it can be spared.
//! It must leave the index as it found it.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::asked::{Asked, TrialIndex};
use super::claim::Relief;
use super::ends::latest_end;
use crate::cluster::Cluster;
use crate::ids::{JobId, NodeIndex, PoolIndex};
use crate::job::Job;
use crate::place::{PlaceIndex, Scratch};
use crate::placement::{Members, Placed};
use crate::request::{Constraints, Part, Request, Shape};
use crate::units::{GpuTime, Gpus, Time};

/// An attempt that may be evicted.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) job: JobId,
    /// These of its members: all, or of an elastic gang those that it can do without, or the others.
    pub(super) ranks: Range<usize>,
    pub(super) gpus: Gpus,
    /// GPU-time that its eviction throws away.
    pub(super) loss: GpuTime,
    /// Not before this.
    pub(super) ripe_at: Time,
    /// How much it gives back where the beneficiary is short, in the order of the shortages.
    pub(super) relief: Relief,
}

/// For whom, where and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Where<'a> {
    pub(super) asked: &'a Asked,
    pub(super) pool: PoolIndex,
    pub(super) now: Time,
}

/// What came of the search.
pub(super) enum Found {
    /// The gang fits here when these are gone; each of them is needed. Of those that shrink only some members go.
    Victims { members: Members, victims: Vec<JobId>, shrinks: Vec<(JobId, u32)> },
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
pub(super) struct Trial<'c> {
    index: &'c mut PlaceIndex,
    scratch: &'c mut Scratch,
    request: &'c Request,
    pool: PoolIndex,
    avoid: &'c [NodeIndex],
    steps: u32,
    /// Whether the index knows by its counters if the gang fits.
    is_cheap: bool,
    /// All candidates, then everything else that will end.
    holders: Vec<Holder>,
    placed: Vec<Placed>,
    relief: Vec<Relief>,
    missing: Relief,
}

/// Looks for victims; `missing` is what they must give back where the beneficiary is short.
pub(super) fn search(
    cluster: &Cluster,
    index: &mut TrialIndex<'_>,
    place: &Where<'_>,
    mut candidates: Vec<Candidate>,
    missing: Relief,
) -> Found {
    let Where { asked, now, .. } = *place;
    let rests = |c: &Candidate| c.ranks.start == 0;
    candidates.sort_unstable_by_key(|c| {
        (c.ripe_at.max(now), rests(c), c.loss, Reverse(c.gpus), Reverse((c.job, c.ranks.start)))
    });
    let ripe = candidates.iter().take_while(|candidate| candidate.ripe_at <= now).count();
    let mut trial = Trial::of(cluster, index, place, &candidates, missing);
    match trial.cheapest(&candidates[..ripe]) {
        Some((_, victims)) if victims.is_empty() => Found::Nothing,
        Some((members, victims)) => found(members, victims.into_iter().map(|at| &candidates[at])),
        None => {
            let rest = if asked.tells { rest(cluster, place, &candidates) } else { Vec::new() };
            for (_, job) in &rest {
                trial.add(cluster.jobs.get(*job).expect("what holds GPUs exists"), 0..usize::MAX);
            }
            let all: Vec<usize> = (0..trial.holders.len()).collect();
            let outer = trial.index.checkpoint();
            let count = trial.give_back(&all);
            trial.index.rollback(outer);
            later(cluster, asked, &candidates, ripe, &rest, count)
        }
    }
}

/// Whoever loses its first members is evicted whole; the others shrink.
fn found<'c>(members: Members, gone: impl Iterator<Item = &'c Candidate> + Clone) -> Found {
    let mut whole: Vec<JobId> = gone.clone().filter(|c| c.ranks.start == 0).map(|c| c.job).collect();
    whole.sort_unstable();
    let is_part = |candidate: &&Candidate| whole.binary_search(&candidate.job).is_err();
    let mut shrinks: Vec<(JobId, u32)> =
        gone.clone().filter(is_part).map(|candidate| (candidate.job, candidate.ranks.start as u32)).collect();
    // What lies behind the first member that goes is gone as well.
    shrinks.sort_unstable();
    shrinks.dedup_by_key(|(job, _)| *job);
    let mut victims: Vec<JobId> = Vec::with_capacity(whole.len() + shrinks.len());
    gone.for_each(|candidate| {
        if !victims.contains(&candidate.job) {
            victims.push(candidate.job);
        }
    });
    Found::Victims { members, victims, shrinks }
}

fn is_cheap(asked: &Asked) -> bool {
    let request = &asked.request;
    let is_equal = matches!(request.shape, Shape::Equal { .. });
    let is_plain = request.cpu.0 == 0 && request.memory.0 == 0 && request.only == Constraints::default();
    is_equal && is_plain && request.part == Part::Whole && !request.distinct_nodes && asked.avoid.is_empty()
}

/// What the gang waits for when it needs the first `count` of the candidates and the rest, more than are ripe.
fn later(
    cluster: &Cluster,
    asked: &Asked,
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
    let mission_of_last = cluster.job(last).and_then(|job| cluster.mission(job.spec.tenant));
    if mission_of_last == cluster.mission(asked.tenant) {
        return Found::Nothing;
    }
    Found::InTheWay { reclaimable: candidates[..ripe].iter().map(|candidate| candidate.gpus).sum(), until }
}

/// Everything else in the pool that will end, by the latest time at which it does.
fn rest(cluster: &Cluster, place: &Where<'_>, candidates: &[Candidate]) -> Vec<(Time, JobId)> {
    let mut listed: Vec<JobId> = candidates.iter().map(|candidate| candidate.job).collect();
    listed.sort_unstable();
    let missions = cluster.tenants.iter().filter(|tenant| tenant.depth == 1);
    let keys = missions.flat_map(|mission| mission.attempts.iter());
    let mut found: Vec<(Time, JobId)> = keys
        .filter(|key| listed.binary_search(&key.job).is_err())
        .filter_map(|key| cluster.job(key.job))
        .filter(|job| job.live_attempt().is_some_and(|attempt| attempt.pool == place.pool))
        .filter_map(|job| Some((latest_end(cluster, job, place.now)?, job.id)))
        .collect();
    found.sort_unstable();
    found
}

impl<'c> Trial<'c> {
    /// Nothing is given back yet.
    pub(super) fn of(
        cluster: &Cluster,
        index: &'c mut TrialIndex<'_>,
        place: &Where<'c>,
        candidates: &[Candidate],
        missing: Relief,
    ) -> Self {
        let mut trial = Trial {
            index: index.index,
            scratch: index.scratch,
            request: &place.asked.request,
            pool: place.pool,
            avoid: &place.asked.avoid,
            steps: cluster.policy.search_steps,
            is_cheap: is_cheap(place.asked),
            holders: Vec::with_capacity(candidates.len()),
            placed: Vec::new(),
            relief: candidates.iter().map(|candidate| candidate.relief.clone()).collect(),
            missing,
        };
        for candidate in candidates {
            trial.add(cluster.jobs.get(candidate.job).expect("what holds GPUs exists"), candidate.ranks.clone());
        }
        trial
    }

    /// What becomes free when the job's attempt is over: nothing on closed nodes, no fenced GPU, and none
    /// that is set aside for others.
    fn add(&mut self, job: &Job, ranks: Range<usize>) {
        let from = self.placed.len();
        let members = job.live_attempt().into_iter().flat_map(|attempt| attempt.members.iter());
        let usable = members.take(ranks.end).skip(ranks.start).map(|member| {
            let placed = member.placed;
            Placed { gpus: placed.gpus.and(self.index.usable(placed.node)), ..placed }
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

    /// Gives back from the start of `order` until the gang fits: how many; none when all are not enough.
    fn give_back(&mut self, order: &[usize]) -> Option<usize> {
        let (mut low, mut step) = (0, 1);
        if self.fits(&[]) {
            return Some(0);
        }
        // The first `low` are given back and are not enough; the first `high` are.
        let mut high = loop {
            if low == order.len() {
                return None;
            }
            let high = (low + step).min(order.len());
            let mark = self.index.checkpoint();
            self.release(&order[low..high]);
            if self.fits(&order[..high]) {
                self.index.rollback(mark);
                break high;
            }
            self.index.commit(mark);
            low = high;
            // Where the answer is at hand, asking each time costs less than undoing what was too much.
            step = if self.is_cheap { 1 } else { step * 2 };
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let mark = self.index.checkpoint();
            self.release(&order[low..middle]);
            if self.fits(&order[..middle]) {
                self.index.rollback(mark);
                high = middle;
            } else {
                self.index.commit(mark);
                low = middle;
            }
        }
        self.release(&order[low..high]);
        Some(high)
    }

    /// The better of two searches among `ripe`, by loss and node by node: the place, and the victims; none when all of
    /// them are not enough.
    fn cheapest(&mut self, ripe: &[Candidate]) -> Option<(Members, Vec<usize>)> {
        let by_loss: Vec<usize> = (0..ripe.len()).collect();
        let first = self.victims(&by_loss, ripe)?;
        // Gangs shrink before anybody is evicted.
        if first.1.len() <= 1 || first.1.iter().all(|at| ripe[*at].ranks.start > 0) {
            return Some(first);
        }
        let second = self.victims(&self.by_node(ripe), ripe)?;
        let cost = |found: &(Members, Vec<usize>)| {
            let loss: GpuTime = found.1.iter().map(|at| ripe[*at].loss).sum();
            (loss, found.1.len())
        };
        Some(if cost(&second) < cost(&first) { second } else { first })
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

    /// From the start of `order` those of whom none can be spared, and the place that they leave. The index is as before.
    pub(super) fn victims(&mut self, order: &[usize], ripe: &[Candidate]) -> Option<(Members, Vec<usize>)> {
        let outer = self.index.checkpoint();
        let found = self.give_back(order).map(|count| self.spare(&order[..count], ripe));
        self.index.rollback(outer);
        found
    }

    /// Takes back from `gone`, who are given back and enough, all that are not needed.
    fn spare(&mut self, gone: &[usize], ripe: &[Candidate]) -> (Members, Vec<usize>) {
        let place = self.place().expect("so many are enough");
        let mut kept: Vec<usize> = Vec::new();
        let mut nodes: Vec<NodeIndex> = place.iter().map(|placed| placed.node).collect();
        nodes.sort_unstable();
        for at in gone {
            let on = |placed: &Placed| nodes.binary_search(&placed.node).is_ok();
            let touches = self.placed[self.holders[*at].placed.clone()].iter().any(on);
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
        kept.sort_unstable();
        (place, kept)
    }
}
