//! Exec: a program beside a running member, and its streams.
//!
//! In: the client's messages, the first of which says what to start. Out: the program's output, then its end. The caller
//! is checked against the job's owner on every call. What flows is passed on as it is, and never looked into.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use dure_core::Cluster;
use dure_core::ids::JobId;
use dure_core::job::{Job, MemberPhase, Phase};
use dure_proto::v1;
use dure_proto::v1::exec_input::Kind;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::jobs::seen;
use super::server::Services;
use super::status::Violation;
use super::steps::{Asked, Ticket};
use super::watch::Live;
use crate::agents::exec::ExecSession;
use crate::auth::{Identity, Target, Verb};

/// Most bytes of one input.
const MAX_INPUT: usize = 16 * 1024;
/// Words of one program.
const MAX_ARGS: usize = 4_096;
/// How long a call waits for the members of a job that is starting: the first may run, and ask for the others, before all do.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What a program says.
#[derive(Debug)]
pub struct ExecOutputs {
    outputs: mpsc::Receiver<v1::ExecOutput>,
    /// Bytes that the client has taken in, on their way to the program.
    shown: mpsc::UnboundedSender<u64>,
    /// Its place among the steps of its job.
    ticket: Ticket,
    ended: bool,
}

impl Stream for ExecOutputs {
    type Item = Result<v1::ExecOutput, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(output) = self.outputs.poll_recv(context) else { return Poll::Pending };
        let Some(output) = output else {
            self.ended = true;
            let why = "the program was cut off: its node is gone, or the output was not read";
            return Poll::Ready(Some(Err(Status::aborted(why))));
        };
        match &output.kind {
            Some(v1::exec_output::Kind::Stdout(bytes) | v1::exec_output::Kind::Stderr(bytes)) => {
                // The program's window is small: no more than that is ever in this queue.
                // Nobody passes it on once the call is over.
                self.shown.send(bytes.len() as u64).ok();
            }
            Some(v1::exec_output::Kind::End(end)) => {
                self.ticket.ended(end);
                self.ended = true;
            }
            Some(v1::exec_output::Kind::Taken(_)) | None => {}
        }
        Poll::Ready(Some(Ok(output)))
    }
}

/// Starts the program and passes on what the client says.
pub(super) async fn exec(
    services: &Services,
    identity: Identity,
    mut inputs: Streaming<v1::ExecInput>,
) -> Result<ExecOutputs, Status> {
    let Some(v1::ExecInput { kind: Some(Kind::Start(start)) }) = inputs.message().await? else {
        return Err(Violation::new("kind", "the first message says what to start".to_owned()).into());
    };
    if start.args.len() > MAX_ARGS {
        return Err(Violation::new("args", format!("{} words; at most {MAX_ARGS}", start.args.len())).into());
    }
    let by = identity.user.to_string();
    let Place { node, attempt, owner } = running(services, identity, &start).await?;
    // An agent speaks for a member, and the member is its owner's.
    let user = if start.step.is_some() { owner } else { by };
    let asked = Asked::new(&start, attempt, &node, user);
    if let Some(step) = start.step.as_ref().filter(|step| step.own) {
        if step.member != start.member {
            let why = format!("{}; member {} runs tasks of its own by itself alone", start.member, step.member);
            return Err(Violation::new("member", why).into());
        }
        return Ok(watched(inputs, services.steps.begin(asked, services.clock)));
    }
    let order = v1::ExecOrder {
        exec_id: 0,
        job_id: start.job_id,
        attempt,
        member: start.member,
        input: Some(v1::ExecInput { kind: Some(Kind::Start(start)) }),
    };
    let (session, outputs) = services.logs.exec(&node, order)?;
    let (shown, shows) = mpsc::unbounded_channel();
    tokio::spawn(pass_on(session, inputs, shows));
    let ticket = services.steps.begin(asked, services.clock);
    Ok(ExecOutputs { outputs, shown, ticket, ended: false })
}

/// A step that its member runs by itself: all that there is of it is its end.
fn watched(mut inputs: Streaming<v1::ExecInput>, ticket: Ticket) -> ExecOutputs {
    let ((end, outputs), (shown, _)) = (mpsc::channel(1), mpsc::unbounded_channel());
    tokio::spawn(async move {
        while let Ok(Some(input)) = inputs.message().await {
            if let Some(Kind::Ended(ended)) = input.kind {
                let kind = Some(v1::exec_output::Kind::End(ended));
                // Nobody waits for it any more when this fails.
                end.send(v1::ExecOutput { kind }).await.ok();
                return;
            }
        }
    });
    ExecOutputs { outputs, shown, ticket, ended: false }
}

/// Where the member runs; waits for it while its job is starting.
async fn running(services: &Services, identity: Identity, start: &v1::ExecStart) -> Result<Place, Status> {
    let give_up = Instant::now() + MAX_WAIT;
    // Before it is looked at: what happens from then on is heard.
    let mut live = services.watchers.subscribe();
    loop {
        let (identity, asked) = (identity.clone(), start.clone());
        let (found, _) = services.handle.read(move |cluster, _| member_of(cluster, &identity, &asked)).await?;
        match found? {
            Found::Runs(place) => return Ok(place),
            Found::Starts => {}
        }
        if timeout_at(give_up, news_of(&mut live, start.job_id)).await.is_err() {
            let why = format!("job {} has been starting for {} s: try again", start.job_id, MAX_WAIT.as_secs());
            return Err(Status::unavailable(why));
        }
    }
}

/// Until something has happened to a job, or may have: of what was missed nothing is known.
async fn news_of(live: &mut Live, job: u64) {
    while let Ok(batch) = live.recv().await {
        if batch.iter().any(|event| event.job_id == job) {
            return;
        }
    }
}

/// Ends with the call: then the session is dropped, and the program with it.
async fn pass_on(session: ExecSession, mut inputs: Streaming<v1::ExecInput>, mut shows: mpsc::UnboundedReceiver<u64>) {
    let mut open = true;
    loop {
        let going = tokio::select! {
            shown = shows.recv() => match shown {
                Some(bytes) => session.say(Kind::Shown(bytes)),
                // The client reads no more.
                None => return,
            },
            input = inputs.message(), if open => match input {
                Ok(Some(v1::ExecInput { kind: Some(Kind::Stdin(bytes)) })) if bytes.len() > MAX_INPUT => false,
                Ok(Some(v1::ExecInput { kind: Some(kind @ (Kind::Stdin(_) | Kind::StdinEnd(_) | Kind::Resize(_))) })) => {
                    session.say(kind)
                }
                Ok(Some(_)) => true,
                Ok(None) => {
                    open = false;
                    session.say(Kind::StdinEnd(true))
                }
                Err(_) => false,
            },
        };
        if !going {
            return;
        }
    }
}

/// The job of a step: its agent speaks for a member that runs on its own node.
fn stepping<'a>(cluster: &'a Cluster, id: u64, step: &v1::StepOf, identity: &Identity) -> Result<&'a Job, Status> {
    let over =
        || Status::failed_precondition(format!("member {} of job {id} does not run: it starts nothing", step.member));
    let job = cluster.job(JobId(id)).ok_or_else(over)?;
    let attempt = job.live_attempt().filter(|attempt| attempt.number.0 == step.attempt).ok_or_else(over)?;
    let member = attempt.members.get(step.member as usize).filter(|member| member.phase != MemberPhase::Gone);
    let node = member.ok_or_else(over)?.placed.node;
    identity.may(Verb::Enter, Target::Node(&cluster.node(node).name))?;
    Ok(job)
}

/// Where a member runs.
struct Place {
    node: String,
    attempt: u32,
    /// Whose job it is.
    owner: String,
}

/// A member that a program is to run beside.
enum Found {
    /// All of its job runs.
    Runs(Place),
    /// Its job has its GPUs, and is starting on them.
    Starts,
}

/// Where the member runs, if the caller may enter it.
fn member_of(cluster: &Cluster, identity: &Identity, asked: &v1::ExecStart) -> Result<Found, Status> {
    let job = match &asked.step {
        Some(step) => stepping(cluster, asked.job_id, step, identity)?,
        None => seen(cluster, asked.job_id, identity, Verb::Enter)?,
    };
    if job.progress.is_some() {
        let why = format!("job {} is an array; name one of its indices, as in {}_0", job.id, job.id);
        return Err(Violation::new("job_id", why).into());
    }
    let not_running = || Status::failed_precondition(format!("job {} does not run: nothing can run beside it", job.id));
    let may_enter = matches!(job.phase, Phase::Launching | Phase::Running);
    let attempt = job.live_attempt().filter(|_| may_enter).ok_or_else(not_running)?;
    let member = attempt.members.get(asked.member as usize).ok_or_else(|| {
        let why = format!("{}; the members are 0 to {}", asked.member, attempt.members.len() - 1);
        Status::from(Violation::new("member", why))
    })?;
    if member.phase == MemberPhase::Gone {
        return Err(not_running());
    }
    if matches!(job.phase, Phase::Launching) {
        return Ok(Found::Starts);
    }
    let (node, owner) = (cluster.node(member.placed.node).name.to_string(), cluster.user(job.spec.user).to_owned());
    Ok(Found::Runs(Place { node, attempt: attempt.number.0, owner }))
}
