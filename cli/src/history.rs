//! `dure audit`, `dure usage --since`, `dure history`: what has been.

mod offline;
mod tables;

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use dure_proto::v1::{
    AuditRequest, AuditResponse, PageRequest, PastAttemptsResponse, PastEvictionsResponse, PastJobsResponse,
    PastQuotasResponse, PastRequest, PastUsageRequest, PastUsageResponse,
};
use jiff::{Timestamp, civil, tz::TimeZone};

use crate::{context::Context, failure::Failure, jobid, jobid::JobRef, show::Out, span::UserSpan, when};

/// The largest page.
const PAGE: usize = 1_000;

/// A moment that has been: so long ago, or a date.
#[derive(Clone, Copy, Debug)]
struct Past(u64);

impl FromStr for Past {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = text.parse::<UserSpan>()
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
            && !text.contains('T')
        {
            return Ok(Self(when::now_ms().saturating_sub(ago.0)));
        }
        let local = |at: civil::DateTime| at.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp());
        let at = text
            .parse::<Timestamp>()
            .ok()
            .or_else(|| text.parse::<civil::DateTime>().ok().and_then(local))
            .and_then(|at| u64::try_from(at.as_millisecond()).ok());
        let wrong =
            || format!("{text:?} is no moment of the past: write 30d (so long ago), 2026-11-01 or 2026-11-01T08:00");
        at.map(Self).ok_or_else(wrong)
    }
}

/// From when to when.
#[derive(Debug, Default, Args)]
struct TimeArgs {
    /// From this moment on: 30d (ago), 2026-11-01, 2026-11-01T08:00
    #[arg(long, value_name = "WHEN")]
    since: Option<Past>,
    /// Until this moment [default: now]
    #[arg(long, value_name = "WHEN")]
    until: Option<Past>,
}

impl TimeArgs {
    /// The end is fixed when the first page is asked for, so that later ones go on where it ended.
    fn bounds(&self) -> (u64, u64) {
        (self.since.map_or(0, |since| since.0), self.until.map_or_else(|| when::now_ms() + 1, |until| until.0))
    }
}

/// Which rows.
#[derive(Debug, Default, Args)]
struct WhichArgs {
    /// A tenant and everything below it
    #[arg(short = 'A', long, value_name = "TENANT", default_value = "", hide_default_value = true)]
    tenant: String,
    /// Of this user
    #[arg(short, long, value_name = "USER", default_value = "", hide_default_value = true)]
    user: String,
    /// Of this job
    #[arg(long, value_name = "JOB")]
    job: Option<JobRef>,
    #[command(flatten)]
    time: TimeArgs,
    /// At most so many rows
    #[arg(long, value_name = "ROWS", default_value_t = 100)]
    limit: usize,
}

impl WhichArgs {
    async fn request(&self, context: &Context) -> Result<PastRequest, Failure> {
        let (since_ms, until_ms) = self.time.bounds();
        let job_id = match self.job {
            None => 0,
            Some(JobRef { job, index: None }) => job,
            Some(job) => jobid::resolve(context, &mut context.jobs().await?, job).await?,
        };
        Ok(PastRequest {
            tenant: self.tenant.clone(),
            user: self.user.clone(),
            job_id,
            since_ms,
            until_ms,
            ..PastRequest::default()
        })
    }
}

/// Usage of days, for `dure usage`.
#[derive(Debug, Default, Args)]
pub(crate) struct PastUsageArgs {
    #[command(flatten)]
    time: TimeArgs,
    /// One row per day (UTC)
    #[arg(long)]
    by_day: bool,
}

impl PastUsageArgs {
    /// Without any of it `dure usage` shows what the state has counted since the beginning.
    pub(crate) fn is_asked(&self) -> bool {
        self.by_day || self.time.since.is_some() || self.time.until.is_some()
    }
}

/// Who changed what
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Only what was refused (counted per user, method and minute)
    #[arg(long)]
    refused: bool,
    /// Only this method, as Jobs/Cancel
    #[arg(long, value_name = "METHOD", default_value = "", hide_default_value = true)]
    method: String,
}

/// What has been.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    /// Jobs that ended, the last one first
    Jobs(HistoryArgs),
    /// Attempts that ended, the last one first
    Attempts(HistoryArgs),
    /// Attempts that were stopped for others, for a drain or for a lost node
    Evictions(HistoryArgs),
    /// Changes of quotas
    Quotas(HistoryArgs),
    /// Make the history anew from the journal; the scheduler must not run
    Rebuild {
        /// The scheduler's folder
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Also where the journal does not go back as far as the history does
        #[arg(long)]
        forget_older: bool,
    },
    /// Take the history of the scheduler that leads, for one that is new; it must not run
    Fetch {
        /// The folder of the new scheduler
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// Which rows.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Asks page by page until there are `limit` rows, or no more.
macro_rules! pages {
    ($context:expr, $limit:expr, $answer:ty, $ask:expr) => {{
        let mut all = <$answer>::default();
        loop {
            let page_size = u32::try_from(($limit - all.rows.len()).min(PAGE)).unwrap_or(1).max(1);
            let page_token = std::mem::take(&mut all.next_page_token);
            let page = $ask(PageRequest { page_size, page_token }).await;
            let page: $answer = page.map_err(|status| $context.refused(status))?.into_inner();
            all.rows.extend(page.rows);
            all.next_page_token = page.next_page_token;
            all.reach = page.reach;
            if all.next_page_token.is_empty() || all.rows.len() >= $limit {
                break all;
            }
        }
    }};
}

/// `dure usage --since`.
pub(crate) async fn usage(
    tenant: String,
    by_user: bool,
    past: PastUsageArgs,
    context: &Context,
    out: Out,
) -> Result<(), Failure> {
    let client = context.history().await?;
    let (since_ms, until_ms) = past.time.bounds();
    let asked = PastUsageRequest { tenant, since_ms, until_ms, by_day: past.by_day, by_user, ..Default::default() };
    let all = pages!(context, usize::MAX, PastUsageResponse, |page| {
        let (mut client, request) = (client.clone(), PastUsageRequest { page: Some(page), ..asked.clone() });
        async move { client.usage(request).await }
    });
    out.answer("PastUsageResponse", &all, || tables::usage(&all, &asked, out))
}

pub(crate) use offline::rebuild;

/// `dure audit`.
pub(crate) async fn audit(args: AuditArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let client = context.history().await?;
    let which = args.which.request(context).await?;
    let all = pages!(context, args.which.limit, AuditResponse, |page| {
        let which = Some(PastRequest { page: Some(page), ..which.clone() });
        let request = AuditRequest { which, refused: args.refused, method: args.method.clone() };
        let mut client = client.clone();
        async move { client.audit(request).await }
    });
    out.answer("AuditResponse", &all, || tables::audit(&all, out))
}

/// `dure history`, the part that asks a scheduler.
pub(crate) async fn run(command: HistoryCommand, context: &Context, out: Out) -> Result<(), Failure> {
    macro_rules! rows {
        ($args:expr, $answer:ty, $method:ident) => {{
            let (client, which) = (context.history().await?, $args.which.request(context).await?);
            pages!(context, $args.which.limit, $answer, |page| {
                let (mut client, request) = (client.clone(), PastRequest { page: Some(page), ..which.clone() });
                async move { client.$method(request).await }
            })
        }};
    }
    match command {
        HistoryCommand::Jobs(args) => {
            let all = rows!(args, PastJobsResponse, jobs);
            out.answer("PastJobsResponse", &all, || tables::jobs(&all, out))
        }
        HistoryCommand::Attempts(args) => {
            let all = rows!(args, PastAttemptsResponse, attempts);
            out.answer("PastAttemptsResponse", &all, || tables::attempts(&all, out))
        }
        HistoryCommand::Evictions(args) => {
            let all = rows!(args, PastEvictionsResponse, evictions);
            out.answer("PastEvictionsResponse", &all, || tables::evictions(&all, out))
        }
        HistoryCommand::Quotas(args) => {
            let all = rows!(args, PastQuotasResponse, quotas);
            out.answer("PastQuotasResponse", &all, || tables::quotas(&all, out))
        }
        HistoryCommand::Fetch { data_dir } => offline::fetch(&data_dir, context).await,
        HistoryCommand::Rebuild { data_dir, forget_older } => rebuild(&data_dir, forget_older),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_the_past() {
        let parse = |text: &str| text.parse::<Past>().map(|past| past.0);
        assert_eq!(parse("2026-11-01T00:00:00Z"), Ok(1_793_491_200_000));
        assert!(parse("2026-11-01").is_ok() && parse("2026-11-01T08:00").is_ok());
        let ago = when::now_ms() - parse("30d").expect("so long ago");
        assert!((30 * 86_400_000..30 * 86_400_000 + 10_000).contains(&ago));
        for wrong in ["", "yesterday", "2026-13-01", "30"] {
            assert!(parse(wrong).expect_err("no moment").contains("30d"), "{wrong}");
        }
    }
}
