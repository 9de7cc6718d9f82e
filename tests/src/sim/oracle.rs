//! What must hold, whatever goes wrong: judged from outside, by what clients were told, what disks hold and what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use dure_agent::model::{Exit, How, Launch, MemberId};
use dure_core::event::Event;
use dure_core::ids::{JobId, Seq};
use dure_core::reply::Reply;
use dure_core::{Cluster, Policy};
use dure_proto::v1;
use dure_scheduler::journal::MemoryEngine;
use dure_scheduler::recover::Recovered;
use dure_scheduler::source::{DurableBatch, Turns};

use super::agent::is_script;
use super::clock::Ms;

/// A gang of which some members run and others never started, or one has ended badly, is broken up within this: launch
/// deadline, the slack of the time limit, the longest grace and kill bound, and reports that must be sent twice.
pub(super) const HALF_GANG_MS: Ms = 90_000;

/// One run of a gang, as its processes show it.
#[derive(Debug, Default)]
struct Gang {
    size: usize,
    /// Where its members lie, those that never started too.
    nodes: BTreeSet<usize>,
    started: BTreeSet<u32>,
    alive: BTreeSet<u32>,
    broken: bool,
    /// Its script runs on the first member; the others end with it.
    is_script: bool,
    /// It ran when the journal lost something, and may be unknown to it: nobody is obliged to break it up.
    is_orphan: bool,
    /// Since when it has been half running.
    half_since: Option<Ms>,
}

/// A process: where it runs, and on which GPUs.
#[derive(Debug)]
struct Runs {
    node: usize,
    gpus: Vec<u32>,
    /// Thousandths of its GPU; 0: all of its GPUs, or an instance.
    milli: u32,
    /// The memory slices of its MIG instance.
    slices: Option<Range<u32>>,
    /// It ran when the journal lost something: a restored journal may not know it, and nobody kills what is not known.
    is_orphan: bool,
}

impl Runs {
    /// Whether both cannot be there at the same time.
    fn excludes(&self, node: usize, launch: &Launch) -> bool {
        let both = self.milli + launch.gpu_milli;
        let is_shared = self.milli > 0 && launch.gpu_milli > 0 && both <= 1_000;
        let is_beside = |one: &Range<u32>, other: &Range<u32>| one.end <= other.start || other.end <= one.start;
        let is_apart = self.slices.as_ref().zip(slices(launch)).is_some_and(|(one, other)| is_beside(one, &other));
        self.node == node && !is_shared && !is_apart && self.gpus.iter().any(|gpu| launch.gpus.contains(gpu))
    }
}

/// The memory slices of the instance that a member is launched on; as the names of the profiles say them.
fn slices(launch: &Launch) -> Option<Range<u32>> {
    let mig = launch.mig.as_ref()?;
    let slices = match &*mig.profile {
        "1g.10gb" => 1,
        "2g.20gb" => 2,
        _ => 4,
    };
    Some(mig.first_slice..mig.first_slice + slices)
}

/// The judge.
pub(super) struct Oracle {
    /// The state that the durable turns build.
    shadow: Cluster,
    head: Seq,
    /// By request: what its client was told.
    acknowledged: BTreeMap<usize, Reply>,
    ended: BTreeSet<JobId>,
    /// Members that the journal knows to be gone.
    over: BTreeSet<(u64, u32, u32)>,
    prepared: BTreeSet<MemberId>,
    started: BTreeSet<(usize, MemberId)>,
    staged: BTreeSet<(usize, MemberId)>,
    alive: BTreeMap<MemberId, Runs>,
    gangs: BTreeMap<(u64, u32), Gang>,
    /// The highest id that was ever given to a job.
    highest: JobId,
    /// The same before the last restore, which gave positions up: what was acknowledged after them is lost.
    given_up: JobId,
    /// The journal was restored and has not been read since.
    restored: bool,
}

impl Oracle {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            shadow: Cluster::new(policy),
            head: Seq(0),
            acknowledged: BTreeMap::new(),
            ended: BTreeSet::new(),
            over: BTreeSet::new(),
            prepared: BTreeSet::new(),
            started: BTreeSet::new(),
            staged: BTreeSet::new(),
            alive: BTreeMap::new(),
            gangs: BTreeMap::new(),
            highest: JobId(0),
            given_up: JobId(0),
            restored: false,
        }
    }

    /// The state at the end of what is durable.
    pub(super) fn state(&self) -> &Cluster {
        &self.shadow
    }

    /// Whether the journal knows this member to be gone.
    pub(super) fn is_over(&self, lease: &v1::Lease) -> bool {
        self.over.contains(&(lease.job_id, lease.attempt, lease.member))
    }

    /// A turn is said to be durable.
    pub(super) fn durable(&mut self, turn: &DurableBatch) -> Result<(), String> {
        if turn.last() <= self.head {
            return Ok(());
        }
        if turn.first_seq != self.head.0 + 1 {
            return Err(format!("position {} follows {} in the journal", turn.first_seq, self.head));
        }
        for event in &turn.events {
            match event {
                Event::JobSubmitted { job, .. } if !self.restored && *job <= self.given_up => {
                    return Err(format!("the id {job} was given before a restore and is given again"));
                }
                Event::JobSubmitted { job, .. } => self.highest = self.highest.max(*job),
                Event::JobEnded { job, .. } => drop(self.ended.insert(*job)),
                Event::MemberGone { job, attempt, member, .. } | Event::MemberProven { job, attempt, member } => {
                    self.over.insert((job.0, attempt.0, member.0));
                }
                _ => {}
            }
            self.shadow.apply(turn.time, event);
        }
        self.head = turn.last();
        Ok(())
    }

    /// A scheduler has recovered: history is state, and nothing acknowledged is lost.
    pub(super) fn recovered(&mut self, engine: &MemoryEngine, recovered: &Recovered) -> Result<(), String> {
        if recovered.head < self.head {
            return Err(format!(
                "acknowledged positions {} to {} are not in the journal that was recovered",
                recovered.head.0 + 1,
                self.head
            ));
        }
        for turn in Turns::from(engine, Seq(self.head.0 + 1)) {
            self.durable(&turn.map_err(|err| err.to_string())?)?;
        }
        let (ours, theirs) = (self.shadow.digest(), recovered.cluster.digest());
        if ours != theirs {
            return Err(format!("at {} history builds {ours:016x}, recovery {theirs:016x}", self.head));
        }
        if std::mem::take(&mut self.restored) {
            self.restored_to();
        }
        self.nothing_lost()
    }

    /// What the loss excuses, now that it is known to where the journal was restored: jobs that it does not know, members
    /// that it does not know and nobody therefore ends, and the second start of members whose end it has forgotten.
    fn restored_to(&mut self) {
        let (shadow, ended) = (&self.shadow, &self.ended);
        self.acknowledged.retain(|_, reply| lost_job(shadow, ended, reply).is_none());
        self.started.retain(|(_, id)| !expects(shadow, *id));
        self.alive.iter_mut().for_each(|(id, runs)| runs.is_orphan |= !expects(shadow, *id));
        for (&(job, attempt), gang) in &mut self.gangs {
            let known = shadow.job(JobId(job)).and_then(|job| job.attempt.as_deref());
            gang.is_orphan |= known.is_none_or(|known| known.number.0 != attempt || known.ended_at.is_some());
        }
    }

    /// Every acknowledged job is known, or has ended.
    pub(super) fn nothing_lost(&self) -> Result<(), String> {
        if self.head == Seq(0) {
            return Ok(()); // a restored journal has not been read again yet
        }
        let lost = self.acknowledged.values().find_map(|reply| lost_job(&self.shadow, &self.ended, reply));
        lost.map_or(Ok(()), |job| Err(format!("job {job} was acknowledged and is lost")))
    }

    /// Positions after the head of a restored journal are given up.
    pub(super) fn gave_up(&mut self, policy: Policy) {
        self.shadow = Cluster::new(policy);
        self.head = Seq(0);
        self.ended.clear();
        self.over.clear();
        self.given_up = self.highest;
        self.restored = true;
    }

    /// A client hears what became of its request.
    pub(super) fn acknowledged(&mut self, request: usize, reply: Reply) -> Result<(), String> {
        if lost_job(&self.shadow, &self.ended, &reply).is_some_and(|job| job <= self.given_up) {
            // It left before the loss, and arrives after it was given up.
            return Ok(());
        }
        match self.acknowledged.insert(request, reply) {
            Some(earlier) if earlier != reply => {
                Err(format!("request {request} was answered with {earlier:?} and then with {reply:?}"))
            }
            _ => Ok(()),
        }
    }

    /// A lease that may lead to a start is on disk.
    pub(super) fn prepared(&mut self, id: MemberId) {
        self.prepared.insert(id);
    }

    /// The image of a member is on its node.
    pub(super) fn staged(&mut self, node: usize, id: MemberId) {
        self.staged.insert((node, id));
    }

    pub(super) fn process_started(
        &mut self,
        now: Ms,
        node: usize,
        id: MemberId,
        launch: &Launch,
    ) -> Result<(), String> {
        if !self.started.insert((node, id)) {
            return Err(format!("{id} was started twice on node {node}"));
        }
        for (other, runs) in &self.alive {
            if runs.excludes(node, launch) {
                return Err(format!("{id} starts on GPUs {:?} of node {node}, which {other} holds", launch.gpus));
            }
            if other.job == id.job && other.attempt != id.attempt && !runs.is_orphan {
                return Err(format!("{id} starts while {other} of an earlier attempt runs on node {}", runs.node));
            }
            if other == &id && !runs.is_orphan {
                return Err(format!("{id} starts on node {node} while it runs on node {}", runs.node));
            }
        }
        // Who waits for nobody has the image brought by the shim's start.
        let is_contained = launch.payload.as_ref().is_some_and(|payload| payload.container.is_some());
        if is_contained && !launch.start_at_once && !self.staged.contains(&(node, id)) {
            return Err(format!("{id} starts on node {node} without its image"));
        }
        let size = launch.peers.len();
        if size > 1 {
            let member = |member: u32| MemberId { member, ..id };
            if let Some(missing) = (0..size as u32).map(member).find(|member| !self.prepared.contains(member)) {
                return Err(format!("{id} starts before {missing} of the same gang was prepared"));
            }
        }
        // An order of what was given up may have been under way when the journal was restored.
        let is_orphan = self.given_up > JobId(0) && !expects(&self.shadow, id);
        let (gpus, milli, slices) = (launch.gpus.clone(), launch.gpu_milli, slices(launch));
        self.alive.insert(id, Runs { node, gpus, milli, slices, is_orphan });
        let gang = self.gangs.entry((id.job, id.attempt)).or_default();
        gang.size = size;
        gang.nodes = launch.peers.iter().filter_map(|peer| peer.node.strip_prefix('n')?.parse().ok()).collect();
        gang.is_script = is_script(launch);
        gang.is_orphan |= is_orphan;
        gang.started.insert(id.member);
        gang.alive.insert(id.member);
        gang.look(now);
        Ok(())
    }

    pub(super) fn process_ended(&mut self, node: usize, id: MemberId, exit: Option<&Exit>) {
        if self.alive.get(&id).is_some_and(|runs| runs.node == node) {
            self.alive.remove(&id);
        }
        if let Some(gang) = self.gangs.get_mut(&(id.job, id.attempt)) {
            gang.alive.remove(&id.member);
            let is_end = gang.is_script && id.member == 0;
            gang.broken |= is_end || exit.is_none_or(|exit| exit.how != How::Code(0));
        }
    }

    /// Looks for gangs that have been half running for too long, while none of their nodes was disturbed, nor a scheduler:
    /// since when says `disturbed`.
    pub(super) fn no_half_gang(&mut self, now: Ms, disturbed: impl Fn(usize) -> Ms) -> Result<(), String> {
        for (&(job, attempt), gang) in &mut self.gangs {
            gang.look(now);
            let last = gang.nodes.iter().map(|node| disturbed(*node)).max().unwrap_or_default();
            let since = gang.half_since.map(|since| since.max(last));
            if since.is_some_and(|since| now.saturating_sub(since) > HALF_GANG_MS) && !gang.is_orphan {
                return Err(format!(
                    "gang {job}.{attempt} has been half running for more than {HALF_GANG_MS} ms: {} of {} members \
                     started, {} run",
                    gang.started.len(),
                    gang.size,
                    gang.alive.len()
                ));
            }
        }
        self.gangs.retain(|_, gang| !gang.alive.is_empty() || gang.started.len() < gang.size);
        Ok(())
    }

    /// Whether the durable state waits for this member, and would notice its end.
    pub(super) fn expects(&self, id: MemberId) -> bool {
        expects(&self.shadow, id)
    }

    /// Processes that live.
    pub(super) fn alive(&self) -> usize {
        self.alive.len()
    }
}

impl Gang {
    fn look(&mut self, now: Ms) {
        let is_half = self.size > 1 && !self.alive.is_empty() && (self.started.len() < self.size || self.broken);
        self.half_since = if is_half { self.half_since.or(Some(now)) } else { None };
    }
}

fn expects(state: &Cluster, id: MemberId) -> bool {
    let attempt = state.job(JobId(id.job)).and_then(|job| job.attempt.as_deref());
    attempt.is_some_and(|attempt| attempt.number.0 == id.attempt && attempt.alive().any(|(m, _)| m.0 == id.member))
}

fn lost_job(state: &Cluster, ended: &BTreeSet<JobId>, reply: &Reply) -> Option<JobId> {
    let Reply::Submitted { first, count } = reply else { return None };
    let known = |job: &JobId| state.job(*job).is_some() || ended.contains(job);
    (first.0..first.0 + u64::from(*count)).map(JobId).find(|job| !known(job))
}
