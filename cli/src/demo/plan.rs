//! What the demo submits, and how each job should end. Pure.

use dure_proto::v1::{ArraySpec, Dependency, DependencyKind, JobPhase, JobSpec, Payload, Shape, dependency::On};

/// What every job prints before it does anything else.
const REPORT: &str = "#!/bin/sh\n\
echo \"CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES\"\n\
echo \"RANK=$RANK\"\n\
echo \"WORLD_SIZE=$WORLD_SIZE\"\n\
echo \"MASTER=$MASTER_ADDR:$MASTER_PORT\"\n\
echo \"NODE=$DURE_NODE\"\n\
echo \"INDEX=$DURE_ARRAY_INDEX\"\n";

/// How the last line of the report begins.
pub(super) const LAST_WORD: &str = "INDEX=";

/// The missions, in the order of the summary.
pub(super) const MISSIONS: [&str; 12] = [
    "drug-discovery",
    "brain-interface",
    "nuclear-power",
    "fusion",
    "solar",
    "humanoid",
    "physical-ai",
    "space",
    "materials",
    "ai-scientist",
    "semiconductor",
    "quantum",
];

/// What a user does to a job besides submitting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Play {
    /// Nothing.
    Watch,
    /// Submits it held, and releases it when something else has ended.
    Release,
    /// Cancels it once it runs.
    Cancel,
}

/// A job of the demo.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// Whose.
    pub(super) mission: &'static str,
    /// As it is called.
    pub(super) name: &'static str,
    /// GPUs of each member.
    pub(super) members: Vec<u32>,
    /// Every member on a node of its own.
    pub(super) distinct: bool,
    /// What it does after it has reported.
    pub(super) work: &'static str,
    /// 0: no array.
    pub(super) array: u32,
    /// How many indices at once.
    pub(super) cap: u32,
    /// By name: on what it waits.
    pub(super) after: Option<(DependencyKind, &'static str)>,
    /// 0: the tenant's.
    pub(super) time_limit_ms: u64,
    /// What its user does.
    pub(super) play: Play,
    /// How it should end.
    pub(super) end: JobPhase,
    /// With which exit code, where it ends by itself.
    pub(super) exit_code: Option<i32>,
}

impl Planned {
    fn new(mission: &'static str, name: &'static str, members: &[u32], work: &'static str) -> Self {
        Self {
            mission,
            name,
            members: members.to_vec(),
            distinct: false,
            work,
            array: 0,
            cap: 0,
            after: None,
            time_limit_ms: 0,
            play: Play::Watch,
            end: JobPhase::Completed,
            exit_code: Some(0),
        }
    }

    fn after(mut self, kind: DependencyKind, name: &'static str) -> Self {
        self.after = Some((kind, name));
        self
    }

    fn ends(mut self, end: JobPhase, exit_code: Option<i32>) -> Self {
        (self.end, self.exit_code) = (end, exit_code);
        self
    }

    fn played(mut self, play: Play) -> Self {
        self.play = play;
        self
    }

    /// True when its processes ran long enough to have reported.
    pub(super) fn reports(&self) -> bool {
        !matches!((self.end, self.after), (JobPhase::Cancelled, Some(_)))
    }

    /// The job of the API; jobs that it waits for stand before it in the same call.
    pub(super) fn spec(&self, tenant: &str, earlier: &[&Planned]) -> JobSpec {
        let on = self.after.and_then(|(kind, name)| {
            let place = earlier.iter().position(|other| other.name == name)?;
            let place = u32::try_from(place).ok()?;
            Some(Dependency { kind: kind.into(), on: Some(On::IndexInCall(place)) })
        });
        let first = self.members.first().copied().unwrap_or(1);
        let equal = self.members.iter().all(|gpus| *gpus == first);
        JobSpec {
            tenant: tenant.to_owned(),
            name: self.name.to_owned(),
            shape: Some(Shape {
                members: if equal { u32::try_from(self.members.len()).unwrap_or(u32::MAX) } else { 0 },
                gpus_per_member: if equal { first } else { 0 },
                unequal: if equal { Vec::new() } else { self.members.clone() },
                distinct_nodes: self.distinct,
                ..Shape::default()
            }),
            time_limit_ms: self.time_limit_ms,
            grace_ms: 1_000,
            array: (self.array > 0).then_some(ArraySpec { size: self.array, max_running: self.cap }),
            dependencies: on.into_iter().collect(),
            hold: self.play == Play::Release,
            payload: Some(Payload { script: format!("{REPORT}{}\n", self.work).into_bytes(), ..Payload::default() }),
            ..JobSpec::default()
        }
    }
}

/// The whole workload. Jobs of one mission are submitted in one call, in this order.
pub(super) fn workload() -> Vec<Planned> {
    let job = Planned::new;
    let wide = |mut job: Planned| {
        job.distinct = true;
        job
    };
    let mut all = vec![
        job("drug-discovery", "fold", &[8, 8], "sleep 2"),
        job("drug-discovery", "dock", &[1], "sleep 1"),
        Planned { array: 8, cap: 3, ..job("brain-interface", "decode", &[1], "sleep 0.5") },
        job("nuclear-power", "mesh", &[1], "sleep 1"),
        job("nuclear-power", "neutrons", &[4], "sleep 1").after(DependencyKind::AfterOk, "mesh"),
        job("nuclear-power", "report", &[1], "true").after(DependencyKind::AfterAny, "neutrons"),
        job("fusion", "plasma", &[8, 8], "sleep 2"),
        job("fusion", "edge", &[8], "sleep 1"),
        job("solar", "broken", &[1], "echo 'out of sun' >&2; exit 3").ends(JobPhase::Failed, Some(3)),
        job("solar", "clean-up", &[1], "true").after(DependencyKind::AfterNotOk, "broken"),
        job("solar", "publish", &[1], "true").after(DependencyKind::AfterOk, "broken").ends(JobPhase::Cancelled, None),
        job("humanoid", "walk", &[2], "sleep 300").played(Play::Cancel).ends(JobPhase::Cancelled, None),
        job("humanoid", "grasp", &[2], "sleep 1"),
        job("physical-ai", "world-model", &[4], "sleep 1").played(Play::Release),
        job("materials", "lattice-1", &[1], "sleep 1"),
        job("materials", "lattice-2", &[1], "sleep 1"),
        job("materials", "lattice-3", &[2], "sleep 1"),
        job("ai-scientist", "debate", &[4, 2, 1], "sleep 1"),
        wide(job("semiconductor", "route", &[2, 2, 2, 2], "sleep 1")),
        job("quantum", "decoder", &[8], "sleep 1"),
        job("quantum", "sampler", &[3], "sleep 1"),
    ];
    let endless = Planned { time_limit_ms: 3_000, ..job("space", "orbit", &[2], "exec sleep 300") };
    all.push(endless.ends(JobPhase::TimedOut, None));
    all.push(job("space", "launch-window", &[1], "sleep 1"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mission_takes_part_and_every_way_to_end_is_there() {
        let all = workload();
        for mission in MISSIONS {
            assert!(all.iter().any(|job| job.mission == mission), "{mission}");
        }
        for end in [JobPhase::Completed, JobPhase::Failed, JobPhase::Cancelled, JobPhase::TimedOut] {
            assert!(all.iter().any(|job| job.end == end), "{end:?}");
        }
        assert!(
            all.iter().any(|job| job.play == Play::Release) && all.iter().any(|job| job.array > job.cap && job.cap > 0)
        );
        assert!(all.iter().all(|job| job.members.iter().sum::<u32>() <= 32), "the cluster of the demo has 32 GPUs");
    }

    #[test]
    fn dependencies_name_jobs_of_the_same_call() {
        let all = workload();
        for job in all.iter().filter(|job| job.after.is_some()) {
            let earlier: Vec<&Planned> = all
                .iter()
                .filter(|other| other.mission == job.mission)
                .take_while(|other| other.name != job.name)
                .collect();
            assert_eq!(job.spec("t", &earlier).dependencies.len(), 1, "{}", job.name);
        }
    }
}
