//! Failover: three schedulers on three members of etcd, agents and submits at a steady rate, and the leader ended again and
//! again. Nothing acknowledged may be lost and no attempt may be doubled: then the bench fails.
//!
//! A watcher follows the events of all jobs across all leaders, from position to position; what it saw is the evidence.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::{Args, ValueEnum};
use dure_proto::v1::{HandOverRequest, JobEvent, WatchRequest, jobs_client::JobsClient};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    disk, failed, folder, load,
    members::{Members, Store},
    report::Report,
};
use crate::{context::Authed, failure::Failure};

/// Schedulers.
const SCHEDULERS: usize = 3;
/// Connections that submit.
const CONNECTIONS: usize = 16;
/// Calls without an answer; beyond it no more are sent.
const MAX_UNDER_WAY: u64 = 20_000;
/// How long anything may take after a leader's end.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How a leader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum End {
    /// kill -9
    Kill,
    /// It hands over
    Handover,
}

/// How often and under which load.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// How often the leader is ended
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// How it ends
    #[arg(long, value_enum, default_value = "kill")]
    end: End,
    /// Agents, each with 8 GPUs
    #[arg(long, default_value_t = 1_000)]
    agents: u32,
    /// Jobs in a second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// How long each job runs, in milliseconds
    #[arg(long, default_value_t = 500)]
    run_ms: u64,
    /// Seconds of calm between two ends
    #[arg(long, default_value_t = 2)]
    calm: u64,
    /// Where everything is written
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What is known of a job.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    submitted: u32,
    placed: u32,
    running: u32,
    ended: u32,
}

#[derive(Default)]
struct Ledger {
    /// Jobs by id: acknowledged ones.
    acked: Mutex<BTreeMap<u64, Instant>>,
    /// Jobs by id: what the watcher saw.
    seen: Mutex<BTreeMap<u64, Seen>>,
    /// The first acknowledgement of each term.
    first_ack: Mutex<BTreeMap<u64, Instant>>,
    under_way: AtomicU64,
    sent: AtomicU64,
    given_up: AtomicU64,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs it.
pub(super) async fn run(args: &FailoverArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let folder = folder(args.dir.as_deref())?;
    disk::measure(folder.path(), &mut report)?;
    let mut members = Members::start(folder.path(), Store::Etcd, SCHEDULERS, args.agents).await?;
    let joined = members.start_agents(args.agents).await?;
    report.add(format!("{} agents joined", args.agents), joined.as_secs_f64(), "s");
    let ledger = Arc::new(Ledger::default());
    let watcher = tokio::spawn(watch(members.jobs()?, ledger.clone()));
    let clients: Result<Vec<_>, Failure> = (0..CONNECTIONS).map(|_| members.jobs()).collect();
    let submitter = tokio::spawn(submit(clients?, args.rate, args.run_ms, ledger.clone()));
    let (mut acks, mut agents) = (Vec::new(), Vec::new());
    for number in 0..args.kills {
        sleep(Duration::from_secs(args.calm)).await;
        let (ack, back) = end_leader(args, &mut members, &ledger).await?;
        eprintln!(
            "{} of {}: acknowledged again after {:.0} ms, all agents after {:.0} ms, {} jobs acknowledged so far",
            number + 1,
            args.kills,
            ack.as_secs_f64() * 1_000.0,
            back.as_secs_f64() * 1_000.0,
            lock(&ledger.acked).len(),
        );
        acks.push(ack.as_secs_f64() * 1_000.0);
        agents.push(back.as_secs_f64() * 1_000.0);
    }
    ledger.stop.store(true, Ordering::SeqCst);
    submitter.await.map_err(failed)??;
    let verdict = settle(&ledger).await;
    watcher.abort();
    report.latencies("end of the leader to the next acknowledged submit", &mut acks);
    report.add("the same, longest", acks.last().copied().unwrap_or_default(), "ms");
    report.latencies("end of the leader to all agents back", &mut agents);
    report.add("the same, longest", agents.last().copied().unwrap_or_default(), "ms");
    judge(&ledger, &mut report);
    members.stop().await;
    verdict.map(|()| report)
}

/// Ends the leader once: how long until a submit was acknowledged under a later term, and until all agents were back.
async fn end_leader(
    args: &FailoverArgs,
    members: &mut Members,
    ledger: &Ledger,
) -> Result<(Duration, Duration), Failure> {
    let (leader, epoch) = members.leader().await?;
    let ended = Instant::now();
    match args.end {
        End::Kill => members.kill(leader),
        End::Handover => {
            let asked = members.schedulers()?.hand_over(HandOverRequest {}).await;
            drop(asked.map_err(|status| failed(status.message()))?);
        }
    }
    let acked = timeout(PATIENCE, async {
        loop {
            let first = lock(&ledger.first_ack).range(epoch + 1..).map(|(_, at)| *at).min();
            if let Some(first) = first {
                return first;
            }
            sleep(LOOK_EVERY).await;
        }
    });
    let acked = acked.await.map_err(|_| failed("no submit was acknowledged within a minute"))?;
    members.joined(args.agents).await?;
    let back = ended.elapsed();
    if args.end == End::Kill {
        members.restart(leader)?;
    }
    // The next end may come when all three are there again.
    let all = timeout(PATIENCE, async {
        for at in 0..SCHEDULERS {
            while !members.answers(at).await {
                sleep(LOOK_EVERY).await;
            }
        }
    });
    all.await.map_err(|_| failed("a scheduler did not come back within a minute"))?;
    Ok((acked.saturating_duration_since(ended), back))
}

/// Submits by the clock, every call until it is answered.
async fn submit(clients: Vec<JobsClient<Authed>>, rate: u32, run_ms: u64, ledger: Arc<Ledger>) -> Result<(), Failure> {
    let started = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0_u64.. {
        if ledger.stop.load(Ordering::SeqCst) {
            break;
        }
        sleep_until(started + Duration::from_secs_f64(number as f64 / f64::from(rate))).await;
        while calls.try_join_next().is_some() {}
        if ledger.under_way.load(Ordering::SeqCst) >= MAX_UNDER_WAY {
            continue;
        }
        let client = clients[number as usize % clients.len()].clone();
        ledger.under_way.fetch_add(1, Ordering::SeqCst);
        ledger.sent.fetch_add(1, Ordering::SeqCst);
        calls.spawn(call(client, run_ms, ledger.clone()));
    }
    while calls.join_next().await.is_some() {}
    Ok(())
}

async fn call(mut client: JobsClient<Authed>, run_ms: u64, ledger: Arc<Ledger>) {
    let until = Instant::now() + PATIENCE;
    let Ok(request) = load::call(vec![load::job(1, run_ms)]) else { return };
    loop {
        match client.submit(request.clone()).await {
            Ok(answer) => {
                let (now, answer) = (Instant::now(), answer.into_inner());
                lock(&ledger.acked).insert(answer.first_job_id, now);
                let epoch = answer.position.map_or(0, |position| position.epoch);
                lock(&ledger.first_ack).entry(epoch).or_insert(now);
                break;
            }
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(50)).await,
            Err(status) => {
                eprintln!("given up: {status}");
                ledger.given_up.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
    }
    ledger.under_way.fetch_sub(1, Ordering::SeqCst);
}

/// Follows all events, across all leaders.
async fn watch(mut client: JobsClient<Authed>, ledger: Arc<Ledger>) {
    let mut after_seq = 0;
    loop {
        let request = WatchRequest { after_seq, ..WatchRequest::default() };
        match client.watch(request).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while let Ok(Some(event)) = stream.message().await {
                    // An event is seen once, wherever the watch begins again.
                    if event.seq > after_seq || event.kind == "dropped" {
                        after_seq = after_seq.max(event.seq);
                        note(&ledger, &event);
                    }
                }
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

fn note(ledger: &Ledger, event: &JobEvent) {
    let mut seen = lock(&ledger.seen);
    let seen = seen.entry(event.job_id).or_default();
    match event.kind.as_str() {
        "submitted" => seen.submitted += 1,
        "placed" => seen.placed += 1,
        "running" => seen.running += 1,
        "ended" => seen.ended += 1,
        _ => {}
    }
}

/// Waits until the watcher has seen the end of every acknowledged job.
async fn settle(ledger: &Ledger) -> Result<(), Failure> {
    let all = timeout(PATIENCE, async {
        loop {
            let left = {
                let seen = lock(&ledger.seen);
                lock(&ledger.acked).keys().filter(|job| seen.get(job).is_none_or(|seen| seen.ended == 0)).count()
            };
            if left == 0 {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    });
    let _ = all.await; // the verdict counts what is missing
    let (lost, doubled) = (lost(ledger), doubled(ledger));
    for job in lock(&ledger.acked).keys() {
        let seen = lock(&ledger.seen).get(job).copied().unwrap_or_default();
        if seen.submitted != 1 || seen.ended != 1 {
            eprintln!("job {job}: {seen:?}");
        }
    }
    let given_up = ledger.given_up.load(Ordering::SeqCst);
    if lost + doubled == 0 && given_up == 0 {
        return Ok(());
    }
    Err(failed(format!("{lost} acknowledged jobs lost, {doubled} attempts doubled, {given_up} calls never answered")))
}

fn lost(ledger: &Ledger) -> usize {
    let seen = lock(&ledger.seen);
    let is_lost = |job: &&u64| seen.get(job).is_none_or(|seen| seen.submitted != 1 || seen.ended != 1);
    lock(&ledger.acked).keys().filter(is_lost).count()
}

/// Jobs that were placed or ran more often than once, and jobs beyond the calls that were sent.
fn doubled(ledger: &Ledger) -> usize {
    let seen = lock(&ledger.seen);
    let twice = seen.values().filter(|seen| seen.placed > 1 || seen.running > 1 || seen.ended > 1).count();
    let sent = usize::try_from(ledger.sent.load(Ordering::SeqCst)).unwrap_or(usize::MAX);
    twice + seen.len().saturating_sub(sent)
}

fn judge(ledger: &Ledger, report: &mut Report) {
    report.add("calls sent", ledger.sent.load(Ordering::SeqCst) as f64, "jobs");
    report.add("jobs acknowledged", lock(&ledger.acked).len() as f64, "jobs");
    report.add("acknowledged jobs lost", lost(ledger) as f64, "jobs");
    report.add("attempts doubled", doubled(ledger) as f64, "attempts");
    report.add("calls never answered", ledger.given_up.load(Ordering::SeqCst) as f64, "calls");
}
