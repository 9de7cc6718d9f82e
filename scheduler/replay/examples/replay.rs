//! Replays trace files as fast as it goes: `replay NODES JOBS [MISSIONS|pools|equal] [FROM..TO] [OUT_DIR]`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Instant;

use dure_core::units::Time;
use dure_replay::division::{Division, quotas};
use dure_replay::drive::Drive;
use dure_replay::report::report;
use dure_replay::trace;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, jobs, rest @ ..] = &args[..] else {
        return Err("usage: replay NODES JOBS [MISSIONS|pools|equal] [FROM..TO] [OUT_DIR]".into());
    };
    let begin = Instant::now();
    let nodes = trace::read_nodes(Path::new(nodes))?;
    let jobs = trace::read_jobs(Path::new(jobs))?;
    let division = match rest.first().map(String::as_str) {
        None | Some("equal") => Division::Equal,
        Some("pools") => Division::Pools,
        Some(path) => Division::Missions(trace::read_missions(Path::new(path))?),
    };
    let (from, to) = match rest.get(1).and_then(|window| window.split_once("..")) {
        Some((from, to)) => (Time(from.parse::<u64>()? * 1000), Time(to.parse::<u64>()? * 1000)),
        None => (Time(0), Time::NEVER),
    };
    let jobs = trace::window(jobs, from, to);
    println!("{} jobs, {} nodes read in {:?}", jobs.len(), nodes.len(), begin.elapsed());
    let begin = Instant::now();
    let mut drive = Drive::new(&nodes, &jobs, &division)?;
    let quotas = quotas(drive.missions());
    while drive.turn()? {}
    let replayed = drive.finish();
    println!("replayed in {:?}: {} instants, {} rows", begin.elapsed(), replayed.turns, replayed.rows.len());
    let begin = Instant::now();
    let (report, _) = report(&replayed, &jobs, &nodes, &quotas, BTreeMap::new(), None);
    println!("reported in {:?}", begin.elapsed());
    println!("wait {:?}\ncompletion {:?}", report.all.wait_s, report.all.completion_s);
    println!("utilisation {}, {} evictions, digest {}", report.utilisation, report.all.evictions, report.digest);
    if let Some(folder) = rest.get(2) {
        let create = |name: &str| File::create(Path::new(folder).join(name)).map(BufWriter::new);
        trace::write_nodes(create("nodes.csv")?, &nodes)?;
        trace::write_jobs(create("jobs.csv")?, &jobs)?;
        trace::write_placements(create("placements.csv")?, &replayed.rows, &jobs, &nodes)?;
    }
    Ok(())
}
