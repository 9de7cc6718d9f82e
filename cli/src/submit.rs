//! `dure submit`: a script, a command, or a file of jobs, to the scheduler in one call.
//!
//! Comes in: flags and files. Goes out: ids on standard output, remarks on standard error. Flags win over the lines of
//! the script. Every call carries a request id, so that repeating it after a broken connection submits nothing twice.

pub(crate) mod flags;
pub(crate) mod lines;

use std::{error::Error as _, io::Read, path::PathBuf};

use clap::Args;
use dure_proto::v1::{self, JobPhase, SubmitRequest, SubmitResponse, TestSubmitRequest};
use dure_scheduler::grpc::limits::MAX_MESSAGE;
use tonic::Code;

use crate::{
    context::Context,
    draft::Draft,
    estimates,
    failure::Failure,
    phase, script,
    script::{options::Fate, table::OPTIONS},
    show::Out,
    watch,
};

/// How often a call is repeated when the connection breaks in the middle.
const TRIES: u32 = 3;

/// Submit a script, a command, or a file of jobs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dure submit -A fusion --gpus 8 --time 2h train.sh
  dure submit -A fusion --members 4 --gpus-per-member 8 -- torchrun train.py
  dure submit -A solar --array 0-99%10 sweep.sh
  dure submit --file jobs.jsonl

A script may carry its flags in lines '#DURE --gpus=8' or '#SBATCH -N 4' at its top. One with #SBATCH lines
runs in the folder from which it is submitted, as with sbatch.")]
pub(crate) struct SubmitArgs {
    /// The script (- reads standard input)
    #[arg(value_name = "SCRIPT", conflicts_with = "file")]
    script: Option<PathBuf>,
    #[command(flatten)]
    job: flags::JobFlags,
    /// Many jobs in one call: one JSON object per line, with the flags as fields
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Say whether, when and where it would start, and submit nothing
    #[arg(long)]
    test_only: bool,
    /// Print nothing but the ids
    #[arg(long)]
    parsable: bool,
    /// Say nothing of lines that were left aside
    #[arg(short = 'Q', long)]
    quiet: bool,
    /// Print what becomes of every option of sbatch, and stop
    #[arg(long)]
    sbatch_options: bool,
    /// The command, or the arguments of the script
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command.
pub(crate) async fn run(args: SubmitArgs, context: &Context, out: Out) -> Result<(), Failure> {
    if args.sbatch_options {
        return out.text(&sbatch_options(out));
    }
    let (parsable, quiet, test_only) = (args.parsable, args.quiet, args.test_only);
    let (drafts, remarks) = drafts(args)?;
    if !quiet {
        remarks.iter().for_each(|remark| eprintln!("note: {remark}"));
    }
    if test_only {
        return test(drafts, context, out).await;
    }
    let wait = drafts.iter().any(|draft| draft.wait == Some(true));
    let (answer, ids) = accepted(drafts, context).await?;
    if out.is_json() {
        out.answer("SubmitResponse", &answer, String::new)?;
    } else if parsable {
        ids.iter().try_for_each(|id| out.line(&id.to_string()))?;
    } else {
        out.line(&submitted(&ids))?;
    }
    if wait { wait_for(context, &ids, out).await } else { Ok(()) }
}

/// Submits and says nothing but the remarks; the ids.
pub(crate) async fn only(args: SubmitArgs, context: &Context) -> Result<Vec<u64>, Failure> {
    let quiet = args.quiet;
    let (drafts, remarks) = drafts(args)?;
    if !quiet {
        remarks.iter().for_each(|remark| eprintln!("note: {remark}"));
    }
    accepted(drafts, context).await.map(|(_, ids)| ids)
}

/// Whether, when and where the jobs would start.
async fn test(drafts: Vec<Draft>, context: &Context, out: Out) -> Result<(), Failure> {
    let request = TestSubmitRequest { jobs: specs(drafts, context)? };
    let names: Vec<String> = request.jobs.iter().map(|job| job.name.clone()).collect();
    let mut client = context.forecasts().await?;
    let told = client.test_submit(request).await.map_err(|status| context.refused(status))?.into_inner();
    out.answer("TestSubmitResponse", &told, || {
        let lines =
            names.iter().zip(&told.jobs).map(|(name, job)| format!("job {name} {}\n", estimates::forecast(job)));
        lines.collect()
    })
}

fn specs(drafts: Vec<Draft>, context: &Context) -> Result<Vec<v1::JobSpec>, Failure> {
    let mut jobs = Vec::with_capacity(drafts.len());
    for (index, mut draft) in drafts.into_iter().enumerate() {
        draft.tenant = draft.tenant.or_else(|| context.tenant.clone());
        let at = if index > 0 { format!("job {index}: ") } else { String::new() };
        jobs.push(draft.spec().map_err(|why| Failure::Usage(format!("{at}{why}")))?);
    }
    Ok(jobs)
}

async fn accepted(drafts: Vec<Draft>, context: &Context) -> Result<(SubmitResponse, Vec<u64>), Failure> {
    let answer = send(context, specs(drafts, context)?).await?;
    let ids = (answer.first_job_id..).take(answer.count as usize).collect();
    Ok((answer, ids))
}

fn submitted(ids: &[u64]) -> String {
    match ids {
        [id] => format!("submitted job {id}"),
        [first, .., last] => format!("submitted {} jobs: {first} to {last}", ids.len()),
        [] => "submitted nothing".to_owned(),
    }
}

/// All jobs of the call, and the remarks on their scripts.
fn drafts(args: SubmitArgs) -> Result<(Vec<Draft>, Vec<String>), Failure> {
    let mut flags = args.job.draft().map_err(Failure::Usage)?;
    if let Some(path) = &args.file {
        let text = String::from_utf8(read(path)?)
            .map_err(|_| Failure::Usage(format!("{}: no UTF-8: expected one JSON object per line", path.display())))?;
        let drafts = lines::read(&text).map_err(|why| Failure::Usage(format!("{}: {why}", path.display())))?;
        if drafts.is_empty() {
            return Err(Failure::Usage(format!("{}: no jobs: expected one JSON object per line", path.display())));
        }
        return Ok((drafts.into_iter().map(|draft| flags.clone().over(draft)).collect(), Vec::new()));
    }
    let mut remarks = Vec::new();
    if let Some(path) = &args.script {
        let bytes = read(path)?;
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Err(Failure::Usage(format!(
                "{}: no text: a program is started with dure submit -- PROGRAM",
                path.display()
            )));
        };
        if !text.starts_with("#!") {
            let why = "a script starts with the program that reads it, as in #!/bin/sh; a program is started with --";
            return Err(Failure::Usage(format!("{}: no #! line: {why}", path.display())));
        }
        let asked = script::read(text).map_err(|err| Failure::Usage(format!("{}: {err}", path.display())))?;
        remarks = asked.warnings;
        flags = flags.over(asked.draft);
        remarks.extend(script::without_gpus(&flags));
        if asked.is_sbatch && flags.workdir.is_none() {
            // As sbatch does: paths in the script are relative to where it was submitted.
            flags.workdir = std::env::current_dir().ok().and_then(|dir| dir.to_str().map(str::to_owned));
        }
        // As sbatch does, too: the script runs once, and srun takes its steps to the members.
        flags.batch = flags.batch.or(asked.is_sbatch.then_some(true));
        flags.name = flags.name.or_else(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        flags.script = Some(bytes);
    } else if let Some(program) = args.command.first() {
        flags.name = flags.name.or_else(|| program.rsplit('/').next().map(str::to_owned));
    }
    flags.args = args.command;
    Ok((vec![flags], remarks))
}

/// A script or a file of jobs; what no call can carry is neither read whole nor sent.
fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let named = |err: std::io::Error| Failure::Usage(format!("{}: {err}", path.display()));
    let from: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(named)?)
    };
    let mut bytes = Vec::new();
    from.take(MAX_MESSAGE as u64 + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() > MAX_MESSAGE {
        let why =
            format!("larger than {MAX_MESSAGE} bytes, which no call can carry: let the script read its data itself");
        return Err(Failure::Usage(format!("{}: {why}", path.display())));
    }
    Ok(bytes)
}

/// A new request id.
pub(crate) fn request_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|err| Failure::Failed(format!("no random bytes: {err}")))?;
    Ok(hex::encode(bytes))
}

async fn send(context: &Context, jobs: Vec<v1::JobSpec>) -> Result<SubmitResponse, Failure> {
    let request = SubmitRequest { request_id: request_id()?, jobs };
    let mut client = context.jobs().await?;
    let mut tries = 1;
    loop {
        match client.submit(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            // A status with a source was made on this side: the connection broke before there was an answer.
            Err(status) if (status.code() == Code::Unavailable || status.source().is_some()) && tries < TRIES => {
                tries += 1;
            }
            Err(status) => return Err(context.refused(status)),
        }
    }
}

/// Waits for the ends of all jobs; fails when one did not complete.
async fn wait_for(context: &Context, ids: &[u64], out: Out) -> Result<(), Failure> {
    let ended = watch::until_ended(context, ids).await?;
    let mut failed = Vec::new();
    for job in &ended {
        let end = phase::name(job.phase());
        if !out.is_json() {
            out.line(&format!("job {} {end}{}", job.id, phase::how(job)))?;
        }
        if job.phase() != JobPhase::Completed {
            failed.push(format!("job {} {end}{}", job.id, phase::how(job)));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Failed(failed.join(", "))) }
}

fn sbatch_options(out: Out) -> String {
    let mut rows = out.table(&["option", "", "what becomes of it"]);
    for opt in OPTIONS {
        let short = if opt.short == ' ' { String::new() } else { format!("-{}", opt.short) };
        let fate = match opt.fate {
            Fate::Honoured => "honoured".to_owned(),
            Fate::Ignored(why) => format!("left aside: {why}"),
            Fate::Refused(why) => format!("refused: {why}"),
        };
        rows.row([format!("--{}", opt.long), short, fate]);
    }
    rows.text()
}
