//! Faults of nodes and GPUs: read from a file with times, or drawn from published rates by a seed.

use std::path::Path;

use dure_core::units::{Span, Time};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use crate::trace::{TraceError, TraceNode, rows_of};

/// A node or one of its GPUs is out for a while.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fault {
    /// When it breaks.
    pub time: Time,
    /// How long it is out.
    pub span: Span,
    /// Place of the node in the node file.
    pub node: usize,
    /// Which GPU; none: the whole node.
    pub gpu: Option<u8>,
}

/// How often things break, as a file of published figures says it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// Unplanned interruptions per GPU-hour.
    pub per_gpu_hour: f64,
    /// Of 1,000 interruptions those that are of one GPU; the others take the node.
    pub of_gpu_milli: u32,
    /// How long a GPU is out.
    pub gpu_out: Span,
    /// How long a node is out.
    pub node_out: Span,
}

/// What a faults file holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Faults {
    /// Each with its time.
    Listed(Vec<Fault>),
    /// Rates, to be drawn from.
    Rates(Rates),
}

/// A GPU that is replaced or reset by hand is back within a working day's half; none of the published figures says it.
const GPU_OUT: Span = Span::seconds(4 * 3600);
/// A node is back after a repair of an hour; none of the published figures says it.
const NODE_OUT: Span = Span::seconds(3600);
/// Causes of the published run that lie in one GPU.
const OF_GPU: [&str; 6] = [
    "Faulty GPU",
    "GPU HBM3 memory",
    "GPU SRAM",
    "GPU system processor",
    "GPU thermal interface/sensor",
    "Silent data corruption",
];

/// Reads `time_s,node,gpu,duration_s` (an empty `gpu`: the whole node), or a file of rates: `metric,value` with the row
/// `unplanned per GPU-hour` and a row of counts for each cause.
///
/// # Errors
/// File, line and field that cannot be used; a node that `nodes` does not have.
pub fn read(path: &Path, nodes: &[TraceNode]) -> Result<Faults, TraceError> {
    let place = |name: &str| nodes.iter().position(|node| node.name == name);
    if let Some(rates) = read_rates(path)? {
        return Ok(Faults::Rates(rates));
    }
    let mut listed = rows_of(path, &["time_s", "node", "gpu", "duration_s"], |line| {
        let node = place(line.value("node")).ok_or_else(|| line.bad("node", "name a node of the node file"))?;
        let gpu: Option<u8> = line.count_if("gpu")?;
        if gpu.is_some_and(|gpu| u32::from(gpu) >= nodes[node].gpus) {
            return Err(line.bad("gpu", "the node has no such GPU: they are counted from 0"));
        }
        Ok(Fault { time: Time(line.seconds("time_s")?), span: Span(line.seconds("duration_s")?), node, gpu })
    })?;
    listed.sort_unstable();
    Ok(Faults::Listed(listed))
}

fn read_rates(path: &Path) -> Result<Option<Rates>, TraceError> {
    let rows = rows_of(path, &[], |line| Ok((line.value("metric").to_owned(), line.value("value").to_owned())))?;
    let number =
        |metric: &str| rows.iter().find(|(name, _)| name == metric).and_then(|(_, value)| value.parse::<f64>().ok());
    let Some(per_gpu_hour) = number("unplanned per GPU-hour").filter(|rate| rate.is_finite() && *rate > 0.0) else {
        return Ok(None);
    };
    let all = number("unplanned interruptions").unwrap_or(0.0);
    let of_gpu: f64 = OF_GPU.iter().filter_map(|cause| number(cause)).sum();
    let of_gpu_milli = if all > 0.0 { (of_gpu / all * 1000.0).round().clamp(0.0, 1000.0) as u32 } else { 500 };
    Ok(Some(Rates { per_gpu_hour, of_gpu_milli, gpu_out: GPU_OUT, node_out: NODE_OUT }))
}

/// Draws faults from `from` to `to`: independent, with exponential gaps, each GPU alike.
pub fn draw(rates: &Rates, nodes: &[TraceNode], from: Time, to: Time, seed: u64) -> Vec<Fault> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let gpus: Vec<(usize, u8)> =
        nodes.iter().enumerate().flat_map(|(node, entry)| (0..entry.gpus as u8).map(move |gpu| (node, gpu))).collect();
    let mut faults = Vec::new();
    if gpus.is_empty() {
        return faults;
    }
    let per_ms = rates.per_gpu_hour * gpus.len() as f64 / 3_600_000.0;
    let mut time = from;
    loop {
        time = time + Span((gap(&mut rng) / per_ms) as u64);
        if time >= to {
            return faults;
        }
        let (node, gpu) = gpus[rng.random_range(0..gpus.len())];
        let fault = if rng.random_range(0..1000) < rates.of_gpu_milli {
            Fault { time, span: rates.gpu_out, node, gpu: Some(gpu) }
        } else {
            Fault { time, span: rates.node_out, node, gpu: None }
        };
        faults.push(fault);
    }
}

/// The gap to the next of events that come once in a unit of time on average.
pub(crate) fn gap(rng: &mut impl Rng) -> f64 {
    let uniform: f64 = rng.random();
    -(1.0 - uniform).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults_and_as_many_as_the_rate_says() {
        let node = |at: usize| TraceNode { name: format!("n{at}"), gpus: 8, ..TraceNode::default() };
        let nodes: Vec<TraceNode> = (0..1000).map(node).collect();
        let rates = Rates { per_gpu_hour: 1.97e-5, of_gpu_milli: 640, gpu_out: GPU_OUT, node_out: NODE_OUT };
        let month = Time(30 * 86_400_000);
        let drawn = draw(&rates, &nodes, Time(0), month, 7);
        assert_eq!(drawn, draw(&rates, &nodes, Time(0), month, 7));
        assert_ne!(drawn, draw(&rates, &nodes, Time(0), month, 8));
        // 8,000 GPUs, 720 hours: 113 are expected; five standard deviations are 53.
        assert!((60..=167).contains(&drawn.len()), "{}", drawn.len());
        assert!(drawn.is_sorted_by_key(|fault| fault.time));
        let of_gpu = drawn.iter().filter(|fault| fault.gpu.is_some()).count();
        assert!(of_gpu * 2 > drawn.len() && of_gpu < drawn.len());
    }

    #[test]
    fn both_kinds_of_files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.csv");
        let nodes = [TraceNode { name: "n0".into(), gpus: 8, ..TraceNode::default() }];
        let read_text = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            read(&path, &nodes).map_err(|err| err.to_string().replace(&format!("{}/", folder.path().display()), ""))
        };
        let listed = read_text("time_s,node,gpu,duration_s\n20,n0,,60\n10,n0,3,1.5\n").expect("it is read");
        let at = |time, span, gpu| Fault { time: Time(time), span: Span(span), node: 0, gpu };
        assert_eq!(listed, Faults::Listed(vec![at(10_000, 1_500, Some(3)), at(20_000, 60_000, None)]));
        let rates = read_text(
            "metric,value\nunplanned interruptions,100\nunplanned per GPU-hour,2e-5\nFaulty GPU,40\nNIC,60\n",
        );
        let Ok(Faults::Rates(rates)) = rates else { panic!("{rates:?}") };
        assert_eq!((rates.per_gpu_hour, rates.of_gpu_milli), (2e-5, 400));
        let why =
            |line: &str| read_text(&format!("time_s,node,gpu,duration_s\n{line}\n")).expect_err("it cannot be used");
        assert_eq!(why("1,n1,,1"), "f.csv: line 2: field \"node\" is \"n1\": name a node of the node file");
        assert_eq!(
            why("1,n0,8,1"),
            "f.csv: line 2: field \"gpu\" is \"8\": the node has no such GPU: they are counted from 0"
        );
    }
}
