//! kill -9 of scheduler and agents at any moment: what was acknowledged is there, ends, and ran once.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dure_proto::v1::{JobPhase, JobSpec, ListJobsRequest};
use dure_tests::client::Caller;
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{self, Noted, is_end, note, noted, script};
use dure_tests::process::lives;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{until, until_some};

/// kill -9 so often.
const KILLS: u32 = 20;
/// Acknowledged calls between two kills, at least.
const ACKS_PER_KILL: u64 = 2;
/// The moment of a kill lies up to so long after the last thing that was waited for.
const MOMENT_MS: u64 = 60;

/// A number below `limit`, another one each time.
fn any(limit: u64) -> u64 {
    RandomState::new().hash_one(limit) % limit
}

/// What the client was told.
#[derive(Default)]
struct Told {
    /// Ids that were acknowledged, with the members of each.
    jobs: Mutex<BTreeMap<u64, u32>>,
    acks: AtomicU64,
    stop: AtomicBool,
}

/// Submits as a careful client does: the same request id until there is an answer.
async fn submit_on(caller: Caller, file: std::path::PathBuf, who: u32, told: Arc<Told>) {
    for number in 0.. {
        if told.stop.load(Ordering::Relaxed) {
            return;
        }
        let members = 1 + number % 2;
        let job = || script("fusion", members, 1, &note(&file));
        let jobs: Vec<JobSpec> = (0..1 + number % 3).map(|_| job()).collect();
        let request_id = format!("client-{who}-call-{number}");
        let ids = until_some("a submit is answered", || async {
            match caller.try_submit(&request_id, jobs.clone()).await {
                Ok(ids) => Some(ids),
                Err(status) => {
                    // A status with a source was made on this side: no scheduler has answered.
                    let is_absent = status.code() == tonic::Code::Unavailable || status.source().is_some();
                    assert!(is_absent, "only absence is an excuse: {status:?}");
                    None
                }
            }
        })
        .await;
        let mut known = told.jobs.lock().expect("nobody panics with it");
        for id in ids {
            assert_eq!(known.insert(id, members), None, "job {id} was given twice");
        }
        told.acks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every acknowledged job has ended well, and each of its members ran exactly once.
async fn all_ran_once(caller: &Caller, told: &Told, file: &Path) {
    let known = told.jobs.lock().expect("nobody panics with it").clone();
    let seen = until_some("every acknowledged job has ended", || async {
        let filter = ListJobsRequest { name: "e2e".to_owned(), ..ListJobsRequest::default() };
        let jobs = caller.all_jobs(filter).await.ok()?;
        let ids: BTreeSet<u64> = jobs.iter().map(|job| job.id).collect();
        let lost: Vec<_> = known.keys().filter(|id| !ids.contains(id)).collect();
        assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        jobs.iter().all(|job| is_end(job.phase())).then_some(jobs)
    })
    .await;
    let odd: Vec<_> = seen.iter().filter(|job| job.phase() != JobPhase::Completed || job.attempts != 1).collect();
    assert!(odd.is_empty(), "these did not run well at once: {odd:#?}");
    let mut runs: BTreeMap<(u64, u32), Vec<Noted>> = BTreeMap::new();
    for run in noted(file) {
        runs.entry((run.job, run.member)).or_default().push(run);
    }
    let twice: Vec<_> = runs.values().filter(|runs| runs.len() > 1).collect();
    assert!(twice.is_empty(), "these ran more than once: {twice:?}");
    let expected: BTreeSet<_> =
        known.iter().flat_map(|(job, members)| (0..*members).map(|member| (*job, member))).collect();
    assert_eq!(runs.keys().copied().collect::<BTreeSet<_>>(), expected, "what was acknowledged is what ran");
}

/// A job that runs until `file` is there and then fails with 7; its process.
async fn long_job(caller: &Caller, notes: &Path, file: &Path) -> (u64, u32) {
    let text = format!("{}\n{}\nexit 7", note(notes), drafts::await_file(file));
    let job = caller.submit(JobSpec { name: "long".to_owned(), ..script("solar", 1, 1, &text) }).await;
    caller.phase(job, JobPhase::Running).await;
    let pid = until_some("the long job notes its process", || async {
        noted(notes).iter().find(|run| run.job == job).map(|run| run.pid)
    })
    .await;
    (job, pid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_killed_twenty_times_loses_nothing_and_runs_nothing_twice() {
    let mut cluster = Cluster::start(crate::DURE, Setup::default()).await;
    let (short, long, end) = (cluster.path("short"), cluster.path("long"), cluster.path("end"));
    let caller = cluster.caller(Who::Ana);
    let (long_job, long_pid) = long_job(&caller, &long, &end).await;
    let told = Arc::new(Told::default());
    let clients: Vec<_> =
        (0..2).map(|who| tokio::spawn(submit_on(cluster.caller(Who::Ana), short.clone(), who, told.clone()))).collect();
    for kill in 0..KILLS {
        let (acks, runs) = (told.acks.load(Ordering::Relaxed) + ACKS_PER_KILL, noted(&short).len());
        let loaded = || told.acks.load(Ordering::Relaxed) >= acks && noted(&short).len() > runs;
        until(&format!("calls are acknowledged and members run before kill {kill}"), loaded).await;
        // Not to be sure of anything: the moment itself is what varies.
        tokio::time::sleep(Duration::from_millis(any(MOMENT_MS))).await;
        cluster.kill_scheduler();
        assert!(lives(long_pid), "the long job lives without a scheduler");
        cluster.start_scheduler();
        cluster.serving().await;
    }
    told.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("the client is satisfied");
    }
    all_ran_once(&caller, &told, &short).await;
    assert!(lives(long_pid), "the long job lived through it all");
    std::fs::write(&end, "").expect("writes");
    let job = caller.ended(long_job).await;
    assert_eq!((job.phase(), job.exit_code, job.attempts), (JobPhase::Failed, Some(7), 1));
    assert_eq!(noted(&long).len(), 1, "it ran once");
    println!("{KILLS} kills, {} jobs", told.jobs.lock().expect("nobody panics with it").len());
}

#[tokio::test]
async fn an_agent_killed_adopts_what_runs_and_learns_how_it_ended() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let notes = cluster.path("notes");
    let (ends_away, ends_later) = (cluster.path("away"), cluster.path("later"));
    let (away, away_pid) = long_job(&caller, &notes, &ends_away).await;
    let (later, later_pid) = long_job(&caller, &notes, &ends_later).await;
    cluster.kill_agent(0);
    cluster.node_is("n0", "is cut off", |node| !node.connected).await;
    assert!(lives(away_pid) && lives(later_pid), "what runs lives on without its agent");
    std::fs::write(&ends_away, "").expect("writes");
    until("the first ends while nobody looks", || !lives(away_pid)).await;
    cluster.start_agent(0);
    let job = caller.ended(away).await;
    assert_eq!((job.phase(), job.exit_code, job.attempts), (JobPhase::Failed, Some(7), 1));
    assert!(lives(later_pid), "the other is adopted");
    assert_eq!(caller.job(later).await.expect("it is there").phase(), JobPhase::Running);
    std::fs::write(&ends_later, "").expect("writes");
    let job = caller.ended(later).await;
    assert_eq!((job.phase(), job.exit_code, job.attempts), (JobPhase::Failed, Some(7), 1));
    assert_eq!(noted(&notes).len(), 2, "each ran once");
}

#[tokio::test]
async fn scheduler_and_agents_killed_at_once_come_back_to_where_they_were() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, end, late_end) = (cluster.path("notes"), cluster.path("end"), cluster.path("late"));
    let (alone, alone_pid) = long_job(&caller, &notes, &end).await;
    let text = format!("{}\n{}\nexit $DURE_MEMBER", note(&notes), drafts::await_file(&late_end));
    let gang = caller.submit(script("fusion", 2, 6, &text)).await;
    until("the gang runs", || noted(&notes).len() == 3).await;
    let waiting = caller.submit(script("fusion", 1, 8, &note(&notes))).await;
    cluster.kill_scheduler();
    cluster.kill_agent(0);
    cluster.kill_agent(1);
    std::fs::write(&end, "").expect("writes");
    until("one ends while nobody is there", || !lives(alone_pid)).await;
    cluster.start_agents();
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.ready().await;
    assert_eq!(caller.ended(alone).await.exit_code, Some(7));
    assert_eq!(caller.job(gang).await.expect("it is there").phase(), JobPhase::Running);
    assert_eq!(caller.job(waiting).await.expect("it is there").phase(), JobPhase::Pending);
    std::fs::write(&late_end, "").expect("writes");
    let job = caller.ended(gang).await;
    assert_eq!((job.phase(), job.exit_code, job.attempts), (JobPhase::Failed, Some(1), 1));
    assert_eq!(caller.ended(waiting).await.phase(), JobPhase::Completed);
    assert_eq!(noted(&notes).len(), 4, "each member ran once");
}
