//! A file of lines with named columns.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use csv::StringRecord;
use flate2::bufread::MultiGzDecoder;

use super::TraceError;

/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Buffer of a file that is read: few calls to the system.
const BUFFER: usize = 1 << 18;
/// No time in a trace lies beyond this many seconds: 30,000 years.
pub(super) const MOST_SECONDS: u64 = 1_000_000_000_000;

/// Opens a file, unpacked if it is compressed.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>, TraceError> {
    let named = |error| TraceError::File { path: path.into(), error };
    let mut file = BufReader::with_capacity(BUFFER, File::open(path).map_err(named)?);
    let is_packed = file.fill_buf().map_err(named)?.starts_with(&GZIP);
    Ok(if is_packed { Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))) } else { Box::new(file) })
}

/// What `row` makes of each line of a CSV file that has at least the columns of `needed`.
pub(crate) fn rows_of<T>(
    path: &Path,
    needed: &[&'static str],
    row: impl FnMut(&Line<'_>) -> Result<T, TraceError>,
) -> Result<Vec<T>, TraceError> {
    Table::open(path, needed)?.rows(row)
}

/// A file with its columns, and the line that is being read.
pub(super) struct Table<'p> {
    path: &'p Path,
    columns: StringRecord,
    reader: csv::Reader<Box<dyn Read>>,
}

impl<'p> Table<'p> {
    /// Reads the columns of `from`, which is the content of `path`; those of `needed` must be there.
    pub(super) fn read(
        path: &'p Path,
        from: Box<dyn BufRead>,
        delimiter: u8,
        needed: &[&'static str],
    ) -> Result<Self, TraceError> {
        let plain: Box<dyn Read> = Box::new(from);
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).quoting(delimiter == b',').from_reader(plain);
        let columns = reader.headers().map_err(|error| TraceError::Csv { path: path.into(), error })?.clone();
        match needed.iter().find(|field| !columns.iter().any(|column| column == **field)) {
            None => Ok(Self { path, columns, reader }),
            Some(field) => {
                let known = columns.iter().collect::<Vec<_>>().join(", ");
                Err(TraceError::NoColumn { path: path.into(), field, known })
            }
        }
    }

    /// Opens a CSV file that has at least the columns of `needed`.
    pub(super) fn open(path: &'p Path, needed: &[&'static str]) -> Result<Self, TraceError> {
        Self::read(path, open(path)?, b',', needed)
    }

    /// Calls `row` for every line.
    pub(super) fn rows<T>(
        mut self,
        mut row: impl FnMut(&Line<'_>) -> Result<T, TraceError>,
    ) -> Result<Vec<T>, TraceError> {
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
pub(crate) struct Line<'t> {
    path: &'t Path,
    columns: &'t StringRecord,
    record: &'t StringRecord,
    number: u64,
}

impl Line<'_> {
    /// The value of a column; empty where there is no such column.
    pub(crate) fn value(&self, field: &str) -> &str {
        let at = self.columns.iter().position(|column| column == field);
        at.and_then(|at| self.record.get(at)).unwrap_or("").trim()
    }

    /// What cannot be used of a column.
    pub(crate) fn bad(&self, field: &'static str, remedy: &'static str) -> TraceError {
        let value = self.value(field).to_owned();
        TraceError::BadField { path: self.path.into(), line: self.number, field, value, remedy }
    }

    /// A name that must be there.
    pub(super) fn name(&self, field: &'static str) -> Result<String, TraceError> {
        match self.value(field) {
            "" => Err(self.bad(field, "give it a name")),
            name => Ok(name.to_owned()),
        }
    }

    /// Milliseconds of a time in seconds.
    pub(crate) fn seconds(&self, field: &'static str) -> Result<u64, TraceError> {
        let text = self.value(field);
        // Whole seconds are the rule, and exact.
        if let Some(whole) = text.parse::<u64>().ok().filter(|whole| *whole <= MOST_SECONDS) {
            return Ok(whole * 1000);
        }
        let seconds: f64 = text.parse().unwrap_or(f64::NAN);
        if (0.0..=MOST_SECONDS as f64).contains(&seconds) {
            Ok((seconds * 1000.0).round() as u64)
        } else {
            Err(self.bad(field, "write seconds, 0 or more, as in 12.5"))
        }
    }

    /// As `seconds`; empty, or no such column: none.
    pub(super) fn seconds_if(&self, field: &'static str) -> Result<Option<u64>, TraceError> {
        if self.value(field).is_empty() { Ok(None) } else { self.seconds(field).map(Some) }
    }

    /// A whole number.
    pub(super) fn count(&self, field: &'static str) -> Result<u32, TraceError> {
        self.value(field).parse().map_err(|_| self.bad(field, "write a whole number"))
    }

    /// A whole number; empty, or no such column: none.
    pub(crate) fn count_if<T: std::str::FromStr>(&self, field: &'static str) -> Result<Option<T>, TraceError> {
        match self.value(field) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.bad(field, "write a whole number, or nothing")),
        }
    }
}
