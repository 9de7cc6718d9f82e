//! Bad input: a clear error each, nothing lost, nothing half done, and the scheduler lives on.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use dure_proto::v1::dependency::On;
use dure_proto::v1::{ArraySpec, Dependency, DependencyKind, JobPhase, JobSpec, ListJobsRequest};
use dure_tests::client::{Bearer, Caller};
use dure_tests::cluster::Cluster;
use dure_tests::disk::SmallDisk;
use dure_tests::drafts::{await_file, note, noted, script};
use dure_tests::process::lives;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{soon, until, until_some};
use expect_test::{Expect, expect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic_types::StatusExt;

/// How soon what is far too large must be refused.
const EARLY: Duration = Duration::from_secs(10);
/// Where a scheduler keeps its batches.
const DB: &str = "journal/journal.db";

async fn refused(caller: &Caller, jobs: Vec<JobSpec>, code: Code, words: &str) {
    let status = caller.try_submit("", jobs).await.expect_err("it is refused");
    assert!(status.code() == code && status.message().contains(words), "{code:?}, {words:?}: {status:?}");
    let details = status.get_error_details();
    let fields = details.bad_request().map_or(0, |bad| bad.field_violations.len());
    assert!(code != Code::InvalidArgument || fields > 0, "a field is named: {status:?}");
}

#[tokio::test]
async fn jobs_that_cannot_be_are_refused_whole_with_field_value_and_remedy() {
    let cluster = Cluster::start(crate::DURE, Setup::default()).await;
    let op = cluster.caller(Who::Op);
    let good = || script("fusion", 1, 1, "true");
    refused(&op, vec![good(), script("alchemy", 1, 1, "true")], Code::NotFound, "there is no tenant \"alchemy\"").await;
    let large = "the gang asks for 48 GPUs, the pools that it may use have 32";
    refused(&op, vec![good(), script("fusion", 6, 8, "true")], Code::FailedPrecondition, large).await;
    let wide = "a member asks for 9 GPUs, the largest node has 8";
    refused(&op, vec![script("fusion", 1, 9, "true")], Code::InvalidArgument, wide).await;
    refused(&op, vec![good(), script("fusion", 1, 0, "true")], Code::InvalidArgument, "asks for 0 GPUs").await;
    refused(&op, vec![script("fusion", 0, 1, "true")], Code::InvalidArgument, "0 members").await;
    let after = |index| vec![Dependency { kind: DependencyKind::AfterOk.into(), on: Some(On::IndexInCall(index)) }];
    let circle = vec![
        JobSpec { dependencies: after(1), ..good() },
        JobSpec { dependencies: after(2), ..good() },
        JobSpec { dependencies: after(0), ..good() },
    ];
    refused(&op, circle, Code::InvalidArgument, "wait for each other in a circle").await;
    refused(&op, vec![JobSpec { dependencies: after(0), ..good() }], Code::InvalidArgument, "circle").await;
    let long = script("fusion", 1, 1, &"#".repeat(300 << 10));
    refused(&op, vec![good(), long], Code::InvalidArgument, "make it smaller").await;
    refused(&op, Vec::new(), Code::InvalidArgument, "no job").await;
    assert!(op.all_jobs(ListJobsRequest::default()).await.expect("listed").is_empty(), "nothing is half done");
}

#[tokio::test]
async fn what_is_far_too_large_is_refused_early() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let op = cluster.caller(Who::Op);
    let started = Instant::now();
    // Four bytes of the message's head are enough for the refusal: the rest need not arrive.
    let huge = script("fusion", 1, 1, &"#".repeat(64 << 20));
    let status = op.try_submit("", vec![huge]).await.expect_err("it is refused");
    assert!(status.code() == Code::OutOfRange && status.message().contains("the limit is: 4194304"), "{status:?}");
    let path = cluster.path("huge.sh");
    let mut file = File::create(&path).expect("a file");
    file.write_all(b"#!/bin/sh\n").and_then(|()| file.set_len(1 << 30)).expect("a sparse file");
    let path = path.to_str().expect("UTF-8");
    let said = cluster.dure(Who::Op, &["submit", "-A", "fusion", path]).await;
    assert!(started.elapsed() < EARLY, "{:?}", started.elapsed());
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("huge.sh: larger than 4194304 bytes, which no call can carry"), "{}", said.err);
    // A million at once: as an array, as a gang, and as jobs of one call.
    let array = Some(ArraySpec { size: 1_000_000, max_running: 0 });
    for job in [JobSpec { array, ..script("fusion", 1, 1, "true") }, script("fusion", 1_000_000, 1, "true")] {
        let status = op.try_submit("", vec![job]).await.expect_err("it is refused");
        assert!(matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition), "{status:?}");
        assert!(status.message().starts_with("jobs[0]."), "it names the field: {status:?}");
    }
    let status = op.try_submit("", vec![script("fusion", 1, 1, "true"); 1_000_000]).await.expect_err("it is refused");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert_eq!(op.ended(op.submit(script("fusion", 1, 1, "true")).await).await.phase(), JobPhase::Completed);
}

#[tokio::test]
async fn the_command_line_says_what_is_wrong_and_what_to_do() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let check = async |who: Who, args: &[&str], code: i32, expected: Expect| {
        let said = cluster.dure(who, args).await;
        assert_eq!(said.code, code, "{said:?}");
        expected.assert_eq(&said.err);
    };
    check(Who::Op, &["submit", "-A", "alchemy", "--", "true"], 1, expect![[r#"
        error: jobs[0].tenant: there is no tenant "alchemy"; see the tenants: dure quota show; an operator defines a new one: dure quota set --create
          field: jobs[0].tenant
    "#]]).await;
    check(Who::Op, &["submit", "-A", "fusion", "--members", "6", "--gpus-per-member", "8", "--", "true"], 1, expect![[r#"
        error: jobs[0].shape: the gang asks for 48 GPUs, the pools that it may use have 8; ask for fewer GPUs, or allow other GPU models
    "#]]).await;
    check(
        Who::Op,
        &["submit", "-A", "fusion", "--gpus", "0", "--", "true"],
        1,
        expect![[r#"
        error: jobs[0].shape.gpus_per_member: member 0 asks for 0 GPUs; use at least 1
          field: jobs[0].shape.gpus_per_member
    "#]],
    )
    .await;
    check(
        Who::Ana,
        &["submit", "-A", "space", "--", "true"],
        1,
        expect![[r#"
        error: member "ana" may not submit jobs to tenant "space": the role reaches the own missions (fusion, solar)
    "#]],
    )
    .await;
    check(
        Who::Ana,
        &["node", "drain", "n0"],
        1,
        expect![[r#"
        error: member "ana" may not cordon, drain or resume the whole cluster: ask operator
    "#]],
    )
    .await;
    check(
        Who::Op,
        &["job", "99"],
        1,
        expect![[r#"
        error: job_id: there is no job 99; check the id: a job that ended long ago is forgotten
          field: job_id
    "#]],
    )
    .await;
    check(
        Who::Op,
        &["node", "cordon", "n7"],
        1,
        expect![[r#"
        error: name: there is no node "n7"; see the nodes: dure nodes
          field: name
    "#]],
    )
    .await;
}

#[tokio::test]
async fn only_who_may_gets_in() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let submit = async |bearer: Bearer, tenant: &str| {
        let caller = Caller { channel: cluster.channel(), bearer };
        caller.try_submit("", vec![script(tenant, 1, 1, "true")]).await
    };
    let none = submit(Bearer::default(), "fusion").await.expect_err("nobody");
    assert_eq!(none.code(), Code::Unauthenticated, "{none:?}");
    assert!(none.message().contains("authorization: Bearer TOKEN"), "{none:?}");
    let wrong = submit(Bearer::of("dure_0000"), "fusion").await.expect_err("a stranger");
    assert_eq!(wrong.code(), Code::Unauthenticated, "{wrong:?}");
    assert!(wrong.message().contains("not known here") && !wrong.message().contains("dure_0000"), "{wrong:?}");
    let ana = || Bearer::of(cluster.token(Who::Ana));
    let other = submit(ana(), "space").await.expect_err("not her mission");
    assert!(other.code() == Code::PermissionDenied && other.message().contains("space"), "{other:?}");
    let auditor = submit(Bearer::of(cluster.token(Who::Auditor)), "fusion").await.expect_err("he only looks");
    assert_eq!(auditor.code(), Code::PermissionDenied, "{auditor:?}");
    let id = submit(ana(), "fusion").await.expect("her mission")[0];
    let bo = cluster.caller(Who::Bo);
    let request = dure_proto::v1::CancelRequest { job_id: id, ..Default::default() };
    let status = bo.jobs().cancel(request).await.expect_err("not his job");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(cluster.caller(Who::Ana).ended(id).await.phase(), JobPhase::Completed);
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let op = cluster.caller(Who::Op);
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let http = b"GET /jobs HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend_from_slice(&noise);
    let mut silent = Vec::new();
    for round in 0..10 {
        for bytes in [&noise, &http, &preface, &Vec::new()] {
            let mut stream = tokio::net::TcpStream::connect(cluster.socket()).await.expect("it listens");
            // It may hang up in the middle, which is its right.
            let _ = stream.write_all(bytes).await;
            if bytes.is_empty() || round == 0 {
                silent.push(stream);
            } else {
                let mut answer = Vec::new();
                let _ = soon("it hangs up", stream.read_to_end(&mut answer)).await;
            }
        }
    }
    assert_eq!(op.ended(op.submit(script("fusion", 1, 1, "true")).await).await.phase(), JobPhase::Completed);
    assert_eq!(silent.len(), 13);
}

/// A scheduler with some jobs done, killed; the ids that it acknowledged.
async fn killed_with_history(cluster: &mut Cluster) -> Vec<u64> {
    let caller = cluster.caller(Who::Ana);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(caller.submit(JobSpec { hold: true, ..script("fusion", 1, 1, "true") }).await);
    }
    cluster.kill_scheduler();
    ids
}

async fn all_there(cluster: &Cluster, ids: &[u64]) {
    let jobs = cluster.caller(Who::Op).all_jobs(ListJobsRequest::default()).await.expect("listed");
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn a_torn_tail_of_the_journal_is_cut_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes: 0, ..Setup::default() });
    cluster.start_scheduler();
    cluster.serving().await;
    let ids = killed_with_history(&mut cluster).await;
    // What a power cut in the middle of a commit leaves: the beginning of a frame.
    let log = cluster.data_dir().join("journal/journal.db-wal");
    let mut wal = File::options().append(true).open(&log).expect("the log is there");
    wal.write_all(&[0x5a; 3000]).expect("written");
    cluster.start_scheduler();
    cluster.serving().await;
    all_there(&cluster, &ids).await;
}

#[tokio::test]
async fn a_flipped_byte_in_what_was_acknowledged_is_never_passed_over() {
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes: 0, ..Setup::default() });
    cluster.start_scheduler();
    cluster.serving().await;
    let ids = killed_with_history(&mut cluster).await;
    // A graceful stop moves the log into the database.
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.scheduler().signal(rustix::process::Signal::TERM);
    let scheduler = cluster.scheduler();
    let status = until_some("the scheduler stops", || std::future::ready(scheduler.ended())).await;
    assert!(status.success(), "{status:?}");
    let path = cluster.data_dir().join(DB);
    flip_an_event(&path);
    cluster.start_scheduler();
    let scheduler = cluster.scheduler();
    let status = until_some("the scheduler gives up", || std::future::ready(scheduler.ended())).await;
    assert_eq!(status.code(), Some(1));
    let log = scheduler.log();
    let error = log.lines().rfind(|line| line.starts_with("error: ")).expect("it says why").to_owned();
    for words in ["is damaged: positions ", "must not lead", "dure restore"] {
        assert!(error.contains(words), "{words:?}: {error}");
    }
    // The byte put back: everything is there.
    flip_an_event(&path);
    cluster.start_scheduler();
    cluster.serving().await;
    all_there(&cluster, &ids).await;
}

/// Flips a bit of the name of a user in the newest batch. The first place in the file would be one that nothing reads: the
/// root page was split, and keeps old rows in what is now free space of an inner page.
fn flip_an_event(path: &Path) {
    let bytes = std::fs::read(path).expect("the journal is there");
    let is_name = |window: &[u8]| matches!(window, b"ana" | b"aoa");
    let at = bytes.windows(3).rposition(is_name).expect("her name is in it") as u64 + 1;
    let file = File::options().write(true).open(path).expect("it can be opened");
    file.write_all_at(&[bytes[at as usize] ^ 1], at).expect("written");
}

#[tokio::test]
async fn a_full_disk_refuses_clearly_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(6 << 20) else {
        println!("skipped: a tmpfs cannot be mounted here (needs root)");
        return;
    };
    let data_dir = Some(disk.path().join("scheduler"));
    // No reserve: until it is really full.
    let more = "[journal]\nreserve_mib = 0\n";
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 1, data_dir, more, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let running = caller.submit(script("fusion", 1, 1, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
    until("it runs", || noted(&notes).len() == 1).await;
    let pid = noted(&notes)[0].pid;
    let mut acknowledged = vec![running];
    let status = loop {
        let salt = format!("# {} {}", acknowledged.len(), "x".repeat(100_000));
        match caller.try_submit("", vec![JobSpec { hold: true, ..script("fusion", 1, 1, &salt) }]).await {
            Ok(ids) => acknowledged.extend(ids),
            Err(status) => break status,
        }
        assert!(acknowledged.len() < 1000, "6 MiB do not hold 100 MB");
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    for words in ["is full", "free some space", "repeat it with its request id"] {
        assert!(status.message().contains(words), "{words:?}: {status:?}");
    }
    let scheduler = cluster.scheduler();
    let ended = until_some("it gives up", || std::future::ready(scheduler.ended())).await;
    assert_eq!(ended.code(), Some(1));
    let log = scheduler.log();
    let error = log.lines().rfind(|line| line.starts_with("error: ")).expect("it says why").to_owned();
    assert!(error.contains("free some space"), "{error}");
    assert!(lives(pid), "what runs lives on");
    disk.grow(64 << 20);
    cluster.start_scheduler();
    cluster.serving().await;
    let jobs = caller.all_jobs(ListJobsRequest::default()).await.expect("listed");
    let known: Vec<u64> = jobs.iter().map(|job| job.id).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !known.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    std::fs::write(&end, "").expect("writes");
    assert_eq!(caller.ended(running).await.phase(), JobPhase::Completed);
    assert_eq!(noted(&notes).len(), 1, "it ran once");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_starts_nothing() {
    let cluster = Cluster::prepare(crate::DURE, Setup { nodes: 0, ..Setup::default() });
    let refused = async |part: &str, text: &str, words: &str| {
        let path = cluster.path("bad.toml");
        std::fs::write(&path, text).expect("writes");
        let path = path.to_str().expect("UTF-8");
        let said = cluster.dure(Who::Op, &[part, "--config", path]).await;
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains(words), "{words:?}: {}", said.err);
    };
    let open = "listen = \"0.0.0.0:7070\"\ndata_dir = \"d\"\n";
    refused("scheduler", open, "listen = 0.0.0.0:7070: not a loopback address").await;
    refused("scheduler", open, "set tokens = \"tokens.toml\"").await;
    let metrics = "data_dir = \"d\"\nmetrics_listen = \"0.0.0.0:1\"\nlocal_operator = \"me\"\n";
    refused("scheduler", metrics, "local_operator = \"me\": only where every address is a loopback one").await;
    refused("scheduler", "data_dir = \"d\"\nlissten = \"x\"\n", "line 2, column 1").await;
    let agent = |rest: &str| format!("node = \"n0\"\nstate_dir = \"s\"\n{rest}\n");
    let plain = agent("scheduler = [\"http://10.0.0.1:7070\"]");
    refused("agent", &plain, "plaintext is for loopback addresses only: use https://").await;
    refused("agent", &agent("scheduler = []"), "scheduler = []: name at least one address").await;
    let nowhere = cluster.dure(Who::Op, &["scheduler", "--config", "/nowhere.toml"]).await;
    assert!(nowhere.code == 2 && nowhere.err.contains("name a readable file"), "{nowhere:?}");
    let away = cluster.dure(Who::Op, &["queue"]).await;
    assert!(away.code == 3 && away.err.contains("cannot reach the scheduler at"), "{away:?}");
    assert!(!cluster.path("d").exists(), "nothing was made");
}
