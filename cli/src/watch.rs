//! `dure watch`, and waiting for the ends of jobs.
//!
//! A broken stream is resumed from the last position seen: nothing is shown twice and nothing is left out.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use dure_proto::v1::{GetJobRequest, Job, JobEvent, WatchRequest};
use tokio::time::sleep;

use crate::{context::Context, failure::Failure, phase, show::Out, when};

/// Broken streams in a row after which a watch gives up.
const MAX_BREAKS: u32 = 10;
/// Wait before a broken stream is resumed.
const RESUME_AFTER: Duration = Duration::from_millis(500);
/// How often waiting looks at jobs whose events it may have missed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Follow job events
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only events after this position; without it: from now on
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// A tenant and everything below it
    #[arg(short = 'A', long, visible_alias = "account")]
    tenant: Option<String>,
    /// One job
    #[arg(long, value_name = "ID")]
    job: Option<u64>,
    /// Jobs of this user
    #[arg(short, long)]
    user: Option<String>,
}

/// `dure watch`: until it is interrupted.
pub(crate) async fn run(args: WatchArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let mut request = WatchRequest {
        after_seq: args.after,
        tenant: args.tenant.unwrap_or_default(),
        job_id: args.job.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
    };
    let mut breaks = 0;
    loop {
        let seen = request.after_seq;
        let ended =
            follow(context, &mut request, &mut |event| out.answer("JobEvent", event, || line(event)).map(|()| true))
                .await;
        breaks = if request.after_seq > seen { 0 } else { breaks + 1 };
        match ended {
            Ok(_) => {}
            Err(failure @ (Failure::OutputClosed | Failure::Refused(_) | Failure::Usage(_))) => return Err(failure),
            Err(failure) if breaks >= MAX_BREAKS => return Err(failure),
            Err(_) => {}
        }
        sleep(RESUME_AFTER).await;
    }
}

/// Follows one stream until it breaks or `see` says that it has seen enough (then true).
async fn follow(
    context: &Context,
    request: &mut WatchRequest,
    see: &mut dyn FnMut(&JobEvent) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let mut client = context.jobs().await?;
    let mut stream = client.watch(request.clone()).await.map_err(|status| context.refused(status))?.into_inner();
    while let Some(event) = stream.message().await.map_err(|status| context.refused(status))? {
        request.after_seq = request.after_seq.max(event.seq);
        if event.kind != "dropped" && !see(&event)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn line(event: &JobEvent) -> String {
    let detail = if event.detail.is_empty() { String::new() } else { format!("  {}", event.detail) };
    let attempt = if event.attempt > 1 { format!(" attempt {}", event.attempt) } else { String::new() };
    format!(
        "{}  {:>8}  job {:<6} {:<14} {}/{}{attempt}{detail}",
        when::shown(event.time_ms),
        event.seq,
        event.job_id,
        event.kind,
        event.tenant,
        event.user
    )
}

/// Waits until all of these jobs have ended; gives them in the order of their ids.
pub(crate) async fn until_ended(context: &Context, ids: &[u64]) -> Result<Vec<Job>, Failure> {
    let mut client = context.jobs().await?;
    let mut waiting: BTreeSet<u64> = ids.iter().copied().collect();
    let mut ended = Vec::new();
    while !waiting.is_empty() {
        for id in waiting.clone() {
            let get = GetJobRequest { job_id: id, with_payload: false };
            let job = client.get(get).await.map_err(|status| context.refused(status))?.into_inner();
            if phase::ended(job.phase()) {
                waiting.remove(&id);
                ended.push(job);
            }
        }
        let Some(first) = waiting.first().copied() else { break };
        // An event of a job that is waited for, or a moment: a state that was reached before the watch began has no event.
        let mut request = WatchRequest { job_id: first, ..WatchRequest::default() };
        let mut see = |event: &JobEvent| Ok(!phase::ended(event.phase()));
        tokio::select! {
            done = follow(context, &mut request, &mut see) => drop(done?),
            () = sleep(LOOK_EVERY) => {}
        }
    }
    ended.sort_by_key(|job| job.id);
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = JobEvent {
            seq: 41,
            job_id: 7,
            tenant: "fusion".into(),
            user: "kim".into(),
            kind: "attempt_ended".into(),
            attempt: 2,
            detail: "evicted".into(),
            ..JobEvent::default()
        };
        expect!["-        41  job 7      attempt_ended  fusion/kim attempt 2  evicted"].assert_eq(&line(&event));
    }
}
