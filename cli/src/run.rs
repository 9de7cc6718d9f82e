//! `dure run`: submit, stay, and show what the job writes.
//!
//! In: the flags of submit. Out: the output of every member as it comes, then the job's exit code as ours. Interrupted
//! once, it cancels the job and waits for its end; a lost connection leaves the job alone.

use std::{io::Write as _, time::Duration};

use dure_proto::v1::{Job, JobPhase, LogsRequest};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    context::Context,
    failure::Failure,
    jobs, phase,
    show::Out,
    submit::{self, SubmitArgs},
    watch,
};

/// Between two looks at a job that waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Members whose output is shown; with more, that of the first.
const MAX_SHOWN: u32 = 64;

/// Runs the command.
pub(crate) async fn run(args: SubmitArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let ids = submit::only(args, context).await?;
    let [id] = ids[..] else {
        return Err(Failure::Usage("dure run takes one job: use dure submit for several".to_owned()));
    };
    eprintln!("dure: job {id} is queued");
    let job = tokio::select! {
        job = follow(context, id) => job?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            eprintln!("dure: cancelling job {id}");
            jobs::cancel(context, id).await?;
            let mut ended = watch::until_ended(context, &[id]).await?;
            ended.pop().ok_or_else(|| Failure::Failed(format!("job {id} is gone")))?
        }
    };
    if out.is_json() {
        out.answer("Job", &job, String::new)?;
    }
    if job.phase() == JobPhase::Completed {
        return Ok(());
    }
    eprintln!("dure: job {id} {}{}", phase::name(job.phase()), phase::how(&job));
    std::process::exit(match (job.exit_code, job.signal) {
        (Some(code), _) if code != 0 => code,
        (_, Some(signal)) => 128 + signal,
        _ => 1,
    })
}

/// Shows attempt after attempt until the job has ended.
async fn follow(context: &Context, id: u64) -> Result<Job, Failure> {
    let mut shown = 0;
    loop {
        let job = jobs::get(context, id).await?;
        let attempt = job.attempt.as_ref().map_or(0, |attempt| attempt.number);
        let begun = attempt > shown && !matches!(job.phase(), JobPhase::Launching | JobPhase::Pending | JobPhase::Held);
        if begun && job.started_ms > 0 {
            shown = attempt;
            let members = job.attempt.as_ref().map_or(0, |attempt| attempt.members.len());
            show_attempt(context, id, attempt, u32::try_from(members).unwrap_or(MAX_SHOWN)).await;
        } else if phase::ended(job.phase()) {
            return Ok(job);
        } else {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Both streams of every member, until all of them have ended.
async fn show_attempt(context: &Context, id: u64, attempt: u32, members: u32) {
    let mut readers = JoinSet::new();
    for member in 0..members.min(MAX_SHOWN) {
        for stderr in [false, true] {
            let Ok(mut client) = context.jobs().await else { continue };
            let label = (members > 1).then(|| format!("{member}: "));
            readers.spawn(async move {
                let request =
                    LogsRequest { job_id: id, member, attempt, stderr, follow: true, ..LogsRequest::default() };
                let Ok(stream) = client.logs(request).await else { return };
                let mut stream = stream.into_inner();
                let mut lines = Lines { label, rest: Vec::new(), stderr };
                while let Ok(Some(chunk)) = stream.message().await {
                    lines.show(&chunk.data);
                }
                lines.end();
            });
        }
    }
    while readers.join_next().await.is_some() {}
}

/// A stream whose lines carry the member's rank, where there are several.
struct Lines {
    label: Option<String>,
    rest: Vec<u8>,
    stderr: bool,
}

impl Lines {
    fn show(&mut self, bytes: &[u8]) {
        let Some(label) = &self.label else { return self.write(bytes) };
        let label = label.clone();
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = label.bytes().chain(self.rest.drain(..=end)).collect();
            self.write(&line);
        }
    }

    fn end(mut self) {
        if let Some(label) = self.label.take().filter(|_| !self.rest.is_empty()) {
            let line: Vec<u8> = label.bytes().chain(self.rest.drain(..)).chain([b'\n']).collect();
            self.write(&line);
        }
    }

    /// Whoever read our output has gone: the job goes on.
    fn write(&self, bytes: &[u8]) {
        let _ = if self.stderr {
            std::io::stderr().write_all(bytes)
        } else {
            let mut out = std::io::stdout();
            out.write_all(bytes).and_then(|()| out.flush())
        };
    }
}
