//! Rows -> figures by tenant: who waited how long, who held what, what was lost, what was owed. One pass, in the order of time.
//!
//! Comes in: jobs in the order of their times, nodes, quotas, rows. Goes out: sums in exact units; `report` makes figures of
//! them. It looks at nothing but what a judge outside could see as well.

use std::collections::BTreeMap;

use dure_core::gpu::GpuSet;
use dure_core::units::{GpuTime, Gpus, Span, Time};
use smallvec::SmallVec;

use crate::trace::{Moment, Row, TraceJob, TraceNode};

/// What a tenant has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// From submit to the first start, of each job that started, in the order of the starts.
    pub waits: Vec<Span>,
    /// From submit to the end, and how long the last attempt ran, of each job that ended.
    pub completions: Vec<(Span, Span)>,
    /// Jobs submitted.
    pub jobs: u64,
    /// GPU-time held.
    pub held: GpuTime,
    /// GPU-time held inside the quota of the tenant.
    pub own: GpuTime,
    /// GPU-time of attempts that were evicted.
    pub evicted: GpuTime,
    /// GPU-time of attempts that were lost to faults.
    pub faulted: GpuTime,
    /// Attempts that were evicted.
    pub evictions: u64,
    /// Attempts that were lost to faults.
    pub losses: u64,
    /// GPU-time of the quota that it did not hold while jobs of its own waited.
    pub owed: GpuTime,
    /// GPU-time that its waiting jobs asked for.
    pub wanted: GpuTime,
    /// Gangs of several nodes that started, and those of them inside one leaf.
    pub gangs: (u64, u64),
}

/// A tenant under way.
#[derive(Debug, Default)]
struct Account {
    quota: u64,
    used: u64,
    waiting: u64,
    waiting_jobs: u64,
    since: Time,
    tally: Tally,
}

impl Account {
    /// Adds up what lasted until `now`.
    fn pass(&mut self, now: Time) {
        let span = now.since(self.since).0;
        self.since = now;
        let tally = &mut self.tally;
        tally.held += GpuTime(self.used * span);
        tally.own += GpuTime(self.used.min(self.quota) * span);
        tally.wanted += GpuTime(self.waiting * span);
        tally.owed += GpuTime(self.quota.saturating_sub(self.used).min(self.waiting) * span);
    }
}

/// How things stood at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When.
    pub time: Time,
    /// By tenant, in the order of `Measured::tenants`: GPUs held, GPUs above quota, jobs waiting, GPUs that they ask for.
    pub tenants: Vec<[u64; 4]>,
}

/// What a replay has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Measured {
    /// By tenant.
    pub tenants: BTreeMap<String, Tally>,
    /// From the first submit to the last row.
    pub span: Span,
    /// GPUs of all nodes.
    pub gpus: Gpus,
    /// GPU-time that was idle.
    pub idle: GpuTime,
    /// GPU-time that was idle on nodes of which a part was taken.
    pub idle_in_parts: GpuTime,
    /// One for each step, if any were asked for.
    pub samples: Vec<Sample>,
}

/// The pass under way.
struct Pass<'a> {
    jobs: &'a [TraceJob],
    nodes: &'a [TraceNode],
    /// The account of each job's tenant.
    payers: Vec<u32>,
    accounts: Vec<Account>,
    taken: Vec<u32>,
    idle: u64,
    idle_in_parts: u64,
    since: Time,
    /// What each job holds, since when, and whether it has ever started.
    held: Vec<Holding>,
    arrived: usize,
    step: Option<Span>,
    next_sample: Time,
    measured: Measured,
}

#[derive(Clone, Debug, Default)]
struct Holding {
    since: Time,
    members: SmallVec<[(u32, GpuSet); 1]>,
    started: bool,
}

/// Adds up `rows`; `step`: a sample is taken so often.
pub fn measure(
    rows: &[Row],
    jobs: &[TraceJob],
    nodes: &[TraceNode],
    quotas: &BTreeMap<String, Gpus>,
    step: Option<Span>,
) -> Measured {
    let mut names: BTreeMap<&str, u32> = quotas.keys().map(|name| (name.as_str(), 0)).collect();
    names.extend(jobs.iter().map(|job| (job.tenant.as_str(), 0)));
    for (at, place) in names.values_mut().enumerate() {
        *place = at as u32;
    }
    let start = jobs.first().map_or(Time(0), |job| job.submit);
    let gpus: u64 = nodes.iter().map(|node| u64::from(node.gpus)).sum();
    let account = |name: &&str| Account {
        quota: quotas.get(*name).map_or(0, |quota| u64::from(quota.rounded_up())),
        since: start,
        ..Account::default()
    };
    let mut pass = Pass {
        jobs,
        nodes,
        payers: jobs.iter().map(|job| names[job.tenant.as_str()]).collect(),
        accounts: names.keys().map(account).collect(),
        taken: vec![0; nodes.len()],
        idle: gpus,
        idle_in_parts: 0,
        since: start,
        held: vec![Holding::default(); jobs.len()],
        arrived: 0,
        step,
        next_sample: start,
        measured: Measured { gpus: Gpus::whole(gpus as u32), ..Measured::default() },
    };
    for row in rows {
        pass.until(row.time);
        pass.take(row);
    }
    let end = rows.last().map_or(start, |row| row.time);
    pass.accounts.iter_mut().for_each(|account| account.pass(end));
    let mut measured = pass.measured;
    measured.span = end.since(start);
    measured.tenants = names
        .keys()
        .map(|name| (*name).to_owned())
        .zip(pass.accounts.into_iter().map(|account| account.tally))
        .collect();
    measured
}

impl Pass<'_> {
    /// Lets jobs arrive and time pass, until `now`.
    fn until(&mut self, now: Time) {
        while let Some(job) = self.jobs.get(self.arrived)
            && job.submit <= now
        {
            self.sample(job.submit);
            let account = &mut self.accounts[self.payers[self.arrived] as usize];
            account.pass(job.submit);
            account.waiting += u64::from(job.gpus);
            account.waiting_jobs += 1;
            account.tally.jobs += 1;
            self.arrived += 1;
        }
        self.sample(now);
        let span = now.since(self.since).0;
        self.since = now;
        self.measured.idle += GpuTime(self.idle * span);
        self.measured.idle_in_parts += GpuTime(self.idle_in_parts * span);
    }

    /// Takes the samples that are due before `now`.
    fn sample(&mut self, now: Time) {
        let Some(step) = self.step.filter(|step| *step > Span::ZERO) else { return };
        while self.next_sample < now {
            let of = |account: &Account| {
                [account.used, account.used.saturating_sub(account.quota), account.waiting_jobs, account.waiting]
            };
            let tenants = self.accounts.iter().map(of).collect();
            self.measured.samples.push(Sample { time: self.next_sample, tenants });
            self.next_sample = self.next_sample + step;
        }
    }

    fn take(&mut self, row: &Row) {
        let job = &self.jobs[row.job];
        let account = &mut self.accounts[self.payers[row.job] as usize];
        account.pass(row.time);
        let gpus = u64::from(job.gpus);
        if let Moment::Start(members) = &row.moment {
            account.used += gpus;
            account.waiting = account.waiting.saturating_sub(gpus);
            account.waiting_jobs = account.waiting_jobs.saturating_sub(1);
            let holding = &mut self.held[row.job];
            if !std::mem::replace(&mut holding.started, true) {
                account.tally.waits.push(row.time.since(job.submit));
            }
            holding.since = row.time;
            holding.members.clone_from(members);
            if members.iter().any(|(node, _)| *node != members[0].0) {
                let leaf = |node: u32| {
                    let at = &self.nodes[node as usize].location;
                    (&at.site, &at.spine, &at.leaf)
                };
                let is_one = members.iter().all(|(node, _)| leaf(*node) == leaf(members[0].0));
                account.tally.gangs.0 += 1;
                account.tally.gangs.1 += u64::from(is_one);
            }
            return self.occupy(row.job, true);
        }
        account.used -= gpus;
        let ran = row.time.since(self.held[row.job].since);
        let held = GpuTime(gpus * ran.0);
        let tally = &mut account.tally;
        match row.moment {
            Moment::End => tally.completions.push((row.time.since(job.submit), ran)),
            Moment::Preempt => (tally.evicted, tally.evictions) = (tally.evicted + held, tally.evictions + 1),
            Moment::Fail => (tally.faulted, tally.losses) = (tally.faulted + held, tally.losses + 1),
            Moment::Start(_) => unreachable!("a start has returned above"),
        }
        if row.moment != Moment::End {
            account.waiting += gpus;
            account.waiting_jobs += 1;
        }
        self.occupy(row.job, false);
    }

    /// The GPUs of a job are taken, or given back.
    fn occupy(&mut self, job: usize, taken: bool) {
        let parts = |taken: u32, all: u32| if taken > 0 { u64::from(all - taken) } else { 0 };
        for (node, gpus) in &self.held[job].members {
            let (count, all) = (gpus.len(), self.nodes[*node as usize].gpus);
            let of_node = &mut self.taken[*node as usize];
            self.idle_in_parts -= parts(*of_node, all);
            if taken {
                *of_node += count;
                self.idle -= u64::from(count);
            } else {
                *of_node -= count;
                self.idle += u64::from(count);
            }
            self.idle_in_parts += parts(*of_node, all);
        }
    }
}
