//! The API as clients rely on it: request ids, watch, pages, explanations, quotas, usage, export, backup, metrics.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::v1::{
    ExplainRequest, Explanation, JobEvent, JobPhase, JobSpec, ListJobsRequest, PageRequest, PauseRequest, PoolQuota,
    ResumeRequest, SetTenantRequest, UsageRequest, UsageRow, WatchRequest,
};
use dure_tests::client::Caller;
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, is_end, note, noted, script};
use dure_tests::process::lives;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{soon, until, until_some};
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

fn held(tenant: &str) -> JobSpec {
    JobSpec { hold: true, ..script(tenant, 1, 1, "true") }
}

#[tokio::test]
async fn a_request_id_gets_the_same_answer_for_ever_and_for_one_content() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let (ana, bo) = (cluster.caller(Who::Ana), cluster.caller(Who::Bo));
    let first = ana.try_submit("r-1", vec![held("fusion"), held("fusion")]).await.expect("accepted");
    assert_eq!(ana.try_submit("r-1", vec![held("fusion"), held("fusion")]).await.expect("again"), first);
    cluster.kill_scheduler();
    cluster.start_scheduler();
    cluster.serving().await;
    assert_eq!(ana.try_submit("r-1", vec![held("fusion"), held("fusion")]).await.expect("after a crash"), first);
    let other = ana.try_submit("r-1", vec![held("solar"), held("fusion")]).await.expect_err("another content");
    assert_eq!(other.code(), Code::AlreadyExists, "{other:?}");
    assert!(other.message().contains("use a new request id"), "{other:?}");
    let hers = bo.try_submit("r-1", vec![held("fusion")]).await.expect("ids belong to their user");
    assert!(!first.contains(&hers[0]));
    let long = ana.try_submit(&"x".repeat(65), vec![held("fusion")]).await.expect_err("too long");
    assert_eq!(long.code(), Code::InvalidArgument, "{long:?}");
    assert_eq!(cluster.caller(Who::Op).all_jobs(ListJobsRequest::default()).await.expect("listed").len(), 3);
}

/// Events after a position, until `enough`.
async fn watch(caller: &Caller, after_seq: u64, mut enough: impl FnMut(&[JobEvent]) -> bool) -> Vec<JobEvent> {
    let request = WatchRequest { after_seq, ..WatchRequest::default() };
    let mut stream = caller.jobs().watch(request).await.expect("it may watch").into_inner();
    let mut seen = Vec::new();
    while !enough(&seen) {
        let event = soon("the next event", stream.message()).await.expect("the stream goes on");
        seen.push(event.expect("it does not end by itself"));
    }
    seen
}

#[tokio::test]
async fn a_watch_goes_on_after_a_crash_without_gap_or_repetition() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let ana = cluster.caller(Who::Ana);
    let ended = |events: &[JobEvent]| events.iter().filter(|event| event.kind == "ended").count();
    for _ in 0..4 {
        ana.ended(ana.submit(script("fusion", 1, 2, "true")).await).await;
    }
    let early = watch(&ana, 1, |seen| ended(seen) == 2).await;
    cluster.kill_scheduler();
    cluster.start_scheduler();
    cluster.serving().await;
    let last = early.last().expect("some").seq;
    let after = ana.submit(script("solar", 1, 1, "true")).await;
    let late = watch(&ana, last, |seen| ended(seen) == 3).await;
    let whole = watch(&ana, 1, |seen| ended(seen) == 5).await;
    let pieces: Vec<_> = early.into_iter().chain(late).collect();
    assert_eq!(pieces, whole, "two pieces are the whole");
    assert!(whole.is_sorted_by(|a, b| a.seq < b.seq), "in order, each once");
    let kinds: Vec<&str> =
        whole.iter().filter(|event| event.job_id == after).map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["submitted", "placed", "running", "attempt_ended", "ended"]);
    let bo = watch(&cluster.caller(Who::Bo), 1, |seen| ended(seen) == 4).await;
    assert!(bo.iter().all(|event| event.tenant == "fusion"), "nobody sees another mission's events");
}

#[tokio::test]
async fn listings_come_in_pages_and_by_filters() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let (ana, bo, op) = (cluster.caller(Who::Ana), cluster.caller(Who::Bo), cluster.caller(Who::Op));
    let mut ids = BTreeSet::new();
    for tenant in ["fusion", "solar"] {
        ids.extend(ana.try_submit("", (0..12).map(|_| held(tenant)).collect()).await.expect("accepted"));
    }
    ids.extend(bo.try_submit("", vec![JobSpec { name: "his".to_owned(), ..held("fusion") }]).await.expect("accepted"));
    let (mut seen, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = Some(PageRequest { page_size: 7, page_token });
        let answer = op.jobs().list(ListJobsRequest { page, ..ListJobsRequest::default() }).await.expect("listed");
        let answer = answer.into_inner();
        assert!(answer.jobs.len() <= 7);
        seen.extend(answer.jobs.iter().map(|job| job.id));
        (page_token, pages) = (answer.next_page_token, pages + 1);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (25, 4));
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ids, "each job once");
    let count = async |caller: &Caller, filter: ListJobsRequest| caller.all_jobs(filter).await.expect("listed").len();
    let all = ListJobsRequest::default;
    assert_eq!(count(&op, ListJobsRequest { tenant: "solar".into(), ..all() }).await, 12);
    assert_eq!(count(&op, ListJobsRequest { user: "bo".into(), ..all() }).await, 1);
    assert_eq!(count(&op, ListJobsRequest { name: "his".into(), ..all() }).await, 1);
    assert_eq!(count(&op, ListJobsRequest { phases: vec![JobPhase::Running.into()], ..all() }).await, 0);
    assert_eq!(count(&op, ListJobsRequest { phases: vec![JobPhase::Held.into()], ..all() }).await, 25);
    assert_eq!(count(&bo, all()).await, 13, "his mission, not the other");
    let page = Some(PageRequest { page_size: 7, page_token: "nonsense".to_owned() });
    let status = op.jobs().list(ListJobsRequest { page, ..all() }).await.expect_err("no token of ours");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

async fn explain(caller: &Caller, job_id: u64) -> Explanation {
    caller.jobs().explain(ExplainRequest { job_id }).await.expect("explained").into_inner()
}

#[tokio::test]
async fn a_blocked_job_is_explained_with_numbers_and_a_new_quota_takes_effect() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let (ana, op) = (cluster.caller(Who::Ana), cluster.caller(Who::Op));
    let end = cluster.path("end");
    let set = async |quota: u32, limit: Option<u32>| {
        let quotas = vec![PoolQuota { pool: "h200".to_owned(), quota, limit, lend_limit: None, domains: None }];
        let request = SetTenantRequest { tenant: "solar".to_owned(), quotas, ..SetTenantRequest::default() };
        op.tenants().set(request).await
    };
    set(2, Some(2)).await.expect("set");
    let small = ana.submit(script("solar", 1, 2, &await_file(&end))).await;
    ana.phase(small, JobPhase::Running).await;
    let capped = ana.submit(script("solar", 1, 1, "true")).await;
    let why = until_some("the limit is named", || async {
        Some(explain(&ana, capped).await).filter(|why| !why.blockers.is_empty())
    })
    .await;
    let numbers = |why: &Explanation| why.blockers[0].numbers.iter().map(|(k, v)| (k.clone(), *v)).collect::<Vec<_>>();
    let mut found = numbers(&why);
    found.sort();
    assert_eq!(why.blockers[0].code, "OVER_LIMIT", "{why:#?}");
    assert_eq!(found, [("limit".to_owned(), 2), ("used".to_owned(), 2), ("want".to_owned(), 1)]);
    assert!(!why.blockers[0].remedy.is_empty() && why.blockers[0].message.contains('2'), "{why:#?}");
    assert_eq!((why.position_in_tenant, why.pending_in_tenant), (1, 1));
    let never = ana.try_submit("", vec![script("solar", 1, 3, "true")]).await.expect_err("never under this limit");
    assert!(
        never.code() == Code::FailedPrecondition && never.message().contains("limit of \"solar\" is 2"),
        "{never:?}"
    );
    set(2, Some(3)).await.expect("raised");
    assert_eq!(ana.ended(capped).await.phase(), JobPhase::Completed, "the new limit lets it run");
    let bad = set(5, Some(3)).await.expect_err("a limit below the quota");
    assert_eq!(bad.code(), Code::InvalidArgument, "{bad:?}");
    // Full: 14 GPUs are free, in two pieces.
    let filler = ana.submit(script("fusion", 1, 8, &await_file(&end))).await;
    ana.phase(filler, JobPhase::Running).await;
    let large = ana.submit(script("fusion", 1, 8, "true")).await;
    let why = until_some("the want of GPUs is named", || async {
        Some(explain(&ana, large).await).filter(|why| !why.blockers.is_empty())
    })
    .await;
    let found: BTreeMap<_, _> = numbers(&why).into_iter().collect();
    assert_eq!((why.blockers[0].code.as_str(), found["want"]), ("NOT_ENOUGH_GPUS", 8), "{why:#?}");
    assert_eq!(found["free"], 6, "{why:#?}");
    let said = cluster.dure(Who::Ana, &["explain", &large.to_string()]).await;
    assert!(said.code == 0 && said.out.contains('8') && said.out.contains('6'), "{said:?}");
    std::fs::write(&end, "").expect("writes");
    assert_eq!(ana.ended(large).await.phase(), JobPhase::Completed);
}

#[tokio::test]
async fn a_pause_starts_nothing_new_and_a_resume_goes_on() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let (ana, op) = (cluster.caller(Who::Ana), cluster.caller(Who::Op));
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let running = ana.submit(script("fusion", 1, 1, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
    until("it runs", || noted(&notes).len() == 1).await;
    let of = |tenant: &str| PauseRequest { tenant: tenant.to_owned(), ..PauseRequest::default() };
    let denied = ana.tenants().pause(of("fusion")).await.expect_err("a member pauses nothing");
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    op.tenants().pause(of("fusion")).await.expect("paused");
    let waits = ana.submit(script("fusion", 1, 1, "true")).await;
    let other = ana.submit(script("solar", 1, 1, "true")).await;
    assert_eq!(ana.ended(other).await.phase(), JobPhase::Completed, "other missions go on");
    let job = ana.job_is(waits, "says why it waits", |job| !job.reason_code.is_empty()).await;
    assert!(job.phase() == JobPhase::Pending && job.reason_code.contains("PAUSED"), "{job:#?}");
    std::fs::write(&end, "").expect("writes");
    assert_eq!(ana.ended(running).await.phase(), JobPhase::Completed, "what ran runs on");
    op.tenants().resume(ResumeRequest { tenant: "fusion".to_owned(), ..ResumeRequest::default() }).await.expect("on");
    assert_eq!(ana.ended(waits).await.phase(), JobPhase::Completed);
    let said = cluster.dure(Who::Op, &["pause"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let waits = ana.submit(script("solar", 1, 1, "true")).await;
    let job = ana.job_is(waits, "says why it waits", |job| !job.reason_code.is_empty()).await;
    assert!(job.phase() == JobPhase::Pending && job.reason_code.contains("PAUSED"), "{job:#?}");
    assert_eq!(cluster.dure(Who::Op, &["resume"]).await.code, 0);
    assert_eq!(ana.ended(waits).await.phase(), JobPhase::Completed);
}

async fn usage(caller: &Caller, by_user: bool) -> Vec<UsageRow> {
    let request = UsageRequest { tenant: String::new(), by_user };
    caller.tenants().usage(request).await.expect("shown").into_inner().rows
}

fn total(row: &UsageRow) -> u64 {
    let total = row.total.as_ref().expect("every row has a total");
    total.own_gpu_ms + total.borrowed_gpu_ms
}

#[tokio::test]
async fn usage_adds_up_and_the_export_holds_every_start_with_its_end() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let (ana, bo, op) = (cluster.caller(Who::Ana), cluster.caller(Who::Bo), cluster.caller(Who::Op));
    let ids = [
        ana.submit(script("fusion", 2, 4, "sleep 0.2")).await,
        bo.submit(script("fusion", 1, 3, "exit 1")).await,
        ana.submit(script("solar", 1, 2, "true")).await,
        ana.submit(script("solar", 2, 8, "true")).await,
    ];
    let mut spent: BTreeMap<String, u64> = BTreeMap::new();
    for id in ids {
        let job = op.ended(id).await;
        let attempt = job.attempt.as_ref().expect("it ran");
        let (used, held) = (job.usage.expect("it is charged"), attempt.ended_ms - attempt.placed_ms);
        assert_eq!(used.own_gpu_ms + used.borrowed_gpu_ms, u64::from(job.gpus) * held, "{job:#?}");
        *spent.entry(job.tenant).or_default() += used.own_gpu_ms + used.borrowed_gpu_ms;
    }
    let rows = usage(&op, false).await;
    for (tenant, spent) in &spent {
        let row = rows.iter().find(|row| row.tenant == *tenant).expect("it has a row");
        assert_eq!((total(row), row.gpus_now), (*spent, 0), "{tenant}");
    }
    let users = usage(&op, true).await;
    let of = |tenant: &str, rows: &[UsageRow]| rows.iter().filter(|row| row.tenant == tenant).map(total).sum::<u64>();
    assert_eq!(of("fusion", &users), of("fusion", &rows));
    assert_eq!(users.iter().filter(|row| row.tenant == "fusion").count(), 2, "{users:#?}");
    // The journal can be exported while the scheduler runs, and after it.
    let export = |cluster: &Cluster| {
        let dir = cluster.data_dir().to_str().expect("UTF-8").to_owned();
        ["export", "placements", "--data-dir"].map(str::to_owned).into_iter().chain([dir]).collect::<Vec<_>>()
    };
    let args = export(&cluster);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let running = cluster.dure(Who::Op, &args).await;
    cluster.kill_scheduler();
    let stopped = cluster.dure(Who::Op, &args).await;
    assert_eq!((running.code, stopped.code), (0, 0), "{stopped:?}");
    assert_eq!(running.out, stopped.out);
    sound(&running.out, &ids);
}

/// What the referee looks at first: columns, order, whole gangs at one instant, no GPU twice, an end for every start.
fn sound(table: &str, ids: &[u64]) {
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("time_s,event,job,attempt,node,gpus,milli"));
    let mut held: BTreeMap<(String, String), Vec<(String, String)>> = BTreeMap::new();
    let (mut before, mut ended) = (0.0, BTreeSet::new());
    for line in lines {
        let row: Vec<&str> = line.split(',').collect();
        let [time, event, job, attempt, node, gpus, milli] = row[..] else { panic!("seven columns: {line}") };
        let time: f64 = time.parse().expect("a time");
        assert!(time >= before, "in order: {line}");
        before = time;
        let key = (job.to_owned(), attempt.to_owned());
        if event == "start" {
            assert_eq!(milli, "1000", "{line}");
            for gpu in gpus.split('+') {
                let gpu = (node.to_owned(), gpu.to_owned());
                assert!(held.values().flatten().all(|taken| *taken != gpu), "held twice: {line}");
                held.entry(key.clone()).or_default().push(gpu);
            }
        } else {
            assert!(matches!(event, "end" | "preempt" | "fail"), "{line}");
            assert!(held.remove(&key).is_some(), "an end without a start: {line}");
            ended.insert(job.parse::<u64>().expect("a job"));
        }
    }
    assert!(held.is_empty(), "starts without an end: {held:?}");
    assert_eq!(ended, ids.iter().copied().collect());
}

#[tokio::test]
async fn a_restored_backup_leads_under_an_epoch_that_agents_accept() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let ana = cluster.caller(Who::Ana);
    let end = cluster.path("end");
    let kept = ana.submit(script("fusion", 1, 2, &await_file(&end))).await;
    ana.phase(kept, JobPhase::Running).await;
    let (data, copy) = (cluster.data_dir(), cluster.path("copy"));
    let (data, copy) = (data.to_str().expect("UTF-8"), copy.to_str().expect("UTF-8"));
    let said = cluster.dure(Who::Op, &["backup", copy, "--data-dir", data]).await;
    assert!(said.code == 0 && said.out.contains("whole up to position"), "{said:?}");
    let notes = cluster.path("notes");
    let lost = ana.submit(script("solar", 1, 2, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
    until("it runs", || noted(&notes).len() == 1).await;
    // Far past what the restored journal will reach: agents have seen positions that it does not have.
    ana.try_submit("", (0..200).map(|_| held("solar")).collect()).await.expect("accepted");
    let seen = ana.submit(script("solar", 1, 1, "true")).await;
    assert_eq!(ana.ended(seen).await.phase(), JobPhase::Completed);
    let epoch = |job: &dure_proto::v1::Job| job.position.as_ref().expect("every answer has one").epoch;
    let before = epoch(&ana.job(kept).await.expect("it is there"));
    let busy = cluster.dure(Who::Op, &["restore", copy, "--data-dir", data, "--force"]).await;
    assert_eq!(busy.code, 1, "not under a scheduler that runs: {busy:?}");
    cluster.kill_scheduler();
    let unforced = cluster.dure(Who::Op, &["restore", copy, "--data-dir", data]).await;
    assert_eq!(unforced.code, 1, "{unforced:?}");
    let said = cluster.dure(Who::Op, &["restore", copy, "--data-dir", data, "--force"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.ready().await;
    let job = ana.job(kept).await.expect("it was in the backup");
    assert!(job.phase() == JobPhase::Running && epoch(&job) > before, "{job:#?}");
    // The agent obeys the new epoch, and what the backup does not know is not killed.
    let new = ana.submit(script("solar", 1, 1, &note(&notes))).await;
    assert_ne!(new, lost, "an id is never given twice");
    // Where its GPUs are held by what the backup does not know, the agent refuses, and it goes elsewhere.
    assert_eq!(ana.ended(new).await.phase(), JobPhase::Completed);
    assert_eq!(noted(&notes).len(), 2, "the new job ran, once");
    assert!(lives(noted(&notes)[0].pid), "what the backup does not know is shown, not killed");
    // Positions that were given up stay given up, whoever starts again.
    cluster.kill_scheduler();
    (0..2).for_each(|node| cluster.kill_agent(node));
    cluster.start_agents();
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.ready().await;
    std::fs::write(&end, "").expect("writes");
    assert_eq!(ana.ended(kept).await.phase(), JobPhase::Completed);
}

#[tokio::test]
async fn health_reflection_and_metrics_answer() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let ana = cluster.caller(Who::Ana);
    for _ in 0..3 {
        ana.ended(ana.submit(script("fusion", 1, 1, "true")).await).await;
    }
    ana.submit(held("fusion")).await;
    // Health was asked without a token when the cluster started.
    let mut client = ServerReflectionClient::with_interceptor(cluster.channel(), ana.bearer.clone());
    let ask = |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let request = tokio_stream::once(ask(MessageRequest::ListServices(String::new())));
    let mut answers = client.server_reflection_info(request).await.expect("it answers").into_inner();
    let answer = soon("the services", answers.message()).await.expect("it answers").expect("one answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: BTreeSet<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["dure.v1.Jobs", "dure.v1.Tenants", "dure.v1.Nodes", "dure.v1.Agents"] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("journal")), "records are nobody's interface: {names:?}");
    let page = until_some("the gauges are fresh", || async {
        Some(cluster.metrics().await).filter(|page| page.contains("dure_agents_connected 1"))
    })
    .await;
    for name in [
        "dure_pending_jobs{reason=",
        "dure_tenant_gpus{tenant=\"fusion\",pool=\"h200\",state=\"quota\"} 12",
        "dure_pool_gpus{pool=\"h200\",state=\"free\"}",
        "dure_nodes{state=\"ready\"} 1",
        "dure_turn_seconds_bucket",
        "dure_journal_commit_seconds_count",
        "dure_journal_head",
        "dure_rpcs_total{method=",
    ] {
        assert!(page.contains(name), "{name} is not in:\n{page}");
    }
    for label in ["job=", "job_id=", "user="] {
        assert!(!page.contains(label), "{label} would grow without bound:\n{page}");
    }
    let jobs = ana.all_jobs(ListJobsRequest::default()).await.expect("listed");
    assert_eq!(jobs.iter().filter(|job| is_end(job.phase())).count(), 3);
}
