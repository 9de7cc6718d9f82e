//! A cluster in one text, what became of it in another: for tests by example, here and in other crates.
//!
//! In: lines, each a keyword and its words; `#` begins a comment, `|` repeats the keyword. First the cluster:
//!
//! ```text
//! node   n0 n1 gpus=8 leaf=l0 model=H100 cpu=16 memory=64 bad=0-1
//! tenant prod quota=12 limit=16 lend=4 weight=2 pool=H100
//! run    dev/a 1x4 on n0 fixed            # runs there already; one node for all members, or one for each
//! queued prod/c 2x8 user=kim prio=high limit=6h least-limit=2h | prod/d 8+4 after=ok:c array=4%2    # one call
//! ```
//!
//! Then what happens, in order: `cycle`, `tick +10s`, `prepared|started|exit JOB[.MEMBER] [CODE|sigN|timeout|launch|unknown]`,
//! `cancel|hold|release|why|explain JOB`, `silent|lose|cordon|resume|confirm-dead NODE`, `return NODE boot=b2`, `drain NODE evict`,
//! `bad NODE 0-1`, `pause|unpause TENANT`, `quota TENANT quota=4`, `usage|budget TENANT`, `carry TENANT hours=4`,
//! `book NAME from=1h until=3h nodes=n0,n1`, `cancel-booking NAME`, `checkpoint JOB STEP`, and `node` and `submit` as above.
//! `plan` tells what is set aside, `defrag [apply]` what could move closer together. `request ID STEP` gives a step a request id, `policy KEY=N` changes a limit. Jobs are called by the last part of their
//! name, an index of an array `a[0]`.
//!
//! Out: the events of the steps in short lines, and after each cycle why the rest waits. After every step all invariants
//! are checked, and that the events and a snapshot both build the same state.

mod parse;
mod show;
mod step;
mod told;

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::event::Event;
use crate::ids::JobId;
use crate::invariants;
use crate::policy::Policy;
use crate::units::{Span, Time};

/// A cluster under test.
pub struct Fixture {
    /// The state.
    pub cluster: Cluster,
    /// The time; moved by `tick`.
    pub now: Time,
    /// Everything that happened, with its time.
    pub history: Vec<(Time, Event)>,
    names: BTreeMap<String, JobId>,
    out: Vec<String>,
}

/// Builds the cluster of `text`, lets happen what it says, and tells what became of it.
///
/// # Panics
/// When the text cannot be read, or an invariant is broken; says in which line.
pub fn run(text: &str) -> String {
    let mut fixture =
        Fixture::new(Policy { plan_interval: Span::ZERO, reserve_interval: Span::ZERO, ..Policy::standard() });
    for line in text.lines() {
        fixture.line(line);
    }
    fixture.out.join("\n")
}

impl Fixture {
    /// An empty cluster.
    pub fn new(policy: Policy) -> Self {
        let cluster = Cluster::new(policy);
        Self { cluster, now: Time(0), history: Vec::new(), names: BTreeMap::new(), out: Vec::new() }
    }

    /// Reads one line and lets it happen.
    ///
    /// # Panics
    /// As `run`.
    pub fn line(&mut self, line: &str) {
        let line = line.split('#').next().unwrap_or("").trim();
        let Some((keyword, rest)) = line.split_once(' ').or((!line.is_empty()).then_some((line, ""))) else { return };
        self.step(keyword, rest.trim());
        self.check(line);
    }

    /// What became of it so far.
    pub fn outcome(&self) -> &[String] {
        &self.out
    }

    /// All invariants, and that the state can be built again in both ways.
    fn check(&self, line: &str) {
        if let Err(why) = invariants::check_all(&self.cluster) {
            panic!("after `{line}`: {why}\n{}", self.out.join("\n"));
        }
        let policy = || self.cluster.policy().clone();
        let mut replayed = Cluster::new(policy());
        self.history.iter().for_each(|(time, event)| replayed.apply(*time, event));
        assert_eq!(replayed.digest(), self.cluster.digest(), "after `{line}`: the events do not build the same state");
        let mut restored = Cluster::new(policy());
        self.cluster.snapshot().for_each(|event| restored.apply(self.now, &event));
        assert_eq!(
            restored.digest(),
            self.cluster.digest(),
            "after `{line}`: the snapshot does not build the same state"
        );
        if let Err(why) = invariants::check_all(&restored) {
            panic!("after `{line}`, restored: {why}");
        }
    }

    pub(crate) fn job(&self, name: &str) -> JobId {
        *self.names.get(name).unwrap_or_else(|| panic!("no job is called {name:?}: {:?}", self.names))
    }

    /// The short name of a job, as steps call it.
    pub fn name_of(&self, job: JobId) -> String {
        self.name(job)
    }

    /// The short name of a job.
    fn name(&self, job: JobId) -> String {
        let found = self.names.iter().find(|(_, id)| **id == job).map(|(name, _)| name.clone());
        found.unwrap_or_else(|| format!("j{job}"))
    }
}
