//! Synthetic workloads: jobs of 12 missions with shapes after three published clusters.
//!
//! In: the size of the cluster, days, a seed. Out: rows as a trace file holds them, and the quotas. The figures are shares of
//! jobs by GPUs, and medians and spreads of run times by GPUs: those of Philly are counted, those of Helios and Acme are chosen
//! after what their papers describe, not counted from their data; jobs come in a daily and weekly rhythm.
//! The same seed gives the same rows.

use dure_core::units::{Gpus, Span, Time};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::faults::gap;
use crate::limits;
use crate::trace::{Mission, TraceJob, TraceNode};

/// Jobs of one size in a published cluster.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// GPUs.
    gpus: u32,
    /// Of 1,000 jobs those of this size.
    share: u32,
    /// Half of them run no longer, in seconds.
    median_s: f64,
    /// Standard deviation of the logarithm of their run times.
    sigma: f64,
}

const fn size(gpus: u32, share: u32, median_s: f64, sigma: f64) -> Size {
    Size { gpus, share, median_s, sigma }
}

/// A published cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Microsoft Philly (Jeon et al., USENIX ATC 2019): shares, medians and spreads as counted in the public trace.
    Philly,
    /// SenseTime Helios (Hu et al., SC 2021): chosen, not counted, after the paper's description: a median of some minutes, more than
    /// half of the jobs on one GPU, few beyond 32.
    Helios,
    /// Acme (Hu et al., NSDI 2024): chosen, not counted, after the paper's description: a median of some two minutes, most jobs within
    /// one node, few gangs of hundreds of GPUs that hold most of the GPU-time.
    Acme,
}

impl Shape {
    /// By size, smallest first; shares add up to 1,000.
    fn sizes(self) -> &'static [Size] {
        match self {
            Shape::Philly => {
                const {
                    &[
                        size(1, 872, 1131.0, 2.24),
                        size(2, 22, 28.0, 3.68),
                        size(4, 48, 6373.0, 3.05),
                        size(8, 49, 8593.0, 3.137),
                        size(16, 7, 7882.0, 3.13),
                        size(32, 2, 2494.0, 2.82),
                    ]
                }
            }
            Shape::Helios => {
                const {
                    &[
                        size(1, 550, 200.0, 2.4),
                        size(2, 90, 300.0, 2.4),
                        size(4, 110, 400.0, 2.4),
                        size(8, 180, 600.0, 2.4),
                        size(16, 40, 1800.0, 2.2),
                        size(32, 20, 3600.0, 2.0),
                        size(64, 10, 7200.0, 1.8),
                    ]
                }
            }
            Shape::Acme => {
                const {
                    &[
                        size(1, 600, 120.0, 1.8),
                        size(8, 290, 240.0, 2.0),
                        size(32, 60, 600.0, 2.2),
                        size(64, 25, 1800.0, 2.2),
                        size(128, 15, 3600.0, 2.2),
                        size(256, 8, 7200.0, 2.0),
                        size(512, 2, 14_400.0, 1.8),
                    ]
                }
            }
        }
    }
}

/// The missions: name, share of the GPUs in thousandths, and whose jobs theirs are like.
const MISSIONS: [(&str, u32, Shape); 12] = [
    ("drug-discovery", 120, Shape::Helios),
    ("fusion", 110, Shape::Acme),
    ("ai-scientist", 100, Shape::Acme),
    ("brain-interface", 90, Shape::Philly),
    ("materials", 90, Shape::Helios),
    ("semiconductor", 90, Shape::Philly),
    ("humanoid", 80, Shape::Helios),
    ("space", 70, Shape::Philly),
    ("quantum", 60, Shape::Philly),
    ("solar", 60, Shape::Helios),
    ("nuclear-power", 60, Shape::Philly),
    ("physical-ai", 70, Shape::Acme),
];
/// GPUs of a node, nodes under a leaf, leaves under a spine.
const GPUS_PER_NODE: u32 = 8;
const NODES_PER_LEAF: u32 = 32;
const LEAVES_PER_SPINE: u32 = 8;
/// Users of a mission, and names of jobs that each of them has.
const USERS: u32 = 20;
const NAMES: u32 = 6;
/// No job runs longer.
const LONGEST_S: f64 = 30.0 * 86_400.0;
/// A quota in thousandths of its share: the rest are the spares.
const QUOTA_MILLI: u64 = 950;
/// Load by the hour of the day, in hundredths of the mean: people submit by day, and nights carry a third.
const BY_HOUR: [u32; 24] =
    [70, 60, 50, 45, 45, 45, 55, 70, 95, 125, 140, 140, 125, 130, 140, 145, 145, 135, 120, 115, 115, 110, 100, 80];
/// Weekends carry so many hundredths of a working day.
const WEEKEND: u32 = 70;

/// What to generate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Workload {
    /// GPUs of the cluster; whole nodes of 8.
    pub gpus: u32,
    /// How long jobs come, in days.
    pub days: u32,
    /// GPU-time that they ask for, in hundredths of what there is.
    pub load: u32,
    /// The stream of chance.
    pub seed: u64,
}

/// A workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generated {
    /// By time.
    pub jobs: Vec<TraceJob>,
    /// As many as the GPUs need.
    pub nodes: Vec<TraceNode>,
    /// All 12.
    pub missions: Vec<Mission>,
}

/// Draws a workload.
pub fn generate(workload: Workload) -> Generated {
    let nodes: Vec<TraceNode> = (0..workload.gpus.div_ceil(GPUS_PER_NODE)).map(node).collect();
    let mission = |(name, share, _): &(&str, u32, Shape)| Mission {
        tenant: (*name).into(),
        quota: Gpus::whole((u64::from(workload.gpus) * u64::from(*share) * QUOTA_MILLI / 1_000_000) as u32),
        ..Mission::default()
    };
    let mut jobs = Vec::new();
    for (number, (name, share, shape)) in MISSIONS.iter().enumerate() {
        // Each mission has a stream of its own: another number of its jobs moves nobody else's.
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(workload.seed.wrapping_mul(1000) + number as u64);
        of_mission(&mut rng, &workload, name, *share, *shape, &mut jobs);
    }
    jobs.sort_by(|a, b| a.submit.cmp(&b.submit).then_with(|| a.id.cmp(&b.id)));
    Generated { jobs, nodes, missions: MISSIONS.iter().map(mission).collect() }
}

fn node(number: u32) -> TraceNode {
    let leaf = number / NODES_PER_LEAF;
    TraceNode {
        name: format!("n{number:05}"),
        gpus: GPUS_PER_NODE,
        location: dure_core::node::Location {
            spine: format!("s{}", leaf / LEAVES_PER_SPINE).into(),
            leaf: format!("l{leaf}").into(),
            ..Default::default()
        },
        ..TraceNode::default()
    }
}

/// Jobs of one mission until its part of the load is asked for, spread over the days by the rhythm.
fn of_mission(
    rng: &mut Xoshiro256PlusPlus,
    workload: &Workload,
    tenant: &str,
    share: u32,
    shape: Shape,
    jobs: &mut Vec<TraceJob>,
) {
    let seconds = f64::from(workload.days) * 86_400.0;
    let part = f64::from(workload.gpus) * f64::from(share) / 1000.0;
    let wanted = part * seconds * f64::from(workload.load) / 100.0;
    let (mut asked, mut drawn) = (0.0, Vec::new());
    // No gang of a mission is larger than its part of the cluster.
    let largest = (part as u32).max(1);
    while asked < wanted && workload.days > 0 {
        let size = pick(rng, shape.sizes());
        let gpus = size.gpus.min(largest);
        let run = (size.median_s * (size.sigma * normal(rng)).exp()).clamp(1.0, LONGEST_S).round();
        asked += f64::from(gpus) * run;
        let (user, name) = (rng.random_range(0..USERS), rng.random_range(0..NAMES));
        drawn.push((moment(rng, workload.days), gpus, run, user, name));
    }
    jobs.extend(drawn.into_iter().enumerate().map(|(number, (submit, gpus, run, user, name))| {
        let duration = Span::seconds(run as u64);
        TraceJob {
            id: format!("{tenant}-{number}"),
            submit,
            duration,
            gpus,
            gpu_milli: 1000,
            tenant: tenant.into(),
            user: format!("{tenant}-u{user}"),
            name: format!("{}-{name}", if gpus >= 16 { "train" } else { "run" }),
            limit: Some(limits::derived(duration)),
            ..TraceJob::default()
        }
    }));
}

fn pick(rng: &mut Xoshiro256PlusPlus, sizes: &'static [Size]) -> Size {
    let mut at = rng.random_range(0..1000);
    for size in sizes {
        if at < size.share {
            return *size;
        }
        at -= size.share;
    }
    sizes[0]
}

/// A moment within the days, by rejection against the rhythm of day and week.
fn moment(rng: &mut Xoshiro256PlusPlus, days: u32) -> Time {
    loop {
        let second = rng.random_range(0..u64::from(days) * 86_400);
        let weekend = if (second / 86_400) % 7 >= 5 { WEEKEND } else { 100 };
        let level = BY_HOUR[(second / 3600 % 24) as usize] * weekend / 100;
        if rng.random_range(0..145) < level {
            return Time(second * 1000 + rng.random_range(0..1000));
        }
    }
}

/// A standard normal number: Box and Muller's.
fn normal(rng: &mut Xoshiro256PlusPlus) -> f64 {
    let angle: f64 = rng.random();
    (2.0 * gap(rng)).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
        #[test]
        fn shapes_loads_and_rhythm_are_as_published(seed: u64, gpus in 500u32..2000, load in 60u32..120) {
            let workload = Workload { gpus, days: 14, load, seed };
            let Generated { jobs, nodes, missions } = generate(workload);
            prop_assert!(nodes.len() as u32 * GPUS_PER_NODE >= gpus && missions.len() == 12);
            prop_assert!(missions.iter().map(|mission| mission.quota.rounded_up()).sum::<u32>() <= gpus);
            prop_assert!(jobs.is_sorted_by_key(|job| job.submit));
            prop_assert!(jobs.iter().all(|job| job.submit < Time(14 * 86_400_000) && job.gpus > 0));
            let asked: f64 = jobs.iter().map(|job| f64::from(job.gpus) * job.duration.0 as f64 / 1000.0).sum();
            let wanted = f64::from(gpus) * 14.0 * 864.0 * f64::from(load);
            // The last job of each mission may be long and wide.
            prop_assert!(asked >= wanted * 0.99 && asked < wanted * 2.0, "{asked} of {wanted}");
            let by_day = jobs.iter().filter(|job| (10..18).contains(&(job.submit.0 / 3_600_000 % 24))).count();
            prop_assert!(by_day * 100 > jobs.len() * 40, "eight hours of the day have two fifths of the jobs and more");
            let of = |tenant: &str| jobs.iter().filter(|job| job.tenant == tenant).collect::<Vec<_>>();
            let (quantum, fusion) = (of("quantum"), of("fusion"));
            let singles = quantum.iter().filter(|job| job.gpus == 1).count();
            prop_assert!(quantum.len() < 100 || (780..960).contains(&(singles * 1000 / quantum.len())), "Philly: 87 % on one GPU");
            let wide = fusion.iter().filter(|job| job.gpus >= 32).count();
            prop_assert!(fusion.len() < 100 || (50..200).contains(&(wide * 1000 / fusion.len())), "Acme: 11 % on 32 and more");
        }
    }

    #[test]
    fn one_seed_gives_one_workload() {
        let workload = Workload { gpus: 256, days: 2, load: 80, seed: 1 };
        assert_eq!(generate(workload), generate(workload));
        assert_ne!(generate(workload).jobs, generate(Workload { seed: 2, ..workload }).jobs);
        for shape in [Shape::Philly, Shape::Helios, Shape::Acme] {
            assert_eq!(shape.sizes().iter().map(|size| size.share).sum::<u32>(), 1000);
        }
        assert_eq!(MISSIONS.iter().map(|(_, share, _)| share).sum::<u32>(), 1000);
    }
}
