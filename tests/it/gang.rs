//! The life of gangs and jobs with real processes: barrier, environment, failure, limits, order, output.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dure_proto::v1::dependency::On;
use dure_proto::v1::{
    ArraySpec, CancelRequest, Dependency, DependencyKind, HoldRequest, Job, JobPhase, JobSpec, ListJobsRequest,
    ReleaseRequest,
};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, is_end, note, noted, script};
use dure_tests::process::lives;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{soon, until, until_some};
use tokio::io::{AsyncBufReadExt, BufReader};

/// The NAME=value lines that member `rank` wrote.
fn variables(folder: &Path, rank: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder.join(rank.to_string())).expect("every member wrote its environment");
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

fn nodes_of(job: &Job) -> Vec<String> {
    job.attempt.iter().flat_map(|attempt| &attempt.members).map(|member| member.node.clone()).collect()
}

#[tokio::test]
async fn a_gang_over_four_nodes_starts_through_the_barrier_and_knows_who_it_is() {
    let cluster = Cluster::start(crate::DURE, Setup::default()).await;
    let caller = cluster.caller(Who::Ana);
    let folder = cluster.path("env");
    std::fs::create_dir(&folder).expect("a folder");
    // Each waits for all: without the barrier's promise that all of them start, this never ends.
    let text = format!("cd {0}; env > $RANK; while [ $(ls | wc -l) -lt 4 ]; do sleep 0.05; done", folder.display());
    let mut spec = script("fusion", 4, 8, &text);
    spec.payload.as_mut().expect("it has one").env.insert("LR".to_owned(), "0.1".to_owned());
    let id = caller.submit(spec).await;
    let job = caller.ended(id).await;
    assert_eq!(job.phase(), JobPhase::Completed, "{job:#?}");
    let nodes = nodes_of(&job);
    assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), 4);
    let (mut gpus, mut masters) = (BTreeSet::new(), BTreeSet::new());
    for rank in 0..4 {
        let env = variables(&folder, rank);
        let say =
            |name: &str| env.get(name).unwrap_or_else(|| panic!("member {rank} has no {name}: {env:#?}")).as_str();
        let (own, id) = (rank.to_string(), id.to_string());
        for name in ["RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_NODEID"] {
            assert_eq!(say(name), own, "{name}");
        }
        for name in ["WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES"] {
            assert_eq!(say(name), "4", "{name}");
        }
        assert_eq!([say("DURE_JOB_ID"), say("SLURM_JOB_ID")], [&id, &id]);
        assert_eq!([say("LR"), say("DURE_TENANT"), say("LOCAL_RANK")], ["0.1", "fusion", "0"]);
        assert_eq!(say("SLURMD_NODENAME"), nodes[rank as usize]);
        assert_eq!(say("SLURM_JOB_NODELIST"), nodes.join(","));
        let visible: Vec<_> = say("CUDA_VISIBLE_DEVICES").split(',').map(str::to_owned).collect();
        assert!(visible.len() == 8 && visible.iter().all(|gpu| gpu.starts_with("GPU-")), "{visible:?}");
        gpus.extend(visible);
        masters.insert(format!("{}:{}", say("MASTER_ADDR"), say("MASTER_PORT")));
    }
    assert_eq!(gpus.len(), 32, "no GPU is seen twice");
    assert!(masters.len() == 1 && masters.iter().all(|master| master.starts_with("127.0.0.1:")), "{masters:?}");
}

#[tokio::test]
async fn a_member_that_fails_stops_its_gang() {
    let cluster = Cluster::start(crate::DURE, Setup::default()).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, go) = (cluster.path("notes"), cluster.path("go"));
    let text = format!(
        "{}\nif [ $RANK = 1 ]; then {}; exit 3; fi\nwhile :; do sleep 0.05; done",
        note(&notes),
        await_file(&go)
    );
    let id = caller.submit(script("fusion", 3, 8, &text)).await;
    until("all members run", || noted(&notes).len() == 3).await;
    std::fs::write(&go, "").expect("writes");
    let job = caller.ended(id).await;
    assert_eq!((job.phase(), job.exit_code, job.attempts), (JobPhase::Failed, Some(3), 1), "{job:#?}");
    let alive: Vec<_> = noted(&notes).into_iter().filter(|run| lives(run.pid)).collect();
    assert!(alive.is_empty(), "the rest of the gang was stopped before the job ended: {alive:?}");
    let signals: Vec<_> = job.attempt.expect("one").members.iter().map(|member| member.signal).collect();
    assert_eq!(signals, [Some(15), None, Some(15)], "TERM is enough for a shell");
}

#[tokio::test]
async fn a_launch_that_fails_on_one_node_is_tried_elsewhere() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    // n0 has a shim that does not exist: nothing starts there.
    cluster.kill_agent(0);
    cluster.agent(0).shim = vec!["/nowhere/shim".to_owned()];
    cluster.start_agent(0);
    cluster.node_is("n0", "is cut off or back", |node| node.connected).await;
    let probe = until_some("a launch fails on n0", || async {
        let id = caller.submit(script("fusion", 1, 8, "true")).await;
        let job = caller.ended(id).await;
        assert_eq!(job.phase(), JobPhase::Completed, "{job:#?}");
        (job.attempts > 1).then_some(job)
    })
    .await;
    assert_eq!((probe.attempts, nodes_of(&probe)), (2, vec!["n1".to_owned()]));
}

#[tokio::test]
async fn a_gang_of_which_one_member_cannot_start_gives_all_back_and_starts_elsewhere() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 3, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let notes = cluster.path("notes");
    cluster.kill_agent(0);
    cluster.agent(0).shim = vec!["/nowhere/shim".to_owned()];
    cluster.start_agent(0);
    cluster.node_is("n0", "is cut off or back", |node| node.connected).await;
    let gang = until_some("a gang meets n0", || async {
        let id = caller.submit(script("fusion", 2, 8, &note(&notes))).await;
        let job = caller.ended(id).await;
        assert_eq!(job.phase(), JobPhase::Completed, "{job:#?}");
        (job.attempts > 1).then_some(job)
    })
    .await;
    let mut nodes = nodes_of(&gang);
    nodes.sort_unstable();
    assert_eq!((gang.attempts, nodes), (2, vec!["n1".to_owned(), "n2".to_owned()]));
    let ran = noted(&notes).into_iter().filter(|run| run.job == gang.id && run.attempt == 2);
    assert_eq!(ran.map(|run| run.member).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
    for name in ["n0", "n1", "n2"] {
        cluster.node_is(name, "has all its GPUs back", |node| node.gpus_free == 8 && node.jobs.is_empty()).await;
    }
}

#[tokio::test]
async fn cancel_and_time_limit_end_what_runs_and_nothing_is_left_of_it() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let notes = cluster.path("notes");
    // Deaf to TERM, and with a child of its own: only KILL of everything ends it.
    let deaf = format!(
        "trap '' TERM\n{}\n(trap '' TERM; while :; do sleep 0.05; done) &\nwhile :; do sleep 0.05; done",
        note(&notes)
    );
    let id = caller.submit(JobSpec { grace_ms: 200, ..script("fusion", 2, 5, &deaf) }).await;
    until("both members run", || noted(&notes).len() == 2).await;
    let said = cluster.dure(Who::Ana, &["cancel", &id.to_string()]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let job = caller.ended(id).await;
    assert_eq!(job.phase(), JobPhase::Cancelled, "{job:#?}");
    assert!(noted(&notes).iter().all(|run| !lives(run.pid)));
    let again = caller.jobs().cancel(CancelRequest { job_id: id, ..CancelRequest::default() }).await;
    if let Err(status) = again {
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    }
    // Many at once, by what they have in common.
    let mut ids = Vec::new();
    for tenant in ["fusion", "fusion", "solar"] {
        ids.push(caller.submit(JobSpec { grace_ms: 200, ..script(tenant, 1, 1, "sleep 1000") }).await);
    }
    let said = cluster.dure(Who::Ana, &["cancel", "-u", "ana", "-A", "fusion"]).await;
    assert_eq!((said.code, said.out.lines().count()), (0, 2), "{said:?}");
    for id in &ids[..2] {
        assert_eq!(caller.ended(*id).await.phase(), JobPhase::Cancelled);
    }
    assert_eq!(caller.job(ids[2]).await.expect("it is known").ended_ms, 0, "another mission's goes on");
    let said = cluster.dure(Who::Ana, &["cancel", "-u", "ana", "-p", "running,pending"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    caller.ended(ids[2]).await;
    let said = cluster.dure(Who::Ana, &["cancel", "-u", "nobody"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "no such jobs\n"), "{said:?}");
    let said = cluster.dure(Who::Ana, &["cancel", "-u", ""]).await;
    assert!(said.code == 2 && said.err.contains("it is empty: name one"), "{said:?}");
    let said = cluster.dure(Who::Ana, &["cancel"]).await;
    assert!(said.code == 2 && said.err.contains("required"), "{said:?}");
    let limited = JobSpec { grace_ms: 200, time_limit_ms: 500, ..script("solar", 1, 1, &deaf) };
    let job = caller.ended(caller.submit(limited).await).await;
    assert_eq!(job.phase(), JobPhase::TimedOut, "{job:#?}");
    assert!(job.ended_ms - job.started_ms >= 500, "{job:#?}");
    let run = *noted(&notes).last().expect("it ran");
    assert!(!lives(run.pid));
    let folder = cluster.path("agents").join("n0");
    let nodes = cluster.nodes().await.expect("they are listed");
    assert!(nodes.iter().all(|node| node.gpus_free == 8), "every GPU is free again");
    assert!(folder.is_dir());
}

#[tokio::test]
async fn held_jobs_wait_and_chains_run_in_order() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let notes = cluster.path("notes");
    let after = |kind: DependencyKind, index| Dependency { kind: kind.into(), on: Some(On::IndexInCall(index)) };
    let chain = vec![
        JobSpec { hold: true, ..script("fusion", 1, 1, &note(&notes)) },
        JobSpec {
            dependencies: vec![after(DependencyKind::AfterOk, 0)],
            ..script("fusion", 1, 1, &format!("{}\nexit 9", note(&notes)))
        },
        JobSpec { dependencies: vec![after(DependencyKind::AfterNotOk, 1)], ..script("fusion", 1, 1, &note(&notes)) },
        JobSpec { dependencies: vec![after(DependencyKind::AfterOk, 1)], ..script("fusion", 1, 1, &note(&notes)) },
        JobSpec {
            dependencies: vec![after(DependencyKind::AfterAny, 2), after(DependencyKind::AfterAny, 3)],
            ..script("fusion", 1, 1, &note(&notes))
        },
    ];
    let ids = caller.try_submit("chain", chain).await.expect("it is accepted");
    // Something that is not held runs by: the held one had its chance.
    assert_eq!(caller.ended(caller.submit(script("fusion", 1, 1, "true")).await).await.phase(), JobPhase::Completed);
    assert_eq!(caller.job(ids[0]).await.expect("it is there").phase(), JobPhase::Held);
    let release = ReleaseRequest { job_id: ids[0], ..ReleaseRequest::default() };
    caller.jobs().release(release).await.expect("it is released");
    let mut ends = Vec::new();
    for id in &ids {
        ends.push(caller.ended(*id).await.phase());
    }
    use JobPhase::{Cancelled, Completed, Failed};
    assert_eq!(ends[..3], [Completed, Failed, Completed]);
    assert!(matches!(ends[3], Cancelled | Failed), "it could never run: {:?}", ends[3]);
    assert_eq!(ends[4], Completed);
    let order: Vec<u64> = noted(&notes).iter().map(|run| run.job).collect();
    assert_eq!(order, [ids[0], ids[1], ids[2], ids[4]]);
    let running = caller.jobs().hold(HoldRequest { job_id: ids[0], ..HoldRequest::default() }).await;
    assert_eq!(running.expect_err("it has ended").code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn an_array_runs_every_index_once_and_never_more_at_once_than_its_cap() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, slots) = (cluster.path("notes"), cluster.path("slots"));
    std::fs::create_dir(&slots).expect("a folder");
    let text = format!(
        "cd {}; touch $DURE_ARRAY_INDEX; echo \"$DURE_ARRAY_INDEX $SLURM_ARRAY_TASK_ID $(ls | wc -l) $SLURM_ARRAY_TASK_COUNT\" >> {}; sleep 0.1; rm $DURE_ARRAY_INDEX",
        slots.display(),
        notes.display()
    );
    let array = Some(ArraySpec { size: 9, max_running: 3 });
    let id = caller.submit(JobSpec { array, ..script("fusion", 1, 1, &text) }).await;
    let job = caller.ended(id).await;
    assert_eq!(job.phase(), JobPhase::Completed, "{job:#?}");
    assert_eq!(job.array.expect("it is one").completed, 9);
    let lines = noted(&notes);
    let mut indices: Vec<u64> = lines.iter().map(|line| line.job).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..9).collect::<Vec<_>>());
    assert!(lines.iter().all(|line| line.job == u64::from(line.attempt) && line.pid == 9), "{lines:?}");
    assert!(lines.iter().all(|line| line.member <= 3), "at most 3 at once: {lines:?}");
    let listed = caller.all_jobs(ListJobsRequest::default()).await.expect("they are listed");
    assert!(listed.iter().all(|job| is_end(job.phase())));
}

#[tokio::test]
async fn output_is_followed_while_it_is_written() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let go = cluster.path("go");
    let text = format!("echo first; echo trouble >&2\n{}\necho last", await_file(&go));
    let id = caller.submit(script("fusion", 1, 1, &text)).await;
    caller.phase(id, JobPhase::Running).await;
    let id = id.to_string();
    let mut follower = cluster.command(Who::Ana, &["logs", "-f", &id]).spawn().expect("dure starts");
    let mut lines = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
    let first = soon("the first line", lines.next_line()).await.expect("it can be read");
    assert_eq!(first.as_deref(), Some("first"), "it is shown while the job runs");
    std::fs::write(&go, "").expect("writes");
    assert_eq!(soon("the last line", lines.next_line()).await.expect("it can be read").as_deref(), Some("last"));
    assert_eq!(soon("the end", lines.next_line()).await.expect("it can be read"), None, "it ends with the job");
    assert!(soon("the follower ends", follower.wait()).await.expect("it ends").success());
    let said = cluster.dure(Who::Ana, &["logs", "--stderr", &id]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "trouble\n"), "{}", said.err);
    let other = cluster.dure(Who::Auditor, &["logs", &id]).await;
    assert_eq!((other.code, other.out.as_str()), (0, "first\nlast\n"), "an auditor may look: {}", other.err);
}
