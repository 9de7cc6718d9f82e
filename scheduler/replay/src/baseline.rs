//! What others do, to compare with: first come first served, shortest first, and backfill, on one pool or on static partitions.
//!
//! They place on the core's own index (the same best fit, the same gangs), and differ in the order alone. Comes in: nodes and
//! jobs as for the driver. Goes out: the same rows.
//!
//! - FIFO: the oldest job starts, or all wait for it. Of those that came at the same moment the shortest goes first, as in the
//!   published figures: a trace knows whole seconds alone, and which of two goes first moves the waits behind them by percents.
//! - SJF: the shortest job starts (by what it will run, which nobody knows in real life), or all wait for it.
//! - FIFO with backfill (EASY: Lifka, JSSPP 1995): the oldest job has a reservation at the earliest time that the limits of
//!   what runs allow; a later one starts if it ends before, by its limit, or does not touch what is reserved.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use dure_core::gpu::GpuSet;
use dure_core::ids::{NodeIndex, PoolIndex};
use dure_core::node::{Capacity, Contact, Location, Node, SetAside};
use dure_core::place::{PlaceIndex, Scratch};
use dure_core::placement::Members;
use dure_core::rejected::{Refusal, Rejected};
use dure_core::request::Request;
use dure_core::topology::Topology;
use dure_core::units::{CpuMilli, MemoryMib, Span, Time};

use crate::drive::{DriveError, Replayed, limit_of};
use crate::shape::gang;
use crate::trace::{Moment, Row, TraceJob, TraceNode};

/// Steps of the search for unequal members.
const SEARCH_STEPS: u32 = 20_000;
/// Later jobs looked at for backfill in one instant: Slurm's default of `bf_max_job_test`.
const MAX_BACKFILL: usize = 500;

/// In which order jobs start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// As they came.
    Fifo,
    /// The shortest first.
    Sjf,
    /// As they came, and around the first what does not delay it.
    FifoBackfill,
}

impl Rule {
    fn turn(self, job: &TraceJob, place: usize) -> Turn {
        let came = match self {
            Rule::Fifo | Rule::FifoBackfill => job.submit,
            Rule::Sjf => Time(0),
        };
        (came, job.duration, place)
    }
}

/// When it is a job's turn: by the moment at which it came, where the rule asks for that, then the shortest, then its place.
type Turn = (Time, Span, usize);

/// A part of the nodes with a queue of its own.
#[derive(Debug, Default)]
struct Partition {
    /// Its pools: model, GPUs of the largest node.
    pools: Vec<(String, u32, PoolIndex)>,
    /// Waiting jobs, the next first.
    queue: BTreeSet<Turn>,
    /// Running jobs by the ends that their limits allow.
    limits: BTreeSet<(Time, usize)>,
}

/// A baseline under way.
struct Baseline<'t> {
    rule: Rule,
    jobs: &'t [TraceJob],
    index: PlaceIndex,
    scratch: Scratch,
    partitions: Vec<Partition>,
    /// For each job its partition and what it asks for; none once refused.
    asks: Vec<Option<(usize, Request)>>,
    held: BTreeMap<usize, Members>,
    ends: BinaryHeap<Reverse<(Time, usize)>>,
    rows: Vec<Row>,
    turns: u64,
}

/// Runs `jobs`, in the order of their times, under `rule`; `partitioned`: each tenant on the nodes whose pool has its name.
/// `shown` is told at every instant how many jobs have ended.
///
/// # Errors
/// What of the trace cannot be replayed.
pub fn run(
    nodes: &[TraceNode],
    jobs: &[TraceJob],
    rule: Rule,
    partitioned: bool,
    shown: impl FnMut(usize),
) -> Result<Replayed, DriveError> {
    let (partitions, names, index) = install(nodes, partitioned)?;
    let mut refused = Vec::new();
    let mut asks = Vec::with_capacity(jobs.len());
    for (place, job) in jobs.iter().enumerate() {
        let partition = if partitioned { names.get(job.tenant.as_str()).copied() } else { Some(0) };
        let ask = partition.map(|partition| ask(&partitions[partition], job)).transpose()?.flatten();
        if ask.is_none() {
            refused.push((
                place,
                Rejected { job: None, why: Refusal::UnknownTenant { name: job.tenant.as_str().into() } },
            ));
        }
        asks.push(partition.zip(ask));
    }
    let mut baseline = Baseline {
        rule,
        jobs,
        index,
        scratch: Scratch::default(),
        partitions,
        asks,
        held: BTreeMap::new(),
        ends: BinaryHeap::new(),
        rows: Vec::with_capacity(jobs.len() * 2),
        turns: 0,
    };
    baseline.run(shown)?;
    let durations = jobs.iter().map(|job| job.duration).collect();
    let Baseline { rows, turns, .. } = baseline;
    Ok(Replayed { rows, durations, refused, usage: Vec::new(), turns, state_digest: 0 })
}

type Installed<'n> = (Vec<Partition>, BTreeMap<&'n str, usize>, PlaceIndex);

/// One pool of the index for each partition, model and size.
fn install(nodes: &[TraceNode], partitioned: bool) -> Result<Installed<'_>, DriveError> {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut partitions: Vec<Partition> = Vec::new();
    let mut pools = 0;
    let mut of_core = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        let count = names.len();
        let partition = *names.entry(if partitioned { &node.pool } else { "" }).or_insert(count);
        if partition == partitions.len() {
            partitions.push(Partition::default());
        }
        let known = &mut partitions[partition].pools;
        let pool = match known.iter().find(|(model, gpus, _)| *model == node.model && *gpus == node.gpus) {
            Some((.., pool)) => *pool,
            None => {
                known.push((node.model.clone(), node.gpus, PoolIndex::of(pools)));
                pools += 1;
                PoolIndex::of(pools - 1)
            }
        };
        of_core.push(self::node(place, node, pool)?);
    }
    let topology = Topology::compile(&of_core).expect("nodes without a location contradict nothing");
    let index = PlaceIndex::build(&topology, &of_core);
    Ok((partitions, names, index))
}

fn node(place: usize, node: &TraceNode, pool: PoolIndex) -> Result<Node, DriveError> {
    if node.gpus as usize > dure_core::gpu::MAX_GPUS_PER_NODE {
        return Err(DriveError::NodeTooLarge { node: node.name.clone(), gpus: node.gpus });
    }
    let gpus = GpuSet::first(node.gpus as usize);
    Ok(Node {
        index: NodeIndex::of(place),
        name: node.name.as_str().into(),
        pool,
        location: Location::default(),
        capacity: Capacity {
            gpus,
            islands: gpus.iter().map(|_| gpus).collect(),
            layouts: Box::default(),
            cpu: node.cpu,
            memory: node.memory,
            labels: Default::default(),
        },
        boot_id: "".into(),
        contact: Contact::Ready,
        contact_since: Time(0),
        cordoned: false,
        draining: false,
        spare: false,
        booked: Default::default(),
        bad: GpuSet::EMPTY,
        taken: GpuSet::EMPTY,
        parts: dure_core::parts::Parts::default(),
        cpu_taken: CpuMilli::ZERO,
        memory_taken: MemoryMib::ZERO,
        residents: Default::default(),
        promised: SetAside::default(),
        reserved: SetAside::default(),
    })
}

/// What a job asks of its partition; none when nothing there will do.
fn ask(partition: &Partition, job: &TraceJob) -> Result<Option<Request>, DriveError> {
    let pools = || partition.pools.iter().filter(|(model, ..)| job.models.is_empty() || job.models.contains(model));
    let Some(largest) = pools().map(|(_, gpus, _)| *gpus).max().filter(|gpus| *gpus > 0) else { return Ok(None) };
    let gang = gang(job, largest)?;
    Ok(Some(Request {
        part: dure_core::request::Part::Whole,
        shape: gang.shape,
        pools: pools().map(|(.., pool)| *pool).collect(),
        cpu: gang.cpu,
        memory: gang.memory,
        required: None,
        preferred: None,
        distinct_nodes: gang.distinct_nodes,
        only: Default::default(),
    }))
}

impl Baseline<'_> {
    fn run(&mut self, mut shown: impl FnMut(usize)) -> Result<(), DriveError> {
        let (mut next, mut ended) = (0, 0);
        let mut touched: BTreeSet<usize> = BTreeSet::new();
        loop {
            let due = self.jobs.get(next).map(|job| job.submit);
            let end = self.ends.peek().map(|Reverse((time, _))| *time);
            let Some(now) = due.into_iter().chain(end).min() else { break };
            self.turns += 1;
            while let Some(Reverse((time, job))) = self.ends.peek().copied()
                && time <= now
            {
                self.ends.pop();
                touched.insert(self.end(job, now));
                ended += 1;
            }
            while let Some(job) = self.jobs.get(next)
                && job.submit <= now
            {
                if let Some((partition, _)) = &self.asks[next] {
                    self.partitions[*partition].queue.insert(self.rule.turn(job, next));
                    touched.insert(*partition);
                }
                next += 1;
            }
            for partition in std::mem::take(&mut touched) {
                self.start_what_fits(partition, now);
            }
            shown(ended);
        }
        match self.partitions.iter().find_map(|partition| partition.queue.first()) {
            None => Ok(()),
            Some((.., first)) => Err(DriveError::Stuck {
                jobs: self.partitions.iter().map(|partition| partition.queue.len()).sum(),
                first: self.jobs[*first].id.clone(),
                why: "it fits into its partition at no time".into(),
            }),
        }
    }

    /// The head of the queue as long as it fits; then, if the rule is so, what does not delay it.
    fn start_what_fits(&mut self, partition: usize, now: Time) {
        while let Some(turn) = self.partitions[partition].queue.first().copied() {
            let (.., job) = turn;
            let Some(members) = self.find(job) else { break };
            self.partitions[partition].queue.remove(&turn);
            self.start(job, members, now);
        }
        if self.rule == Rule::FifoBackfill && self.partitions[partition].queue.len() > 1 {
            self.backfill(partition, now);
        }
    }

    fn find(&mut self, job: usize) -> Option<Members> {
        let (_, request) = self.asks[job].as_ref().expect("only jobs with a partition are queued");
        let (index, scratch) = (&mut self.index, &mut self.scratch);
        request.pools.iter().find_map(|pool| index.place(request, *pool, &[], SEARCH_STEPS, scratch).ok())
    }

    fn request(&self, job: usize) -> &Request {
        &self.asks[job].as_ref().expect("only jobs with a partition run").1
    }

    fn start(&mut self, job: usize, members: Members, now: Time) {
        let (partition, request) = self.asks[job].as_ref().expect("only jobs with a partition are queued");
        self.index.take(&members, request);
        let (row, run) = (&self.jobs[job], self.jobs[job].duration);
        self.partitions[*partition].limits.insert((now + limit_of(row).max(run), job));
        self.ends.push(Reverse((now + run, job)));
        let moment = Moment::Start(members.iter().map(|placed| (placed.node.0, placed.gpus)).collect());
        self.rows.push(Row { time: now, job, attempt: 1, moment });
        self.held.insert(job, members);
    }

    /// What a job held is free; gives its partition.
    fn end(&mut self, job: usize, now: Time) -> usize {
        let members = self.held.remove(&job).expect("what ends was started");
        let (partition, request) = self.asks[job].as_ref().expect("only jobs with a partition run");
        self.index.release(&members, request);
        let started = Time(now.0 - self.jobs[job].duration.0);
        let limit = limit_of(&self.jobs[job]).max(self.jobs[job].duration);
        self.partitions[*partition].limits.remove(&(started + limit, job));
        self.rows.push(Row { time: now, job, attempt: 1, moment: Moment::End });
        *partition
    }

    /// Starts later jobs that do not delay the head.
    fn backfill(&mut self, partition: usize, now: Time) {
        let Some((.., head)) = self.partitions[partition].queue.first().copied() else { return };
        let Some((at, reserved)) = self.reserve(partition, head) else { return };
        let later: Vec<usize> =
            self.partitions[partition].queue.iter().skip(1).take(MAX_BACKFILL).map(|(.., job)| *job).collect();
        let mut refused: BTreeSet<Request> = BTreeSet::new();
        for job in later {
            if refused.contains(self.request(job)) {
                continue;
            }
            let Some(members) = self.find(job) else {
                refused.insert(self.request(job).clone());
                continue;
            };
            let row = &self.jobs[job];
            if now + limit_of(row).max(row.duration) > at {
                // It is there when the head is to start, and may be nowhere that the head counts on.
                let kept = |node: &NodeIndex| reserved.get(node).copied().unwrap_or_default();
                if members.iter().any(|placed| !kept(&placed.node).and(placed.gpus).is_empty()) {
                    continue;
                }
            }
            self.partitions[partition].queue.remove(&self.rule.turn(&self.jobs[job], job));
            self.start(job, members, now);
        }
    }

    /// When the head fits by the limits of what runs, and which GPUs it would get then.
    fn reserve(&mut self, partition: usize, head: usize) -> Option<(Time, BTreeMap<NodeIndex, GpuSet>)> {
        let mark = self.index.checkpoint();
        let running: Vec<(Time, usize)> = self.partitions[partition].limits.iter().copied().collect();
        let mut found = None;
        for (at, job) in running {
            let request = &self.asks[job].as_ref().expect("only jobs with a partition run").1;
            self.index.release(&self.held[&job], request);
            if let Some(members) = self.find(head) {
                let mut kept: BTreeMap<NodeIndex, GpuSet> = BTreeMap::new();
                for placed in &members {
                    let of_node = kept.entry(placed.node).or_default();
                    *of_node = of_node.with(placed.gpus);
                }
                found = Some((at, kept));
                break;
            }
        }
        self.index.rollback(mark);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, pool: &str) -> TraceNode {
        TraceNode { name: name.into(), gpus: 8, pool: pool.into(), ..TraceNode::default() }
    }

    /// `tenant submit run limit gpus`, in seconds; the id is the place.
    fn jobs(rows: &[(&str, u64, u64, u64, u32)]) -> Vec<TraceJob> {
        let job = |(at, (tenant, submit, run, limit, gpus)): (usize, &(&str, u64, u64, u64, u32))| TraceJob {
            id: at.to_string(),
            tenant: (*tenant).into(),
            submit: Time(submit * 1000),
            duration: Span::seconds(*run),
            limit: Some(Span::seconds(*limit)),
            gpus: *gpus,
            gpu_milli: 1000,
            ..TraceJob::default()
        };
        rows.iter().enumerate().map(job).collect()
    }

    /// When each job starts, in seconds.
    fn starts(rule: Rule, partitioned: bool, jobs: &[TraceJob]) -> Vec<u64> {
        let nodes = [node("n0", "x"), node("n1", "y")];
        let replayed = run(&nodes, jobs, rule, partitioned, |_| ()).expect("it can be replayed");
        let mut starts = vec![0; jobs.len()];
        for row in replayed.rows.iter().filter(|row| matches!(row.moment, Moment::Start(_))) {
            starts[row.job] = row.time.0 / 1000;
        }
        starts
    }

    #[test]
    fn the_head_blocks_the_line_and_backfill_passes_it_only_where_it_does_not_delay_it() {
        let all = jobs(&[
            ("x", 0, 10, 100, 12), // holds n0 and half of n1
            ("x", 1, 10, 50, 16),  // the head: fits when 0 is gone, by its limit at 100
            ("x", 2, 30, 30, 4),   // ends by 32: before 100
            ("x", 3, 200, 200, 4), // ends after 100, and would be in the way
        ]);
        assert_eq!(starts(Rule::Fifo, false, &all), [0, 10, 20, 20]);
        assert_eq!(starts(Rule::FifoBackfill, false, &all), [0, 32, 2, 42]);
        assert_eq!(starts(Rule::Sjf, false, &all), [0, 10, 20, 20]);
    }

    #[test]
    fn partitions_have_queues_of_their_own_and_the_shortest_goes_first() {
        let all = jobs(&[("x", 0, 10, 10, 8), ("x", 1, 9, 9, 8), ("x", 2, 3, 3, 8), ("y", 3, 5, 5, 8)]);
        assert_eq!(starts(Rule::Fifo, true, &all), [0, 10, 19, 3]);
        assert_eq!(starts(Rule::Sjf, true, &all), [0, 13, 10, 3]);
        assert_eq!(starts(Rule::Fifo, false, &all), [0, 1, 10, 10]);
        // A tenant without a partition is refused, not forgotten.
        let stranger = jobs(&[("z", 0, 1, 1, 1)]);
        let replayed = run(&[node("n0", "x")], &stranger, Rule::Fifo, true, |_| ()).expect("it can be replayed");
        assert_eq!((replayed.refused.len(), replayed.rows.len()), (1, 0));
    }
}
