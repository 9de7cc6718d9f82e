//! A cycle over a very long queue: it should cost what its classes cost.
//!
//! The cluster is full. Measured are the first cycle (every class is tried and refused), one in which nothing has changed,
//! and one after a node was freed (every class is tried again and a few jobs start); each also for a hundredth of the jobs.

use std::time::Instant;

use dure_core::cycle::cycle;
use dure_core::ids::{AttemptNumber, JobId, MemberIndex};
use dure_core::input::{JobDraft, MemberReport};
use dure_core::job::{Exit, ExitHow};
use dure_core::request::Shape;
use dure_core::units::{Span, Time};
use dure_core::{Cluster, Input};

use super::constraint::Constraint;
use super::work::{self, Fill, Line, NOW, Size};
use crate::bench::report::Report;
use crate::failure::Failure;

const NODES: u32 = 1_000;
const GPUS: u32 = 8;
const MISSIONS: u32 = 12;
const USERS: usize = 600;
const CLASSES: usize = 300;
/// Runs; medians are shown.
const RUNS: usize = 5;
/// The first of the jobs that fill the cluster; before it there was the one that built the index.
const FILLER: JobId = JobId(2);
/// Jobs in one call.
const BATCH: usize = 10_000;

/// Measures it and says how much more many jobs cost than a hundredth of them in as many classes.
pub(super) fn measure(jobs: usize, report: &mut Report) -> Result<(), Failure> {
    let few = cycles(jobs / 100)?;
    let many = cycles(jobs)?;
    report.add("pending_jobs", jobs as f64, "");
    report.add("pending_users", USERS as f64, "");
    report.add("pending_classes", CLASSES as f64, "");
    for (name, few, many) in [
        ("first", few.first, many.first),
        ("unchanged", few.unchanged, many.unchanged),
        ("freed", few.freed, many.freed),
    ] {
        report.add(format!("pending_{name}_cycle_us"), many as f64 / 1_000.0, "");
        report.add(format!("pending_{name}_ratio_to_a_hundredth"), many as f64 / few.max(1) as f64, "");
    }
    Ok(())
}

/// Nanoseconds.
#[derive(Clone, Copy)]
struct Cycles {
    first: u64,
    unchanged: u64,
    freed: u64,
}

fn cycles(jobs: usize) -> Result<Cycles, Failure> {
    let cluster = full(jobs)?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let mut cluster = cluster.clone();
        cluster.provision();
        let first = timed(&mut cluster, NOW);
        let later = NOW + Span::seconds(1);
        let unchanged = timed(&mut cluster, later);
        let exit = MemberReport::Gone(Exit::of(ExitHow::Code(0)));
        let (job, attempt, member) = (FILLER, AttemptNumber(1), MemberIndex(0));
        let node =
            cluster.job(job).and_then(|job| job.attempt.as_deref()).map(|attempt| attempt.members[0].placed.node);
        let node = node.expect("the job of the first node runs");
        work::input(&mut cluster, Input::MemberReported { node, job, attempt, member, report: exit })?;
        cluster.provision();
        let freed = timed(&mut cluster, later + Span::seconds(1));
        runs.push(Cycles { first, unchanged, freed });
    }
    let median = |of: fn(&Cycles) -> u64| {
        let mut all: Vec<u64> = runs.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    Ok(Cycles {
        first: median(|run| run.first),
        unchanged: median(|run| run.unchanged),
        freed: median(|run| run.freed),
    })
}

fn timed(cluster: &mut Cluster, now: Time) -> u64 {
    let mut events = Vec::new();
    let started = Instant::now();
    cycle(cluster, now, &mut events);
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A cluster on which one job runs on each node and the rest waits.
fn full(jobs: usize) -> Result<Cluster, Failure> {
    let size = Size {
        nodes: NODES,
        gpus: GPUS,
        leaf: 32,
        fill: Fill::Empty,
        missions: MISSIONS,
        constraint: Constraint::None,
    };
    let fillers: Vec<Line> = (0..NODES).map(|_| Line { members: 1, gpus: GPUS as u8, hours: 1 }).collect();
    let mut cluster = work::build(&size, &[])?;
    let drafts = fillers.iter().enumerate().map(|(job, line)| work::draft(&size, job, line)).collect();
    work::input(&mut cluster, Input::Submit(drafts))?;
    cycle(&mut cluster, NOW, &mut Vec::new());
    for start in (0..jobs).step_by(BATCH) {
        let drafts = (start..(start + BATCH).min(jobs)).map(pending).collect();
        work::input(&mut cluster, Input::Submit(drafts))?;
    }
    Ok(cluster)
}

/// Job `job`: users in turn, each with all classes in turn.
fn pending(job: usize) -> JobDraft {
    let user = job % USERS;
    let class = (job / USERS + user) % CLASSES;
    let shape = Shape::Equal { members: 1 + class as u32 / GPUS, gpus: 1 + (class as u32 % GPUS) as u8 };
    let tenant = format!("m{}", user % MISSIONS as usize).into();
    JobDraft { tenant, user: format!("user{user}").into(), shape, ..work::plain() }
}
