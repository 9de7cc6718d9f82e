//! What `sacct -P` of Slurm prints -> jobs.
//!
//! `sacct -a -X -P -S START -o JobID,JobName,User,Account,Submit,Start,End,ElapsedRaw,TimelimitRaw,NNodes,AllocTRES,ReqTRES`
//! has all that can be used; `SLURM_TIME_FORMAT=%s` makes times seconds since 1970, others are read as they stand. Left out are
//! steps (`12.batch`), jobs that never ran and jobs without GPUs: they took no GPU from anybody.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;

use dure_core::units::{CpuMilli, MemoryMib, Span, Time};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::table::{Line, MOST_SECONDS, Table};
use super::{TraceError, TraceJob};

/// The jobs of `from`, which is the content of `path`.
///
/// # Errors
/// Line and field that cannot be used.
pub fn from_sacct(path: &Path, from: Box<dyn BufRead>) -> Result<Vec<TraceJob>, TraceError> {
    let mut runs: HashMap<String, u32> = HashMap::new();
    let rows = Table::read(path, from, b'|', &["JobID", "Submit"])?.rows(|line| {
        let id = line.name("JobID")?;
        if id.contains('.') {
            return Ok(None);
        }
        // A job that was queued again has a line for each of its runs, all of one id.
        let run = runs.entry(id.clone()).and_modify(|run| *run += 1).or_insert(1);
        let id = if *run > 1 { format!("{id}~{run}") } else { id };
        job(id, line)
    })?;
    Ok(rows.into_iter().flatten().collect())
}

fn job(id: String, line: &Line<'_>) -> Result<Option<TraceJob>, TraceError> {
    let tres = [line.value("AllocTRES"), line.value("ReqTRES")].into_iter().find(|tres| tres.contains("gres/gpu"));
    let Some((gpus, model)) = tres.and_then(gpus_of) else { return Ok(None) };
    let Some(duration) = elapsed(line)? else { return Ok(None) };
    let nodes: Option<u32> = match line.count_if("NNodes")? {
        Some(nodes) => Some(nodes),
        None => line.count_if("AllocNodes")?,
    };
    Ok(Some(TraceJob {
        id,
        submit: moment(line, "Submit")?.ok_or_else(|| line.bad("Submit", "a job was submitted at some time"))?,
        duration,
        gpus,
        gpu_milli: 1000,
        // Members are alike here: where the GPUs do not divide, full nodes and one for the rest are taken instead.
        nodes: nodes.filter(|nodes| *nodes > 0 && gpus.is_multiple_of(*nodes)),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        tenant: line.value("Account").to_owned(),
        user: line.value("User").to_owned(),
        name: line.value("JobName").to_owned(),
        models: model.into_iter().collect(),
        limit: limit(line)?,
        priority: String::new(),
    }))
}

/// GPUs, and their model where it is named, of `cpu=8,gres/gpu=4,gres/gpu:a100=4`.
fn gpus_of(tres: &str) -> Option<(u32, Option<String>)> {
    let of = |part: &str| part.split_once('=').and_then(|(_, count)| count.parse::<u32>().ok());
    let parts = || tres.split(',').filter(|part| part.starts_with("gres/gpu=") || part.starts_with("gres/gpu:"));
    let model = parts().find_map(|part| Some(part.strip_prefix("gres/gpu:")?.split_once('=')?.0.to_owned()));
    let whole = parts().find(|part| part.starts_with("gres/gpu=")).and_then(of);
    let gpus = whole.or_else(|| parts().filter_map(of).try_fold(0, u32::checked_add)).filter(|gpus| *gpus > 0)?;
    Some((gpus, model))
}

/// How long it ran; none when it never did.
fn elapsed(line: &Line<'_>) -> Result<Option<Span>, TraceError> {
    if let Some(seconds) = line.count_if::<u64>("ElapsedRaw")? {
        let span = span(line, "ElapsedRaw", Some(seconds))?;
        return Ok((seconds > 0 || moment(line, "Start")?.is_some()).then_some(span));
    }
    match line.value("Elapsed") {
        "" => Ok(match (moment(line, "Start")?, moment(line, "End")?) {
            (Some(start), Some(end)) => Some(end.since(start)),
            _ => None,
        }),
        text => {
            let span = span(line, "Elapsed", clock_seconds(text))?;
            Ok((span > Span::ZERO || moment(line, "Start")?.is_some()).then_some(span))
        }
    }
}

fn limit(line: &Line<'_>) -> Result<Option<Span>, TraceError> {
    // Words (UNLIMITED, Partition_Limit) say that the job itself had none.
    let is_word = |text: &str| text.starts_with(|first: char| first.is_alphabetic());
    match (line.value("TimelimitRaw"), line.value("Timelimit")) {
        ("", "") => Ok(None),
        ("", text) if is_word(text) => Ok(None),
        ("", text) => span(line, "Timelimit", clock_seconds(text)).map(Some),
        (raw, _) if is_word(raw) => Ok(None),
        _ => {
            let minutes = line.count_if::<u64>("TimelimitRaw")?.unwrap_or(0);
            span(line, "TimelimitRaw", minutes.checked_mul(60)).map(Some)
        }
    }
    .map(|limit| limit.filter(|limit| *limit > Span::ZERO))
}

/// So many seconds, within what any time of a trace may be.
fn span(line: &Line<'_>, field: &'static str, seconds: Option<u64>) -> Result<Span, TraceError> {
    let seconds = seconds.filter(|seconds| *seconds <= MOST_SECONDS);
    seconds.map(Span::seconds).ok_or_else(|| line.bad(field, "write it as 1-02:03:04"))
}

/// A moment: seconds since 1970, or a date and time, taken as UTC; none for `Unknown` and `None`.
fn moment(line: &Line<'_>, field: &'static str) -> Result<Option<Time>, TraceError> {
    let text = line.value(field);
    if matches!(text, "" | "Unknown" | "None") {
        return Ok(None);
    }
    if let Ok(seconds) = text.parse::<u64>()
        && seconds <= MOST_SECONDS
    {
        return Ok(Some(Time(seconds * 1000)));
    }
    let read = text.parse::<DateTime>().ok().and_then(|time| time.to_zoned(TimeZone::UTC).ok());
    let ms = read.and_then(|time| u64::try_from(time.timestamp().as_millisecond()).ok());
    ms.map(|ms| Some(Time(ms)))
        .ok_or_else(|| line.bad(field, "write it as 2026-01-31T12:00:00, or as seconds since 1970"))
}

/// Seconds of `[DAYS-][[HOURS:]MINUTES:]SECONDS[.MILLIS]`.
fn clock_seconds(text: &str) -> Option<u64> {
    let (days, clock) =
        text.split_once('-').map_or(Some((0, text)), |(days, clock)| Some((days.parse::<u64>().ok()?, clock)))?;
    let whole = clock.split('.').next()?;
    let add = |sum: u64, part: &str| sum.checked_mul(60)?.checked_add(part.parse().ok()?);
    let seconds = whole.split(':').try_fold(0, add)?;
    days.checked_mul(86_400)?.checked_add(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<TraceJob>, String> {
        let from = Box::new(std::io::Cursor::new(text.to_owned().into_bytes()));
        from_sacct(Path::new("s.txt"), from).map_err(|err| err.to_string())
    }

    #[test]
    fn runs_on_gpus_become_jobs_and_the_rest_is_left_out() {
        let text = "JobID|JobName|User|Account|Submit|Start|End|Elapsed|TimelimitRaw|NNodes|AllocTRES|State\n\
            7|train|kim|fusion|2026-01-31T12:00:00|2026-01-31T12:01:00|2026-01-31T13:01:00|01:00:00|120|2|cpu=8,gres/gpu:h100=16,gres/gpu=16|COMPLETED\n\
            7.batch|batch||fusion|2026-01-31T12:00:00|2026-01-31T12:01:00|2026-01-31T13:01:00|01:00:00||1|cpu=8,gres/gpu=8|COMPLETED\n\
            8|prep|kim|fusion|2026-01-31T12:00:01|2026-01-31T12:01:00|2026-01-31T12:01:05|00:00:05|UNLIMITED|1|cpu=4|COMPLETED\n\
            9|x|lee|solar|1769860802|Unknown|Unknown|00:00:00|60|1||CANCELLED\n\
            10|x|lee|solar|1769860803|1769860900|1769947300|1-00:00:00|1440|3|gres/gpu=4|NODE_FAIL\n\
            10|x|lee|solar|1769860803|1769950000|1769950001|00:00:01|1440|3|gres/gpu=4|COMPLETED\n";
        let jobs = read(text).expect("it is read");
        let shown: Vec<String> = jobs
            .iter()
            .map(|job| {
                let (limit, nodes) = (job.limit.map(|limit| limit.0), job.nodes);
                format!(
                    "{} {} {} {} {:?} {} {:?} {}",
                    job.id,
                    job.submit,
                    job.duration,
                    job.gpus,
                    nodes,
                    job.tenant,
                    limit,
                    job.models.join("")
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "7 1769860800000 3600000 16 Some(2) fusion Some(7200000) h100",
                "10 1769860803000 86400000 4 None solar Some(86400000) ",
                "10~2 1769860803000 1000 4 None solar Some(86400000) ",
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let head = "JobID|Submit|Start|Elapsed|AllocTRES\n";
        let why = |line: &str| read(&format!("{head}{line}\n")).expect_err("it cannot be read");
        assert_eq!(
            why("1|yesterday|1|5:00|gres/gpu=1"),
            "s.txt: line 2: field \"Submit\" is \"yesterday\": write it as 2026-01-31T12:00:00, or as seconds since 1970"
        );
        assert_eq!(
            why("1|1|1|long|gres/gpu=1"),
            "s.txt: line 2: field \"Elapsed\" is \"long\": write it as 1-02:03:04"
        );
        assert!(read("JobID|User\n").expect_err("no time").contains("no column \"Submit\""));
    }
}
