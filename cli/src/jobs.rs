//! `dure queue | job | cancel | hold | release`.

mod steps;

use std::collections::BTreeSet;

use clap::Args;
use dure_proto::v1::{self, Job, JobPhase, ListJobsRequest, PageRequest};

use crate::{
    context::Context,
    estimates, explain,
    failure::Failure,
    jobid::{self, JobRef},
    phase,
    show::Out,
    span, submit, when,
};

/// The largest page of a listing.
const PAGE: u32 = 1_000;
/// Reasons are cut off after so many characters in listings; `dure job` shows them whole.
const REASON_WIDTH: usize = 72;

/// List jobs
#[derive(Debug, Default, Args)]
pub(crate) struct QueueArgs {
    /// A tenant and everything below it
    #[arg(short = 'A', long, visible_alias = "account")]
    tenant: Option<String>,
    /// Jobs of this user
    #[arg(short, long)]
    user: Option<String>,
    /// Jobs in these phases
    #[arg(short, long, value_delimiter = ',', value_parser = phase::parse)]
    phase: Vec<JobPhase>,
    /// Jobs of this name
    #[arg(short = 'J', long)]
    name: Option<String>,
    /// Jobs that hold GPUs of this node
    #[arg(long)]
    node: Option<String>,
    /// Ended jobs too
    #[arg(short, long)]
    all: bool,
    /// At most so many jobs
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

/// Show one job
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job: 12, or 12_7 for index 7 of the array 12
    #[arg(value_name = "ID")]
    pub(crate) id: JobRef,
    /// What its place in the order follows from
    #[arg(long)]
    pub(crate) why_here: bool,
    /// What srun, exec and shell run or have run beside its members
    #[arg(long, conflicts_with = "why_here")]
    pub(crate) steps: bool,
}

/// What to do with jobs.
#[derive(Debug, Args)]
pub(crate) struct ActionArgs {
    /// The jobs: 12, or 12_7 for index 7 of the array 12
    #[arg(value_name = "ID", required_unless_present_any = ["tenant", "user", "name"])]
    ids: Vec<JobRef>,
    #[command(flatten)]
    all_of: AllOf,
}

/// All jobs that have not ended and that all of this names.
#[derive(Debug, Args)]
pub(crate) struct AllOf {
    /// All jobs of this tenant and those below it
    #[arg(short = 'A', long, visible_alias = "account", conflicts_with = "ids", value_parser = some)]
    tenant: Option<String>,
    /// All jobs of this user
    #[arg(short, long, conflicts_with = "ids", value_parser = some)]
    user: Option<String>,
    /// All jobs of this name
    #[arg(short = 'J', long, conflicts_with = "ids", value_parser = some)]
    name: Option<String>,
    /// Of these only jobs in these phases
    #[arg(short, long, value_delimiter = ',', value_parser = phase::parse, conflicts_with = "ids")]
    phase: Vec<JobPhase>,
}

/// An empty one would name everybody's jobs: it is a variable that was not set.
fn some(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("it is empty: name one".to_owned()) } else { Ok(text.to_owned()) }
}

/// What `cancel`, `hold` and `release` do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// End it.
    Cancel,
    /// Do not start it.
    Hold,
    /// It may start again.
    Release,
}

/// `dure queue`.
pub(crate) async fn queue(args: QueueArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let phases = if args.phase.is_empty() && !args.all { live() } else { args.phase };
    let request = ListJobsRequest {
        page: None,
        tenant: args.tenant.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        phases: phases.into_iter().map(i32::from).collect(),
        name: args.name.unwrap_or_default(),
        node: args.node.unwrap_or_default(),
    };
    let all = list(request, args.limit, context).await?;
    out.answer("ListJobsResponse", &all, || queue_table(&all, when::now_ms(), out))
}

/// The phases of what has not ended.
fn live() -> Vec<JobPhase> {
    phase::ALL.into_iter().filter(|phase| !phase::ended(*phase)).collect()
}

/// At most so many jobs, page by page.
async fn list(mut request: ListJobsRequest, limit: usize, context: &Context) -> Result<v1::ListJobsResponse, Failure> {
    let mut client = context.jobs().await?;
    let mut all = v1::ListJobsResponse::default();
    loop {
        let page_size = u32::try_from(limit - all.jobs.len()).unwrap_or(PAGE).min(PAGE);
        request.page = Some(PageRequest { page_size, page_token: std::mem::take(&mut all.next_page_token) });
        let page = client.list(request.clone()).await.map_err(|status| context.refused(status))?.into_inner();
        all.jobs.extend(page.jobs);
        all.next_page_token = page.next_page_token;
        all.position = page.position;
        if all.next_page_token.is_empty() || all.jobs.len() >= limit {
            return Ok(all);
        }
    }
}

fn queue_table(all: &v1::ListJobsResponse, now_ms: u64, out: Out) -> String {
    if all.jobs.is_empty() && !out.is_csv() {
        return "no jobs (--all shows ended ones too)".to_owned();
    }
    let mut head = vec!["id>", "tenant", "user", "name", "phase", "gpus>", "shape", "age>", "ran>"];
    let is_estimated = all.jobs.iter().any(|job| job.estimate.is_some());
    head.extend(is_estimated.then_some("starts>"));
    head.push("where or why not");
    let mut rows = out.table(&head);
    for job in &all.jobs {
        let mut row = vec![
            jobid::shown(job),
            job.tenant.clone(),
            job.user.clone(),
            job.name.clone(),
            phase::name(job.phase()).to_owned(),
            job.gpus.to_string(),
            phase::shape(job),
            when::age(job.submitted_ms, now_ms),
            ran(job, now_ms),
        ];
        row.extend(is_estimated.then(|| estimates::short(job.estimate.as_ref(), now_ms)));
        row.push(note(job, out));
        rows.row(row);
    }
    let mut text = rows.text();
    if !all.next_page_token.is_empty() && !out.is_csv() {
        text.push_str(&format!("and more: the first {} are shown, see --limit\n", all.jobs.len()));
    }
    text
}

/// How long the last attempt ran, or has run.
fn ran(job: &Job, now_ms: u64) -> String {
    match (job.started_ms, job.ended_ms) {
        (0, _) => "-".to_owned(),
        (_, 0) if job.phase() == JobPhase::Pending => "-".to_owned(),
        (started, 0) => span::human(now_ms.saturating_sub(started)),
        (started, ended) => span::human(ended.saturating_sub(started)),
    }
}

/// Nodes of a job that has some, progress of an array, the reason of one that waits, the end of one that ended.
fn note(job: &Job, out: Out) -> String {
    if let Some(array) = &job.array {
        let done = array.completed + array.failed;
        return format!("{done} of {} ended, {} active, {} wait", array.size, array.active, array.waiting);
    }
    if phase::ended(job.phase()) {
        return phase::how(job).trim().to_owned();
    }
    let nodes = nodes_of(job);
    let text = if job.reason.is_empty() { nodes } else { job.reason.clone() };
    if out.is_csv() || text.chars().count() <= REASON_WIDTH {
        return text;
    }
    format!("{}..", text.chars().take(REASON_WIDTH - 2).collect::<String>())
}

fn nodes_of(job: &Job) -> String {
    let mut nodes: Vec<&str> = Vec::new();
    for member in job.attempt.iter().flat_map(|attempt| &attempt.members) {
        if !nodes.contains(&member.node.as_str()) {
            nodes.push(&member.node);
        }
    }
    nodes.join(",")
}

/// `dure job`.
pub(crate) async fn job(args: JobArgs, context: &Context, out: Out) -> Result<(), Failure> {
    if args.why_here {
        return explain::why_here(args.id, context, out).await;
    }
    let mut client = context.jobs().await?;
    let job_id = jobid::resolve(context, &mut client, args.id).await?;
    if args.steps {
        return steps::show(&mut client, job_id, context, out).await;
    }
    let get = v1::GetJobRequest { job_id, with_payload: false };
    let job = client.get(get).await.map_err(|status| context.refused(status))?.into_inner();
    out.answer("Job", &job, || job_text(&job, when::now_ms(), out))
}

/// The limit of the attempt that runs or ran last, and what was asked for where it may be lowered.
fn limit_text(job: &Job) -> String {
    let asked = span::human(job.time_limit_ms);
    let waits = matches!(job.phase(), JobPhase::Pending | JobPhase::Held);
    let attempt = job.attempt.as_ref().filter(|_| !waits).map_or(job.time_limit_ms, |attempt| attempt.time_limit_ms);
    match job.time_min_ms {
        0 => asked,
        least if attempt == job.time_limit_ms => format!("{asked} (at least {})", span::human(least)),
        least => format!("{} (asked {asked}, at least {})", span::human(attempt), span::human(least)),
    }
}

fn job_text(job: &Job, now_ms: u64, out: Out) -> String {
    let mut lines: Vec<(&str, String)> = vec![
        ("job", format!("{}  {}", jobid::shown(job), job.name)),
        ("tenant", format!("{}  user {}", job.tenant, job.user)),
        ("phase", format!("{}{}", phase::name(job.phase()), phase::how(job))),
        ("gpus", format!("{} ({})", job.gpus, phase::shape(job))),
        ("priority", format!("{}{}", job.priority, if job.non_preemptible { ", never evicted" } else { "" })),
        ("time limit", limit_text(job)),
        ("submitted", format!("{} ({} ago)", when::shown(job.submitted_ms), when::age(job.submitted_ms, now_ms))),
        ("started", when::shown(job.started_ms)),
        ("ended", when::shown(job.ended_ms)),
        ("attempts", job.attempts.to_string()),
    ];
    if let Some(array) = &job.array {
        let cap =
            if array.max_running > 0 { format!(", at most {} at once", array.max_running) } else { String::new() };
        let progress = format!(
            "{} completed, {} failed, {} active, {} wait",
            array.completed, array.failed, array.active, array.waiting
        );
        lines.push(("array", format!("{} indices{cap}: {progress}", array.size)));
    }
    if !job.booking.is_empty() {
        lines.push(("runs in", format!("reservation {}", job.booking)));
    }
    if !job.dependencies.is_empty() {
        let all: Vec<String> = job.dependencies.iter().map(depend_text).collect();
        lines.push(("waits for", all.join(", ")));
    }
    if !job.reason.is_empty() {
        if phase::ended(job.phase()) {
            lines.push(("why", job.reason.clone()));
        } else {
            lines
                .push(("why not", format!("{} (dure explain {} says what would help)", job.reason, jobid::shown(job))));
        }
    }
    if let Some(idle) = &job.idle {
        let since = when::age(idle.since_ms, now_ms);
        let follows = if idle.action == "notify" {
            String::new()
        } else {
            format!("; {} at {} unless they do", idle.action, when::shown(idle.due_ms))
        };
        lines.push(("idle", format!("its GPUs have done no work for {since}{follows}")));
    }
    if let Some(estimate) = &job.estimate {
        lines.push(("estimate", format!("{} (as of {})", estimates::long(estimate), when::shown(estimate.as_of_ms))));
    }
    if let Some(usage) = &job.usage {
        let own = span::gpu_time(usage.own_gpu_ms);
        lines.push(("used", format!("{own} own, {} borrowed", span::gpu_time(usage.borrowed_gpu_ms))));
    }
    let mut text: String = lines.iter().map(|(name, value)| format!("{:<12}{value}\n", format!("{name}:"))).collect();
    if let Some(attempt) = job.attempt.as_ref().filter(|attempt| !attempt.members.is_empty()) {
        text.push_str(&members_text(attempt, out));
    }
    text
}

fn members_text(attempt: &v1::Attempt, out: Out) -> String {
    let mut rows = out.table(&["rank>", "node", "gpus", "phase", "end"]);
    for (rank, member) in (0..).zip(&attempt.members) {
        let gpus = phase::gpus(&member.gpus, member.gpu_milli, member.mig.as_ref());
        let end = end_of(member, attempt.failed_first == Some(rank));
        rows.row([rank.to_string(), member.node.clone(), gpus, member.phase.clone(), end]);
    }
    rows.text()
}

/// How a member ended, all that is known of it.
fn end_of(member: &v1::MemberPlacement, failed_first: bool) -> String {
    let how = match (member.exit_code, member.signal) {
        (_, Some(signal)) => format!("signal {signal}"),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => String::new(),
    };
    let said = |is_so: bool, words: &str| is_so.then(|| words.to_owned());
    let all = [
        Some(how),
        said(member.timed_out, "at its time limit"),
        said(member.out_of_memory, "out of memory"),
        said(failed_first, "the first to fail"),
        Some(member.detail.clone()),
    ];
    all.into_iter().flatten().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(", ")
}

fn depend_text(dependency: &v1::Dependency) -> String {
    let kind = match dependency.kind() {
        v1::DependencyKind::Unspecified => "after",
        v1::DependencyKind::AfterOk => "afterok",
        v1::DependencyKind::AfterAny => "afterany",
        v1::DependencyKind::AfterNotOk => "afternotok",
    };
    match dependency.on {
        Some(v1::dependency::On::JobId(job)) => format!("{kind}:{job}"),
        Some(v1::dependency::On::IndexInCall(place)) => format!("{kind}:+{place}"),
        None => kind.to_owned(),
    }
}

/// `dure cancel | hold | release`: all of them, also when one is refused.
/// One job as it is.
pub(crate) async fn get(context: &Context, job_id: u64) -> Result<Job, Failure> {
    let request = v1::GetJobRequest { job_id, with_payload: false };
    let answer = context.jobs().await?.get(request).await;
    Ok(answer.map_err(|status| context.refused(status))?.into_inner())
}

/// Ends one job.
pub(crate) async fn cancel(context: &Context, job_id: u64) -> Result<(), Failure> {
    let request = v1::CancelRequest { request_id: submit::request_id()?, job_id };
    context.jobs().await?.cancel(request).await.map(drop).map_err(|status| context.refused(status))
}

pub(crate) async fn act(action: Action, args: ActionArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.jobs().await?;
    let mut last = None;
    let ids = if args.ids.is_empty() { args.all_of.ids(context).await? } else { args.ids };
    if ids.is_empty() && !out.is_json() {
        return out.line("no such jobs");
    }
    for id in ids {
        match act_on(action, id, context, &mut client).await {
            Ok(answer) => {
                out.answer("JobActionResponse", &answer, || format!("job {id} is {}", phase::name(answer.phase())))?
            }
            Err(failure @ Failure::Unreachable { .. }) => return Err(failure),
            Err(failure) => {
                if let Some(earlier) = last.replace(failure) {
                    eprintln!("{}", earlier.text());
                }
            }
        }
    }
    last.map_or(Ok(()), Err)
}

impl AllOf {
    /// The jobs as they are now. An array stands for its indices; where phases are asked for, only while none is under way.
    async fn ids(self, context: &Context) -> Result<Vec<JobRef>, Failure> {
        let is_any = self.phase.is_empty();
        let phases = if is_any { live() } else { self.phase };
        let request = ListJobsRequest {
            tenant: self.tenant.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            name: self.name.unwrap_or_default(),
            phases: phases.into_iter().map(i32::from).collect(),
            ..ListJobsRequest::default()
        };
        let mut jobs = list(request, usize::MAX, context).await?.jobs;
        jobs.retain(|job| is_any || job.array.as_ref().is_none_or(|array| array.active == 0));
        let arrays: BTreeSet<u64> = jobs.iter().filter(|job| job.array.is_some()).map(|job| job.id).collect();
        let alone = jobs.iter().filter(|job| !arrays.contains(&job.array_job_id));
        Ok(alone.map(|job| JobRef { job: job.id, index: None }).collect())
    }
}

async fn act_on(
    action: Action,
    id: JobRef,
    context: &Context,
    client: &mut v1::jobs_client::JobsClient<crate::context::Authed>,
) -> Result<v1::JobActionResponse, Failure> {
    let job_id = jobid::resolve(context, client, id).await?;
    let request_id = submit::request_id()?;
    let answer = match action {
        Action::Cancel => client.cancel(v1::CancelRequest { request_id, job_id }).await,
        Action::Hold => client.hold(v1::HoldRequest { request_id, job_id }).await,
        Action::Release => client.release(v1::ReleaseRequest { request_id, job_id }).await,
    };
    Ok(answer.map_err(|status| context.refused(status))?.into_inner())
}

#[cfg(test)]
mod tests;
