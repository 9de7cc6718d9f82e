//! What ran where and when, as a table for judges and tools outside: one row per member and start, one per end.
//!
//! In: a journal from its first event. Out: CSV rows in journal order. In memory are the names of the nodes and of the jobs
//! that are not forgotten, nothing else; the journal is streamed. It judges nothing and leaves nothing out.

use std::collections::BTreeMap;
use std::io::Write;

use dure_core::event::Event;
use dure_core::gpu::GpuSet;
use dure_core::ids::{AttemptNumber, JobId, Seq};
use dure_core::job::Outcome;
use dure_core::placement::Placed;
use dure_core::units::Time;

use crate::source::{Source, SourceError, Turns};

/// The columns.
pub const PLACEMENT_COLUMNS: [&str; 7] = ["time_s", "event", "job", "attempt", "node", "gpus", "milli"];

/// Thousandths of each GPU that a member holds: GPUs are given whole.
const WHOLE_GPU: &str = "1000";

/// A job as a label is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportedJob<'n> {
    /// Its id.
    pub id: JobId,
    /// The name that it was submitted with; that of its array for an index.
    pub name: &'n str,
    /// For an index of an array: the array, and which index.
    pub index_of: Option<(JobId, u32)>,
}

/// How ids and times appear in the table.
pub struct ExportOptions<'f> {
    /// What stands in the column `job`.
    pub job: &'f dyn Fn(ExportedJob<'_>) -> String,
    /// What stands in the column `time_s`, in seconds.
    pub seconds: &'f dyn Fn(Time) -> f64,
}

impl Default for ExportOptions<'_> {
    /// The job's id, and seconds of the journal's own clock.
    fn default() -> Self {
        Self { job: &|job| job.id.to_string(), seconds: &|time| time.0 as f64 / 1000.0 }
    }
}

/// What an export came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Attempts that started.
    pub starts: u64,
    /// Attempts that ended.
    pub ends: u64,
    /// Position of the last event that it covers.
    pub head: Seq,
}

/// Why the table is not whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The journal could not be read.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The table could not be written.
    #[error("the table cannot be written: {0}; check the disk and the path")]
    Write(#[from] csv::Error),
    /// A job or node of an event was never introduced.
    #[error(
        "the event at position {seq} speaks of {what}, which no event before it introduced: restore the newest backup"
    )]
    Unknown {
        /// Position of the event.
        seq: u64,
        /// The job or the node.
        what: String,
    },
}

impl From<std::io::Error> for ExportError {
    fn from(err: std::io::Error) -> Self {
        Self::Write(err.into())
    }
}

/// Writes the placements of the whole journal, header first.
///
/// # Errors
/// [`ExportError`]; what was written until then is a beginning of the table.
pub fn placements<S: Source + ?Sized>(
    source: &S,
    out: impl Write,
    options: &ExportOptions<'_>,
) -> Result<Exported, ExportError> {
    let mut table = Table { rows: csv::Writer::from_writer(out), options, known: Known::default() };
    table.rows.write_record(PLACEMENT_COLUMNS)?;
    let mut exported = Exported::default();
    for turn in Turns::from(source, Seq(1)) {
        let turn = turn?;
        for (at, (seq, event)) in (turn.first_seq..).zip(&turn.events).enumerate() {
            table.known.learn(event);
            match event {
                Event::JobPlaced { job, attempt, members, .. } => {
                    table.start(seq, turn.time, *job, *attempt, members)?;
                    exported.starts += 1;
                }
                Event::AttemptEnded { job, attempt, outcome } => {
                    // What becomes of the job is decided with the end of its attempt, in the very next event.
                    let goes_on =
                        matches!(turn.events.get(at + 1), Some(Event::JobRequeued { job: next, .. }) if next == job);
                    table.end(seq, turn.time, *job, *attempt, end_word(*outcome, goes_on))?;
                    exported.ends += 1;
                }
                // Everything else has no row.
                _ => {}
            }
            table.known.forget(event);
        }
        exported.head = turn.last();
    }
    table.rows.flush()?;
    Ok(exported)
}

struct Table<'f, W: Write> {
    rows: csv::Writer<W>,
    options: &'f ExportOptions<'f>,
    known: Known,
}

impl<W: Write> Table<'_, W> {
    fn start(
        &mut self,
        seq: u64,
        time: Time,
        job: JobId,
        attempt: AttemptNumber,
        members: &[Placed],
    ) -> Result<(), ExportError> {
        let (time, label) = (self.time(time), self.label(seq, job)?);
        let attempt = attempt.to_string();
        for member in members {
            let what = || format!("node {}", member.node);
            let node =
                self.known.nodes.get(member.node.at()).ok_or_else(|| ExportError::Unknown { seq, what: what() })?;
            let gpus = plus_list(member.gpus);
            self.rows.write_record([&time, "start", &label, &attempt, node, &gpus, WHOLE_GPU])?;
        }
        Ok(())
    }

    fn end(&mut self, seq: u64, time: Time, job: JobId, attempt: AttemptNumber, word: &str) -> Result<(), ExportError> {
        let (time, label) = (self.time(time), self.label(seq, job)?);
        let attempt = attempt.to_string();
        self.rows.write_record([&time, word, &label, &attempt, "", "", ""])?;
        Ok(())
    }

    fn time(&self, time: Time) -> String {
        format!("{:.3}", (self.options.seconds)(time))
    }

    fn label(&self, seq: u64, job: JobId) -> Result<String, ExportError> {
        let what = || format!("job {job}");
        let known = self.known.jobs.get(&job).ok_or_else(|| ExportError::Unknown { seq, what: what() })?;
        Ok((self.options.job)(ExportedJob { id: job, name: &known.name, index_of: known.index_of }))
    }
}

/// As `0+1+5`.
fn plus_list(gpus: GpuSet) -> String {
    gpus.iter().map(|gpu| gpu.to_string()).collect::<Vec<_>>().join("+")
}

/// `end`: it ran its course, or was ended by its user or its limit. `preempt`: its GPUs were wanted elsewhere. `fail`: it
/// was lost to a fault, or failed by itself and the job goes on.
fn end_word(outcome: Outcome, goes_on: bool) -> &'static str {
    match outcome {
        Outcome::Failed if goes_on => "fail",
        Outcome::Idle if goes_on => "preempt",
        Outcome::Completed
        | Outcome::Failed
        | Outcome::TimedOut
        | Outcome::Cancelled
        | Outcome::DependencyFailed
        | Outcome::Idle => "end",
        Outcome::Evicted | Outcome::Drained | Outcome::Resized => "preempt",
        Outcome::NodeLost | Outcome::GpuFault | Outcome::LaunchFailed => "fail",
    }
}

struct KnownJob {
    name: Box<str>,
    index_of: Option<(JobId, u32)>,
}

/// What later events take for granted.
#[derive(Default)]
struct Known {
    nodes: Vec<Box<str>>,
    jobs: BTreeMap<JobId, KnownJob>,
}

impl Known {
    fn learn(&mut self, event: &Event) {
        match event {
            Event::NodeJoined { name, .. } => self.nodes.push(name.clone()),
            Event::JobSubmitted { job, spec, .. } => {
                self.jobs.insert(*job, KnownJob { name: spec.name.clone(), index_of: None });
            }
            Event::ArrayIndexStarted { array, index, job } => {
                let name = self.jobs.get(array).map(|array| array.name.clone()).unwrap_or_default();
                self.jobs.insert(*job, KnownJob { name, index_of: Some((*array, *index)) });
            }
            // Nothing else names anything that a row needs.
            _ => {}
        }
    }

    fn forget(&mut self, event: &Event) {
        if let Event::JobEnded { job, .. } = event {
            self.jobs.remove(job);
        }
    }
}

#[cfg(test)]
mod tests;
