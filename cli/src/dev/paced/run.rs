//! Submits every job when it is due, and follows the events until all have ended.
//!
//! Comes in: the plan and the cluster's users. Goes out: when the events say that each job was submitted, placed and
//! ended. The clock of this side decides only when a call is made, never what is written down.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dure_proto::v1::{JobEvent, JobPhase, SubmitRequest, WatchRequest};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::plan::Plan;
use crate::{dev::session::Session, failure::Failure, progress::Progress, submit::request_id};

/// Jobs in one call.
const MAX_BATCH: usize = 1_000;
/// How often the progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Without any event for so long after the last submit the replay is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// Wait before a broken stream of events is resumed.
const RESUME_AFTER: Duration = Duration::from_millis(100);

/// What the events say of one job, in the scheduler's milliseconds; 0 = not yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    /// When it was submitted.
    pub(crate) submitted_ms: u64,
    /// When it was placed first.
    pub(crate) placed_ms: u64,
    /// When it ended.
    pub(crate) ended_ms: u64,
    /// How it ended.
    pub(crate) end: Option<JobPhase>,
    /// How often it was placed.
    pub(crate) attempts: u32,
}

#[derive(Default)]
struct Seen {
    by_job: HashMap<u64, Followed>,
    ended: usize,
    last: Option<Instant>,
}

impl Seen {
    fn take(&mut self, event: &JobEvent) {
        self.last = Some(Instant::now());
        let job = self.by_job.entry(event.job_id).or_default();
        match event.kind.as_str() {
            "submitted" => job.submitted_ms = event.time_ms,
            "placed" => {
                job.attempts += 1;
                if job.placed_ms == 0 {
                    job.placed_ms = event.time_ms;
                }
            }
            "ended" if job.end.is_none() => {
                (job.ended_ms, job.end) = (event.time_ms, Some(event.phase()));
                self.ended += 1;
            }
            _ => {}
        }
    }
}

type Shared = Arc<Mutex<Seen>>;

fn with<T>(seen: &Shared, use_it: impl FnOnce(&mut Seen) -> T) -> T {
    use_it(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Replays the plan; gives what was followed of each of its jobs, in its order.
pub(crate) async fn run(session: &Session, plan: &Plan) -> Result<Vec<Followed>, Failure> {
    let seen = Shared::default();
    let opened = Arc::new(Notify::new());
    let follower = tokio::spawn(follow(session.clone(), seen.clone(), opened.clone()));
    opened.notified().await;
    let mut progress = Progress::new();
    let ids = submit_all(session, plan, &seen, &mut progress).await;
    let ended = match ids {
        Ok(ids) => until_ended(&ids, &seen, &mut progress).await.map(|()| ids),
        Err(failure) => Err(failure),
    };
    follower.abort();
    progress.done();
    let ids = ended?;
    Ok(with(&seen, |seen| ids.iter().map(|id| seen.by_job.get(id).copied().unwrap_or_default()).collect()))
}

/// Follows all events; resumes a broken stream where it broke.
async fn follow(session: Session, seen: Shared, opened: Arc<Notify>) {
    let mut after_seq = 0;
    loop {
        let watch = session.jobs().watch(WatchRequest { after_seq, ..WatchRequest::default() }).await;
        if let Ok(stream) = watch {
            let mut stream = stream.into_inner();
            opened.notify_one();
            while let Ok(Some(event)) = stream.message().await {
                after_seq = after_seq.max(event.seq);
                with(&seen, |seen| seen.take(&event));
            }
        }
        sleep(RESUME_AFTER).await;
    }
}

/// Submits every job as its user, never before its time; what is due together goes in one call per user.
async fn submit_all(
    session: &Session,
    plan: &Plan,
    seen: &Shared,
    progress: &mut Progress,
) -> Result<Vec<u64>, Failure> {
    let start = Instant::now();
    let due = |job: usize| start + Duration::from_secs_f64(plan.jobs[job].due_ms.max(0.0) / 1_000.0);
    let mut ids = vec![0; plan.jobs.len()];
    let mut next = 0;
    while next < plan.jobs.len() {
        let at = due(next);
        while Instant::now() < at {
            show(plan.jobs.len(), next, seen, progress);
            sleep_until(at.min(Instant::now() + SHOW_EVERY)).await;
        }
        let now = Instant::now();
        let mut batches: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        let mut count = 0;
        while next < plan.jobs.len() && due(next) <= now && count < MAX_BATCH {
            let row = &plan.jobs[next].row;
            batches.entry((&row.tenant, &row.user)).or_default().push(next);
            next += 1;
            count += 1;
        }
        for ((tenant, user), jobs) in batches {
            let specs = jobs.iter().map(|job| plan.jobs[*job].spec()).collect();
            let request = SubmitRequest { request_id: request_id()?, jobs: specs };
            let answer =
                session.jobs_as(tenant, user)?.submit(request).await.map_err(|status| session.refused(status))?;
            let first = answer.into_inner().first_job_id;
            (first..).zip(jobs).for_each(|(id, job)| ids[job] = id);
        }
        show(plan.jobs.len(), next, seen, progress);
    }
    Ok(ids)
}

fn show(all: usize, submitted: usize, seen: &Shared, progress: &mut Progress) {
    let ended = with(seen, |seen| seen.ended);
    progress.state(&format!("{submitted} of {all} jobs submitted, {ended} ended"));
}

async fn until_ended(ids: &[u64], seen: &Shared, progress: &mut Progress) -> Result<(), Failure> {
    let submitted = Instant::now();
    loop {
        let (ended, last) = with(seen, |seen| (seen.ended, seen.last));
        if ended >= ids.len() {
            return Ok(());
        }
        let quiet = last.map_or(submitted, |last| last.max(submitted)).elapsed();
        if quiet > STUCK_AFTER {
            let left = with(seen, |seen| {
                ids.iter().find(|id| seen.by_job.get(id).is_none_or(|job| job.end.is_none())).copied()
            });
            let left = left.map_or(String::new(), |id| format!(", job {id} for one"));
            return Err(Failure::Failed(format!(
                "{} of {} jobs have not ended and nothing has happened for {} s{left}",
                ids.len() - ended,
                ids.len(),
                quiet.as_secs()
            )));
        }
        show(ids.len(), ids.len(), seen, progress);
        sleep(SHOW_EVERY).await;
    }
}
