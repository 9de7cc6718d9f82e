use dure_proto::v1::{ArrayStatus, Attempt, Blocker, GpuTime, MemberPlacement, Shape};
use expect_test::expect;

use super::*;

fn running() -> Job {
    let member = |node: &str, phase: &str| MemberPlacement {
        node: node.into(),
        gpus: vec![0, 1],
        phase: phase.into(),
        ..MemberPlacement::default()
    };
    Job {
        id: 7,
        tenant: "fusion/edge".into(),
        user: "kim".into(),
        name: "train".into(),
        phase: JobPhase::Running.into(),
        shape: Some(Shape { members: 2, gpus_per_member: 2, ..Shape::default() }),
        gpus: 4,
        priority: "normal".into(),
        time_limit_ms: 7_200_000,
        submitted_ms: 1_000,
        started_ms: 5_000,
        attempt: Some(Attempt {
            number: 1,
            members: vec![member("n0", "running"), member("n1", "running")],
            ..Attempt::default()
        }),
        attempts: 1,
        usage: Some(GpuTime { own_gpu_ms: 240_000, borrowed_gpu_ms: 0 }),
        ..Job::default()
    }
}

#[test]
fn a_queue_shows_where_jobs_run_and_why_they_do_not() {
    let pending = Job {
        id: 12,
        tenant: "solar".into(),
        user: "lee".into(),
        name: "eval".into(),
        phase: JobPhase::Pending.into(),
        gpus: 16,
        shape: Some(Shape { unequal: vec![8, 8], ..Shape::default() }),
        submitted_ms: 60_000,
        reason: "wants 16 GPUs in one domain, the best has 11 free; and so on, to the end of this long sentence".into(),
        ..Job::default()
    };
    let array = Job {
        id: 20,
        tenant: "solar".into(),
        name: "sweep".into(),
        phase: JobPhase::Array.into(),
        gpus: 1,
        array: Some(ArrayStatus { size: 100, max_running: 10, waiting: 80, active: 10, completed: 9, failed: 1 }),
        ..Job::default()
    };
    let failed = Job {
        id: 23,
        array_job_id: 20,
        array_index: Some(2),
        phase: JobPhase::Failed.into(),
        exit_code: Some(3),
        started_ms: 5_000,
        ended_ms: 8_500,
        ..Job::default()
    };
    let all = v1::ListJobsResponse { jobs: vec![running(), pending, array, failed], ..v1::ListJobsResponse::default() };
    expect![[r#"
          ID  TENANT       USER  NAME   PHASE    GPUS  SHAPE     AGE    RAN  WHERE OR WHY NOT
           7  fusion/edge  kim   train  running     4  2x2     1h00m  1h00m  n0,n1
          12  solar        lee   eval   pending    16  8+8    59m05s      -  wants 16 GPUs in one domain, the best has 11 free; and so on, to the e..
          20  solar              sweep  array       1  1           -      -  10 of 100 ended, 10 active, 80 wait
        20_2                            failed      0  0           -   3.5s  (exit code 3)
    "#]]
    .assert_eq(&queue_table(&all, 3_605_000, Out::plain()));
}

#[test]
fn a_job_shows_all_its_members() {
    expect![[r#"
        job:        7  train
        tenant:     fusion/edge  user kim
        phase:      running
        gpus:       4 (2x2)
        priority:   normal
        time limit: 2h00m
        submitted:  - (- ago)
        started:    -
        ended:      -
        attempts:   1
        used:       240 GPU-s own, 0 GPU-s borrowed
        RANK  NODE  GPUS  PHASE    END
           0  n0    0,1   running
           1  n1    0,1   running
    "#]]
    .assert_eq(&job_text(&Job { submitted_ms: 0, started_ms: 0, ..running() }, 3_605_000, Out::plain()));
}

#[test]
fn a_limit_that_may_be_lowered_is_shown_with_what_was_asked_for() {
    let hours = |hours: u64| hours * 3_600_000;
    let limit = |phase: JobPhase, attempt: u64| {
        let attempt = Some(Attempt { time_limit_ms: hours(attempt), ..Attempt::default() });
        let (time_limit_ms, time_min_ms) = (hours(12), hours(4));
        limit_text(&Job { phase: phase.into(), time_limit_ms, time_min_ms, attempt, ..Job::default() })
    };
    assert_eq!(limit(JobPhase::Running, 6), "6h00m (asked 12h00m, at least 4h00m)");
    assert_eq!(limit(JobPhase::TimedOut, 6), "6h00m (asked 12h00m, at least 4h00m)");
    assert_eq!(limit(JobPhase::Running, 12), "12h00m (at least 4h00m)");
    assert_eq!(limit(JobPhase::Pending, 6), "12h00m (at least 4h00m)", "the next attempt begins with all of it");
}

#[test]
fn an_explanation_numbers_what_is_in_the_way() {
    let blocker = |code: &str, message: &str, remedy: &str| Blocker {
        code: code.into(),
        message: message.into(),
        remedy: remedy.into(),
        ..Blocker::default()
    };
    let explanation = v1::Explanation {
        job_id: 12,
        phase: JobPhase::Pending.into(),
        blockers: vec![
            blocker("OVER_LIMIT", "fusion holds 24 of at most 24 GPUs", "wait for one of its jobs, or raise the limit"),
            blocker("NOT_ENOUGH_GPUS", "wants 16 GPUs, 11 are free", ""),
        ],
        position_in_tenant: 2,
        pending_in_tenant: 5,
        not_even_ms: 7_200_000,
        ..v1::Explanation::default()
    };
    expect![[r#"
        job 12 is pending, place 2 of 5 in its tenant
        1. fusion holds 24 of at most 24 GPUs [OVER_LIMIT]
           what would help: wait for one of its jobs, or raise the limit
        2. wants 16 GPUs, 11 are free [NOT_ENOUGH_GPUS]
        not even with its least time limit of 2h00m it starts now
    "#]]
    .assert_eq(&explain::text(JobRef { job: 12, index: None }, &explanation));
}
