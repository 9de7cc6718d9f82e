//! How well shares and whole GPUs are packed: pods of a trace placed one by one on its nodes until more has arrived than fits.
//!
//! Comes in: the openb node list, pod list and arrival orders (Alibaba 2023, the data of FGD, ATC'23), and a policy. Goes out:
//! the GPUs left unallocated when 100 % of them have arrived, and those allocated at 130 %. Nothing departs; what does not
//! fit is dropped and counts as arrived. All policies choose on the scheduler's own index; only who judges differs:
//! `dure` is the scheduler's default, which learns from the pods as they arrive; `fgd` and `bestfit` are those of the paper.

mod judges;
mod trace;

use std::path::PathBuf;

use clap::Args;
use dure_core::gpu::GpuSet;
use dure_core::node::Node;
use dure_core::place::{Judge, PlaceIndex, Scratch};
use dure_core::request::Request;
use dure_core::topology::Topology;
use dure_core::units::Gpus;

use self::judges::{BestFit, Fgd};
use super::{failed, report::Report};
use crate::failure::Failure;

/// Pods between two looks at what was learned, at least.
const LEARN_EVERY: u32 = 16;

/// What to pack, and how.
#[derive(Debug, Args)]
pub(crate) struct PackingArgs {
    /// The nodes: CSV with the columns sn,cpu_milli,memory_mib,gpu,model; may be gzipped
    #[arg(long, value_name = "CSV")]
    nodes: PathBuf,
    /// The pods: CSV with the columns name,cpu_milli,memory_mib,num_gpu,gpu_milli[,gpu_spec,..]; may be gzipped
    #[arg(long, value_name = "CSV")]
    pods: PathBuf,
    /// Arrival orders: CSV, each column rows of the pod list, from 0; may be gzipped
    #[arg(long, value_name = "CSV")]
    arrivals: PathBuf,
    /// The column of the arrival orders
    #[arg(long, value_name = "NAME", conflicts_with = "seeds", required_unless_present = "seeds")]
    column: Option<String>,
    /// Columns seedA to seedB: their means are shown
    #[arg(long, value_name = "A..B")]
    seeds: Option<String>,
    /// Who chooses the node
    #[arg(long, value_enum, default_value_t = Policy::Dure)]
    policy: Policy,
}

/// Who chooses among the places that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    /// The scheduler's default: learns what work to expect from the pods that arrive
    Dure,
    /// FGD as published: knows the distribution of the pod list, integer scores 0 to 100, ties by the smallest node name
    Fgd,
    /// The node with the least left
    Bestfit,
}

/// What one order of arrivals came to, in percent of all GPUs.
#[derive(Clone, Copy, Debug, Default)]
struct Packed {
    unallocated_at_100: f64,
    allocated_at_130: f64,
    dropped_at_100: f64,
    placed: f64,
}

/// Packs once per column.
pub(super) fn run(args: &PackingArgs) -> Result<Report, Failure> {
    let nodes = trace::nodes(&args.nodes)?;
    let pods = trace::pods(&args.pods, &nodes)?;
    let columns = columns(args)?;
    let mut sum = Packed::default();
    let mut report = Report::with_units_in_names();
    for column in &columns {
        let order = trace::arrivals(&args.arrivals, column, pods.len())?;
        let packed = match args.policy {
            Policy::Dure => pack(&nodes.list, &pods, &order, None)?,
            Policy::Fgd => pack(&nodes.list, &pods, &order, Some(&Fgd::of(&pods)))?,
            Policy::Bestfit => pack(&nodes.list, &pods, &order, Some(&BestFit))?,
        };
        sum.unallocated_at_100 += packed.unallocated_at_100;
        sum.allocated_at_130 += packed.allocated_at_130;
        sum.dropped_at_100 += packed.dropped_at_100;
        sum.placed += packed.placed;
        if columns.len() > 1 {
            report.add(format!("{column}_unallocated_percent_at_100"), packed.unallocated_at_100, "%");
        }
    }
    let count = columns.len() as f64;
    report.add("unallocated_percent_at_100", sum.unallocated_at_100 / count, "%");
    report.add("allocated_percent_at_130", sum.allocated_at_130 / count, "%");
    report.add("dropped_pods_at_100", sum.dropped_at_100 / count, "pods");
    report.add("placed_pods", sum.placed / count, "pods");
    report.add("orders", count, "orders");
    Ok(report)
}

fn columns(args: &PackingArgs) -> Result<Vec<String>, Failure> {
    if let Some(column) = &args.column {
        return Ok(vec![column.clone()]);
    }
    let seeds = args.seeds.as_deref().unwrap_or_default();
    let range =
        seeds.split_once("..").and_then(|(from, to)| Some((from.parse::<u32>().ok()?, to.parse::<u32>().ok()?)));
    match range {
        Some((from, to)) if from <= to => Ok((from..=to).map(|seed| format!("seed{seed}")).collect()),
        _ => Err(failed(format!("--seeds {seeds:?}: write the first and the last, as 42..51"))),
    }
}

/// Places the pods one by one.
fn pack(nodes: &[Node], pods: &[Request], order: &[usize], judge: Option<&dyn Judge>) -> Result<Packed, Failure> {
    let topology = Topology::compile(nodes).map_err(|err| failed(format!("the nodes: {err:?}")))?;
    let mut index = PlaceIndex::build(&topology, nodes);
    let mut scratch = Scratch::default();
    let all: u64 = nodes.iter().map(|node| node.capacity.gpus.count().in_milli()).sum();
    let percent = |milli: u64| milli as f64 / all as f64 * 100.0;
    let (mut seen, mut learned_at) = (0u32, 0u32);
    let (mut arrived, mut allocated, mut dropped) = (0, 0, 0u32);
    let mut packed = Packed::default();
    let (mut at_100, mut at_130) = (None, None);
    for row in order {
        let request = &pods[*row];
        let gpus = asked(request).in_milli();
        // The scheduler learns once a cycle; here every so many pods, or a sixteenth of all.
        index.expect(request, 1, 0);
        seen += 1;
        if seen - learned_at >= LEARN_EVERY.max(learned_at / 16) {
            index.learn(0);
            learned_at = seen;
        }
        arrived += gpus;
        match index.place_judged(request, &request.pools, &[], judge, &mut scratch) {
            Some((_, placed)) if placed.gpus == GpuSet::EMPTY => {
                index.take_beside(placed.node, request);
                packed.placed += 1.0;
            }
            Some((_, placed)) => {
                index.take(&[placed], request);
                allocated += gpus;
                packed.placed += 1.0;
            }
            None => dropped += 1,
        }
        if at_100.is_none() && arrived >= all {
            at_100 = Some(100.0 - percent(allocated));
            packed.dropped_at_100 = dropped.into();
        }
        if at_130.is_none() && arrived * 10 >= all * 13 {
            at_130 = Some(percent(allocated));
        }
    }
    let short =
        || failed(format!("the pods of this order ask for {:.1} % of the GPUs: 100 % are needed", percent(arrived)));
    packed.unallocated_at_100 = at_100.ok_or_else(short)?;
    // The orders end where 130 % have arrived, give or take a pod.
    packed.allocated_at_130 = at_130.unwrap_or(percent(allocated));
    Ok(packed)
}

/// What a pod asks for; nothing where it asks for CPU and memory alone.
fn asked(request: &Request) -> Gpus {
    if request.shape.largest() == 0 { Gpus::ZERO } else { request.total() }
}
