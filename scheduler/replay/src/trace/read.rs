//! CSV -> rows.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use csv::StringRecord;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use flate2::bufread::MultiGzDecoder;

use super::{Mission, TraceError, TraceJob, TraceNode};

/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// No time in a trace lies beyond this many seconds: 30,000 years.
const MOST_SECONDS: f64 = 1e12;

/// A file with its columns, and the line that is being read.
struct Table<'p> {
    path: &'p Path,
    columns: StringRecord,
    reader: csv::Reader<Box<dyn Read>>,
}

impl<'p> Table<'p> {
    /// Opens a file that has at least the columns of `needed`.
    fn open(path: &'p Path, needed: &[&'static str]) -> Result<Self, TraceError> {
        let named = |error| TraceError::File { path: path.into(), error };
        let mut file = BufReader::new(File::open(path).map_err(named)?);
        let is_packed = file.fill_buf().map_err(named)?.starts_with(&GZIP);
        let plain: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let mut reader = csv::Reader::from_reader(plain);
        let columns = reader.headers().map_err(|error| TraceError::Csv { path: path.into(), error })?.clone();
        match needed.iter().find(|field| !columns.iter().any(|column| column == **field)) {
            None => Ok(Self { path, columns, reader }),
            Some(field) => {
                let known = columns.iter().collect::<Vec<_>>().join(", ");
                Err(TraceError::NoColumn { path: path.into(), field, known })
            }
        }
    }

    /// Calls `row` for every line.
    fn rows<T>(mut self, row: impl Fn(&Line<'_>) -> Result<T, TraceError>) -> Result<Vec<T>, TraceError> {
        let mut rows = Vec::new();
        let mut record = StringRecord::new();
        loop {
            let more = self.reader.read_record(&mut record);
            if !more.map_err(|error| TraceError::Csv { path: self.path.into(), error })? {
                return Ok(rows);
            }
            let number = record.position().map_or(0, csv::Position::line);
            rows.push(row(&Line { path: self.path, columns: &self.columns, record: &record, number })?);
        }
    }
}

/// One line of a table.
struct Line<'t> {
    path: &'t Path,
    columns: &'t StringRecord,
    record: &'t StringRecord,
    number: u64,
}

impl Line<'_> {
    /// The value of a column; empty where there is no such column.
    fn value(&self, field: &str) -> &str {
        let at = self.columns.iter().position(|column| column == field);
        at.and_then(|at| self.record.get(at)).unwrap_or("").trim()
    }

    fn bad(&self, field: &'static str, remedy: &'static str) -> TraceError {
        let value = self.value(field).to_owned();
        TraceError::BadField { path: self.path.into(), line: self.number, field, value, remedy }
    }

    /// A name that must be there.
    fn name(&self, field: &'static str) -> Result<String, TraceError> {
        match self.value(field) {
            "" => Err(self.bad(field, "give it a name")),
            name => Ok(name.to_owned()),
        }
    }

    /// Milliseconds of a time in seconds.
    fn seconds(&self, field: &'static str) -> Result<u64, TraceError> {
        let seconds: f64 = self.value(field).parse().unwrap_or(f64::NAN);
        if (0.0..=MOST_SECONDS).contains(&seconds) {
            Ok((seconds * 1000.0).round() as u64)
        } else {
            Err(self.bad(field, "write seconds, 0 or more, as in 12.5"))
        }
    }

    fn count(&self, field: &'static str) -> Result<u32, TraceError> {
        self.value(field).parse().map_err(|_| self.bad(field, "write a whole number"))
    }

    /// A whole number; empty, or no such column: none.
    fn count_if<T: std::str::FromStr>(&self, field: &'static str) -> Result<Option<T>, TraceError> {
        match self.value(field) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.bad(field, "write a whole number, or nothing")),
        }
    }
}

/// The jobs of a file, in its order.
///
/// # Errors
/// File, line and field that cannot be used; two jobs of one id.
pub fn read_jobs(path: &Path) -> Result<Vec<TraceJob>, TraceError> {
    let seen = std::cell::RefCell::new(BTreeSet::new());
    Table::open(path, &["job_id", "submit_s", "duration_s", "num_gpu"])?.rows(|line| {
        let id = line.name("job_id")?;
        if !seen.borrow_mut().insert(id.clone()) {
            return Err(line.bad("job_id", "an earlier line has this id: give each job its own"));
        }
        Ok(TraceJob {
            id,
            submit: Time(line.seconds("submit_s")?),
            duration: Span(line.seconds("duration_s")?),
            gpus: line.count("num_gpu")?,
            gpu_milli: line.count_if("gpu_milli")?.unwrap_or(1000),
            nodes: line.count_if("nodes")?,
            cpu: CpuMilli(line.count_if("cpu_milli")?.unwrap_or(0)),
            memory: MemoryMib(line.count_if("memory_mib")?.unwrap_or(0)),
            tenant: line.value("tenant").to_owned(),
            user: line.value("user").to_owned(),
            models: line.value("gpu_model").split('|').filter(|model| !model.is_empty()).map(Into::into).collect(),
        })
    })
}

/// The nodes of a file, in its order.
///
/// # Errors
/// File, line and field that cannot be used.
pub fn read_nodes(path: &Path) -> Result<Vec<TraceNode>, TraceError> {
    Table::open(path, &["node", "gpus"])?.rows(|line| {
        Ok(TraceNode {
            name: line.name("node")?,
            model: line.value("gpu_model").to_owned(),
            gpus: line.count("gpus")?,
            cpu: CpuMilli(line.count_if("cpu_milli")?.unwrap_or(0)),
            memory: MemoryMib(line.count_if("memory_mib")?.unwrap_or(0)),
            pool: line.value("pool").to_owned(),
        })
    })
}

/// The missions of a file, in its order.
///
/// # Errors
/// File, line and field that cannot be used.
pub fn read_missions(path: &Path) -> Result<Vec<Mission>, TraceError> {
    Table::open(path, &["tenant", "quota"])?.rows(|line| {
        Ok(Mission {
            tenant: line.name("tenant")?,
            quota: Gpus::whole(line.count("quota")?),
            limit: line.count_if("limit")?.map(Gpus::whole),
        })
    })
}
