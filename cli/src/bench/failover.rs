//! Failover: three schedulers on three members of etcd, agents and submits at a steady rate, and a fault again and again. Nothing acknowledged may be lost and no attempt may be doubled: then the bench fails.
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
/// An answer that a leader gave before it let go may be under way for so long: it closes its connections sooner.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Jobs that went wrong and are shown.
const MAX_SHOWN: usize = 5;
/// How long a fault of etcd lasts.
const ETCD_AWAY: Duration = Duration::from_secs(5);

/// What happens again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// The leader is killed (-9) and started again
    Kill,
    /// The leader hands over
    Handover,
    /// The leader is paused (STOP) until another leads, and goes on then
    Pause,
    /// The leading member of etcd is killed (-9) and started again
    EtcdKill,
    /// The leading member of etcd is paused, and goes on
    EtcdPause,
    /// A member of etcd that follows gets a tenth of its time
    EtcdSlow,
    /// Two of three members of etcd are killed, and started again after some seconds
    Quorum,
}

impl Fault {
    /// Whether another scheduler leads afterwards.
    fn changes_leader(self) -> bool {
        matches!(self, Fault::Kill | Fault::Handover | Fault::Pause)
    }
}

/// How often and under which load.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// How often the fault strikes
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// What strikes
    #[arg(long, value_enum, default_value = "kill")]
    fault: Fault,
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
    ended: u32,
    /// The highest attempt that was placed.
    attempts: u32,
    /// The attempt that runs; 0: none is known to.
    running: u32,
    /// An attempt began to run beside another, or twice.
    doubled: bool,
}

#[derive(Default)]
struct Ledger {
    /// Jobs by id: acknowledged ones.
    acked: Mutex<BTreeMap<u64, Instant>>,
    /// Jobs by id: what the watcher saw.
    seen: Mutex<BTreeMap<u64, Seen>>,
    /// When acknowledgements came since the last fault, in order.
    acks: Mutex<Vec<Instant>>,
    /// The first acknowledgement of each term.
    first_ack: Mutex<BTreeMap<u64, Instant>>,
    under_way: AtomicU64,
    sent: AtomicU64,
    given_up: AtomicU64,
    /// Acknowledgements of a term that came so long after the first of a later one that they were not under way by then.
    late: AtomicU64,
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
        let (ack, back) = strike(args, &mut members, &ledger).await?;
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
    report.latencies("fault to the next acknowledged submit", &mut acks);
    report.add("the same, longest", acks.last().copied().unwrap_or_default(), "ms");
    report.latencies("fault to all agents with a session", &mut agents);
    report.add("the same, longest", agents.last().copied().unwrap_or_default(), "ms");
    judge(&ledger, &mut report);
    members.stop().await;
    verdict.map(|()| report)
}

/// Lets the fault strike once: how long nothing was acknowledged, and until all agents had a session again.
async fn strike(args: &FailoverArgs, members: &mut Members, ledger: &Ledger) -> Result<(Duration, Duration), Failure> {
    let (leader, epoch) = members.leader().await?;
    lock(&ledger.acks).clear();
    let struck = Instant::now();
    match args.fault {
        Fault::Kill => members.kill(leader),
        Fault::Pause => members.pause(leader),
        Fault::Handover => {
            let asked = members.schedulers()?.hand_over(HandOverRequest {}).await;
            drop(asked.map_err(|status| failed(status.message()))?);
        }
        Fault::EtcdKill | Fault::EtcdPause | Fault::EtcdSlow | Fault::Quorum => etcd_fault(args.fault, members).await?,
    }
    let acked = if args.fault.changes_leader() {
        await_ack_after(ledger, epoch).await?.saturating_duration_since(struck)
    } else {
        await_acks(ledger).await?;
        longest_gap(struck, &lock(&ledger.acks))
    };
    members.joined(args.agents).await?;
    let back = struck.elapsed();
    match args.fault {
        Fault::Kill => members.restart(leader)?,
        Fault::Pause => members.resume(leader),
        Fault::Handover | Fault::EtcdKill | Fault::EtcdPause | Fault::EtcdSlow | Fault::Quorum => {}
    }
    // The next fault may strike when all three are there again, and only one of them leads.
    let all = timeout(PATIENCE, async {
        for at in 0..SCHEDULERS {
            while !members.answers(at).await {
                sleep(LOOK_EVERY).await;
            }
        }
        while members.leading().await != 1 {
            sleep(LOOK_EVERY).await;
        }
    });
    all.await.map_err(|_| failed("not all schedulers came back, or not exactly one leads, within a minute"))?;
    Ok((acked, back))
}

/// Until a submit was acknowledged under a later term.
async fn await_ack_after(ledger: &Ledger, epoch: u64) -> Result<Instant, Failure> {
    let acked = timeout(PATIENCE, async {
        loop {
            let first = lock(&ledger.first_ack).range(epoch + 1..).map(|(_, at)| *at).min();
            if let Some(first) = first {
                return first;
            }
            sleep(LOOK_EVERY).await;
        }
    });
    acked.await.map_err(|_| failed("no submit was acknowledged within a minute"))
}

/// Until submits are acknowledged again.
async fn await_acks(ledger: &Ledger) -> Result<(), Failure> {
    let from = Instant::now();
    let acked = timeout(PATIENCE, async {
        while lock(&ledger.acks).last().is_none_or(|last| *last <= from) {
            sleep(LOOK_EVERY).await;
        }
    });
    acked.await.map_err(|_| failed("no submit was acknowledged within a minute"))
}

/// The longest time without an acknowledgement.
fn longest_gap(from: Instant, acks: &[Instant]) -> Duration {
    let mut last = from;
    let gaps = acks.iter().map(|at| at.saturating_duration_since(std::mem::replace(&mut last, *at)));
    gaps.max().unwrap_or_default()
}

/// What strikes etcd, and its end.
async fn etcd_fault(fault: Fault, members: &Members) -> Result<(), Failure> {
    let etcd = members.etcd.as_ref().ok_or_else(|| failed("there is no etcd"))?;
    let leader = tokio::task::block_in_place(|| etcd.leader()).ok_or_else(|| failed("etcd has no leader"))?;
    let (second, third) = ((leader + 1) % 3, (leader + 2) % 3);
    match fault {
        Fault::Kill | Fault::Handover | Fault::Pause => {}
        Fault::EtcdKill => {
            etcd.kill(leader);
            sleep(ETCD_AWAY).await;
            etcd.restart(leader).map_err(failed)?;
        }
        Fault::EtcdPause => {
            etcd.pause(leader);
            sleep(ETCD_AWAY).await;
            etcd.resume(leader);
        }
        Fault::EtcdSlow => {
            let until = Instant::now() + ETCD_AWAY;
            while Instant::now() < until {
                etcd.pause(second);
                sleep(Duration::from_millis(180)).await;
                etcd.resume(second);
                sleep(Duration::from_millis(20)).await;
            }
        }
        Fault::Quorum => {
            etcd.kill(second);
            etcd.kill(third);
            sleep(ETCD_AWAY).await;
            etcd.restart(second).map_err(failed)?;
            etcd.restart(third).map_err(failed)?;
        }
    }
    Ok(())
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
                lock(&ledger.acks).push(now);
                let epoch = answer.position.map_or(0, |position| position.epoch);
                let mut first_ack = lock(&ledger.first_ack);
                if first_ack.range(epoch + 1..).any(|(_, first)| now.saturating_duration_since(*first) > UNDER_WAY) {
                    ledger.late.fetch_add(1, Ordering::SeqCst);
                }
                first_ack.entry(epoch).or_insert(now);
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
    // From the first event on; 0 would mean: from now on.
    let mut after_seq = 1;
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
    // A watcher that fell behind is told so by an event of no job.
    if event.job_id == 0 {
        return;
    }
    let mut seen = lock(&ledger.seen);
    let seen = seen.entry(event.job_id).or_default();
    match event.kind.as_str() {
        "submitted" => seen.submitted += 1,
        "placed" => seen.attempts = seen.attempts.max(event.attempt),
        "running" => {
            seen.doubled |= seen.running != 0;
            seen.running = event.attempt;
        }
        "attempt_ended" => {
            if event.attempt == seen.running {
                seen.running = 0;
            }
            if event.detail != "completed" {
                eprintln!("job {} attempt {}: {}", event.job_id, event.attempt, event.detail);
            }
        }
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
    let mut shown = 0;
    for job in lock(&ledger.acked).keys() {
        let seen = lock(&ledger.seen).get(job).copied().unwrap_or_default();
        if (seen.submitted != 1 || seen.ended != 1) && shown < MAX_SHOWN {
            shown += 1;
            eprintln!("job {job}: {seen:?}");
        }
    }
    let given_up = ledger.given_up.load(Ordering::SeqCst);
    let late = ledger.late.load(Ordering::SeqCst);
    if lost + doubled == 0 && given_up + late == 0 {
        return Ok(());
    }
    Err(failed(format!(
        "{lost} acknowledged jobs lost, {doubled} attempts doubled, {given_up} calls never answered, {late} acknowledged by \
         a leader that was deposed"
    )))
}

fn lost(ledger: &Ledger) -> usize {
    let seen = lock(&ledger.seen);
    let is_lost = |job: &&u64| seen.get(job).is_none_or(|seen| seen.submitted != 1 || seen.ended != 1);
    lock(&ledger.acked).keys().filter(is_lost).count()
}

/// Jobs of which an attempt ran beside another or twice, and jobs beyond the calls that were sent.
fn doubled(ledger: &Ledger) -> usize {
    let seen = lock(&ledger.seen);
    let twice = seen.values().filter(|seen| seen.doubled || seen.ended > 1).count();
    let sent = usize::try_from(ledger.sent.load(Ordering::SeqCst)).unwrap_or(usize::MAX);
    twice + seen.len().saturating_sub(sent)
}

fn judge(ledger: &Ledger, report: &mut Report) {
    report.add("calls sent", ledger.sent.load(Ordering::SeqCst) as f64, "jobs");
    report.add("jobs acknowledged", lock(&ledger.acked).len() as f64, "jobs");
    report.add("acknowledged jobs lost", lost(ledger) as f64, "jobs");
    let again = lock(&ledger.seen).values().filter(|seen| seen.attempts > 1).count();
    report.add("jobs that needed a second attempt", again as f64, "jobs");
    report.add("attempts doubled", doubled(ledger) as f64, "attempts");
    report.add("acknowledged by a deposed leader", ledger.late.load(Ordering::SeqCst) as f64, "jobs");
    report.add("calls never answered", ledger.given_up.load(Ordering::SeqCst) as f64, "calls");
}
