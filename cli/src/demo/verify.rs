//! What jobs printed, against what they should have seen. Pure.
//!
//! Comes in: the plan, the jobs as the API shows them after their ends, and their output. Goes out: what is wrong, one
//! sentence each; nothing when all is right.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::v1::Job;

use super::plan::Planned;
use crate::{jobid, phase};

/// A job (or an index of an array) after its end, with the output of each member.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// As the API shows it.
    pub(super) job: Job,
    /// Standard output by rank.
    pub(super) outputs: Vec<String>,
}

/// What one member said of itself.
struct Said<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Said<'a> {
    fn read(output: &'a str) -> Self {
        Self(output.lines().filter_map(|line| line.split_once('=')).collect())
    }

    fn get(&self, name: &str) -> &'a str {
        self.0.get(name).copied().unwrap_or("(nothing)")
    }
}

/// Everything that is wrong with one job.
pub(super) fn job(planned: &Planned, seen: &Seen) -> Vec<String> {
    let who = format!("{} {} (job {})", planned.mission, planned.name, jobid::shown(&seen.job));
    let mut wrong = Vec::new();
    if seen.job.phase() != planned.end {
        let ended = format!("{}{}", phase::name(seen.job.phase()), phase::how(&seen.job));
        wrong.push(format!("{who} is {ended}, should be {}", phase::name(planned.end)));
    }
    if let (Some(expected), got) = (planned.exit_code, seen.job.exit_code)
        && got != Some(expected)
    {
        wrong.push(format!("{who} has exit code {got:?}, should have {expected}"));
    }
    if planned.reports() {
        wrong.extend(outputs(planned, seen).into_iter().map(|what| format!("{who}: {what}")));
    }
    wrong
}

/// GPUs, ranks and rendezvous of all members.
fn outputs(planned: &Planned, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    if seen.outputs.len() != planned.members.len() {
        wrong.push(format!("{} members have output, should be {}", seen.outputs.len(), planned.members.len()));
    }
    let mut expect = |rank: usize, name: &str, got: &str, expected: &str| {
        if got != expected {
            wrong.push(format!("member {rank} saw {name}={got}, should see {expected}"));
        }
    };
    let mut gpus = BTreeSet::new();
    let mut masters = BTreeSet::new();
    let members = seen.job.attempt.as_ref().map_or(&[][..], |attempt| &attempt.members);
    for (rank, (output, want)) in seen.outputs.iter().zip(&planned.members).enumerate() {
        let said = Said::read(output);
        expect(rank, "RANK", said.get("RANK"), &rank.to_string());
        expect(rank, "WORLD_SIZE", said.get("WORLD_SIZE"), &planned.members.len().to_string());
        expect(rank, "NODE", said.get("NODE"), members.get(rank).map_or("(nowhere)", |member| &member.node));
        let index = seen.job.array_index.map_or(String::new(), |index| index.to_string());
        expect(rank, "INDEX", said.get("INDEX"), &index);
        let visible: Vec<&str> =
            said.get("CUDA_VISIBLE_DEVICES").split(',').filter(|gpu| gpu.starts_with("GPU-")).collect();
        expect(rank, "number of GPUs", &visible.len().to_string(), &want.to_string());
        gpus.extend(visible);
        masters.insert(said.get("MASTER"));
    }
    let all: u32 = planned.members.iter().sum();
    if gpus.len() != all as usize {
        wrong.push(format!("the members saw {} different GPUs, should be {all}", gpus.len()));
    }
    if masters.len() != 1 || masters.iter().any(|master| master.starts_with(':') || master.ends_with(':')) {
        wrong.push(format!("the members should meet at one address, they saw {masters:?}"));
    }
    wrong
}

/// What is wrong with an array as a whole: indices that are missing, and more at once than its cap.
pub(super) fn array(planned: &Planned, seen: &[&Seen]) -> Vec<String> {
    let mut wrong = Vec::new();
    let indices: BTreeSet<u32> = seen.iter().filter_map(|seen| seen.job.array_index).collect();
    if indices.len() != planned.array as usize {
        wrong.push(format!(
            "{} {} ran {} indices, should be {}",
            planned.mission,
            planned.name,
            indices.len(),
            planned.array
        ));
    }
    let most = most_at_once(seen.iter().filter_map(|seen| held(&seen.job)));
    if most > planned.cap as usize {
        wrong.push(format!(
            "{} {} had {most} indices at once, should have at most {}",
            planned.mission, planned.name, planned.cap
        ));
    }
    wrong
}

/// From when to when the last attempt held its GPUs.
fn held(job: &Job) -> Option<(u64, u64)> {
    let attempt = job.attempt.as_ref()?;
    (attempt.ended_ms > 0).then_some((attempt.placed_ms, attempt.ended_ms))
}

fn most_at_once(spans: impl Iterator<Item = (u64, u64)>) -> usize {
    // At one instant ends come before beginnings.
    let mut steps: Vec<(u64, bool)> = spans.flat_map(|(from, to)| [(from, true), (to, false)]).collect();
    steps.sort_unstable();
    let (mut now, mut most) = (0usize, 0);
    for (_, begins) in steps {
        now = if begins { now + 1 } else { now.saturating_sub(1) };
        most = most.max(now);
    }
    most
}

/// From when to when a job held something, and which job.
type Held = (u64, u64, u64);

/// GPUs that two jobs held at once.
pub(super) fn shared_gpus(seen: &[Seen]) -> Vec<String> {
    let mut spans: BTreeMap<(&str, u32), Vec<Held>> = BTreeMap::new();
    for job in seen.iter().map(|seen| &seen.job) {
        let (Some((from, to)), Some(attempt)) = (held(job), &job.attempt) else { continue };
        for member in &attempt.members {
            for gpu in &member.gpus {
                spans.entry((&member.node, *gpu)).or_default().push((from, to, job.id));
            }
        }
    }
    let mut wrong = Vec::new();
    for ((node, gpu), mut held) in spans {
        held.sort_unstable();
        for pair in held.windows(2) {
            if let [(_, end, one), (start, _, other)] = pair
                && start < end
            {
                wrong.push(format!("jobs {one} and {other} held GPU {gpu} of {node} at once"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use dure_proto::v1::{Attempt, JobPhase, MemberPlacement};

    use super::*;
    use crate::demo::plan::workload;

    fn output(rank: u32, size: u32, gpus: &[&str]) -> String {
        format!(
            "CUDA_VISIBLE_DEVICES={}\nRANK={rank}\nWORLD_SIZE={size}\nMASTER=n0:2000\nNODE=n{rank}\nINDEX=\n",
            gpus.join(",")
        )
    }

    fn gang() -> (Planned, Seen) {
        let planned = Planned { members: vec![2, 1], ..workload()[0].clone() };
        let member = |node: &str, gpus: &[u32]| MemberPlacement {
            node: node.into(),
            gpus: gpus.to_vec(),
            ..MemberPlacement::default()
        };
        let attempt = Attempt {
            members: vec![member("n0", &[0, 1]), member("n1", &[0])],
            placed_ms: 10,
            ended_ms: 20,
            ..Attempt::default()
        };
        let job = Job {
            id: 1,
            phase: JobPhase::Completed.into(),
            exit_code: Some(0),
            attempt: Some(attempt),
            ..Job::default()
        };
        (planned, Seen { job, outputs: vec![output(0, 2, &["GPU-a", "GPU-b"]), output(1, 2, &["GPU-c"])] })
    }

    #[test]
    fn what_is_right_is_silent() {
        let (planned, seen) = gang();
        assert_eq!(job(&planned, &seen), Vec::<String>::new());
        assert_eq!(shared_gpus(&[seen]), Vec::<String>::new());
    }

    #[test]
    fn every_lie_is_found() {
        let lies: [fn(&mut Seen); 8] = [
            |seen| seen.outputs[1] = output(0, 2, &["GPU-c"]),
            |seen| seen.outputs[1] = output(1, 1, &["GPU-c"]),
            |seen| seen.outputs[1] = output(1, 2, &["GPU-a"]),
            |seen| seen.outputs[0] = output(0, 2, &["GPU-a", "GPU-b", "GPU-d"]),
            |seen| seen.outputs[0] = seen.outputs[0].replace("2000", "2001"),
            |seen| drop(seen.outputs.pop()),
            |seen| seen.job.phase = JobPhase::Failed.into(),
            |seen| seen.job.exit_code = Some(1),
        ];
        for (number, lie) in lies.into_iter().enumerate() {
            let (planned, mut seen) = gang();
            lie(&mut seen);
            assert!(!job(&planned, &seen).is_empty(), "lie {number}");
        }
    }

    #[test]
    fn gpus_held_twice_and_caps_are_found() {
        let (planned, one) = gang();
        let mut other = one.clone();
        other.job.id = 2;
        assert_eq!(shared_gpus(&[one.clone(), other.clone()]).len(), 3);
        let planned = Planned { array: 2, cap: 1, ..planned };
        (other.job.array_index, other.job.array_job_id) = (Some(1), 9);
        let mut first = one;
        first.job.array_index = Some(0);
        assert_eq!(array(&planned, &[&first, &other]).len(), 1);
        if let Some(attempt) = &mut other.job.attempt {
            (attempt.placed_ms, attempt.ended_ms) = (20, 30);
        }
        assert_eq!(array(&planned, &[&first, &other]), Vec::<String>::new());
        assert_eq!(shared_gpus(&[first, other]), Vec::<String>::new());
    }
}
