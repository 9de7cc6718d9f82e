//! Reads job files and missions files, plain or compressed.

use std::{fs::File, io::Read, path::Path};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::plan::TraceJob;

/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Deserialize)]
struct JobRow {
    job_id: String,
    submit_s: f64,
    duration_s: f64,
    num_gpu: u32,
    gpu_milli: Option<u32>,
    tenant: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
struct MissionRow {
    tenant: String,
    quota: u64,
    limit: Option<u64>,
}

/// A CSV file, unpacked if it is compressed.
fn open(path: &Path) -> Result<csv::Reader<Box<dyn Read>>, String> {
    let named = |err: std::io::Error| format!("{}: {err}", path.display());
    let mut file = File::open(path).map_err(named)?;
    let mut start = Vec::new();
    (&mut file).take(2).read_to_end(&mut start).map_err(named)?;
    let packed = start == GZIP;
    let whole = std::io::Cursor::new(start).chain(file);
    let plain: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
    Ok(csv::Reader::from_reader(plain))
}

/// The rows of a job file; an error names the file and the line.
pub(crate) fn read_jobs(path: &Path) -> Result<Vec<TraceJob>, String> {
    let rows = open(path)?.into_deserialize::<JobRow>();
    rows.map(|row| {
        let row = row.map_err(|err| format!("{}: {err}", path.display()))?;
        let sane = row.submit_s.is_finite() && row.duration_s.is_finite() && row.duration_s >= 0.0;
        if !sane {
            return Err(format!(
                "{}: job {}: submit_s and duration_s are times in seconds",
                path.display(),
                row.job_id
            ));
        }
        Ok(TraceJob {
            id: row.job_id,
            submit_s: row.submit_s,
            duration_s: row.duration_s,
            gpus: row.num_gpu,
            gpu_milli: row.gpu_milli.unwrap_or(1_000),
            tenant: row.tenant,
            user: row.user,
        })
    })
    .collect()
}

/// Tenant, quota and limit by line.
pub(crate) fn read_missions(path: &Path) -> Result<Vec<(String, u64, Option<u64>)>, String> {
    let rows = open(path)?.into_deserialize::<MissionRow>();
    rows.map(|row| {
        row.map(|row| (row.tenant, row.quota, row.limit)).map_err(|err| format!("{}: {err}", path.display()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn plain_and_packed_files_are_alike_and_errors_name_the_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = "job_id,submit_s,duration_s,gpus,num_gpu,gpu_milli,tenant,user\na,1,2.5,1,1,1000,t,\n";
        let (plain, packed) = (dir.path().join("a.csv"), dir.path().join("a.csv.gz"));
        std::fs::write(&plain, text).expect("writes");
        let mut gz =
            flate2::write::GzEncoder::new(File::create(&packed).expect("creates"), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).expect("writes");
        gz.finish().expect("finishes");
        assert_eq!(read_jobs(&plain), read_jobs(&packed));
        assert_eq!(read_jobs(&plain).map(|rows| rows.len()), Ok(1));
        std::fs::write(&plain, text.replace("2.5", "long")).expect("writes");
        assert!(read_jobs(&plain).expect_err("no number").contains("line: 2"));
        assert!(read_jobs(&dir.path().join("none")).expect_err("absent").contains("none: No such file"));
    }
}
