//! What an fdatasync costs on this disk: the floor under every durable answer.

use std::{fs::File, io::Write, path::Path, time::Instant};

use super::{failed, report::Report};
use crate::failure::Failure;

/// How many are measured.
const SYNCS: usize = 400;
/// Bytes appended before each: about one small turn.
const BYTES: usize = 4_096;

/// Measures and adds p50 and p99; gives p99 in milliseconds.
pub(super) fn measure(dir: &Path, report: &mut Report) -> Result<(), Failure> {
    let path = dir.join("fdatasync");
    let mut file = File::create(&path).map_err(failed)?;
    let bytes = [0x5a; BYTES];
    let mut millis = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&bytes).map_err(failed)?;
        let started = Instant::now();
        file.sync_data().map_err(failed)?;
        millis.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    std::fs::remove_file(&path).map_err(failed)?;
    report.latencies("fdatasync of this disk", &mut millis);
    Ok(())
}
