//! Synthetic workloads: jobs of 12 missions with shapes after three published clusters.
//!
//! In: the size of the cluster, days, a seed. Out: rows as a trace file holds them, and the quotas. The figures are shares of
//! jobs by GPUs, and medians and spreads of run times by GPUs. Those of Philly are counted in its trace. Of Helios and Acme the
//! summaries of the whole traces are published; the figures by size are fitted to them: with them GPUs per job, median and mean
//! run time, and GPU-time per job are those of the summary. Jobs come in a daily and weekly rhythm.
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
    /// Microsoft Philly (Jeon et al., USENIX ATC 2019): counted in the public trace, 109,569 jobs; the spread of a size is that
    /// which gives its counted mean.
    Philly,
    /// SenseTime Helios (Hu et al., SC 2021): fitted to the summary of its 1,580,464 GPU jobs (`helios_cluster_summary.csv` of the
    /// paper's artifact).
    Helios,
    /// Acme (Hu et al., NSDI 2024): fitted to the summary of the 683,720 GPU jobs of Seren and Kalos (`cluster_summary.csv` of
    /// AcmeTrace).
    Acme,
}

impl Shape {
    /// By size, smallest first; shares add up to 1,000.
    fn sizes(self) -> &'static [Size] {
        match self {
            Shape::Philly => {
                const {
                    &[
                        size(1, 872, 1131.0, 2.453),
                        size(2, 22, 28.0, 5.043),
                        size(4, 48, 6380.0, 2.432),
                        size(8, 49, 8497.0, 2.459),
                        size(16, 7, 8072.0, 2.188),
                        size(32, 2, 2365.0, 2.241),
                    ]
                }
            }
            Shape::Helios => {
                const {
                    &[
                        size(1, 696, 172.0, 2.665),
                        size(2, 85, 219.0, 2.665),
                        size(4, 75, 278.0, 2.665),
                        size(8, 97, 353.0, 2.665),
                        size(16, 25, 448.0, 2.665),
                        size(32, 11, 569.0, 2.665),
                        size(64, 8, 723.0, 2.665),
                        size(128, 2, 917.0, 2.665),
                        size(256, 1, 1165.0, 2.665),
                    ]
                }
            }
            Shape::Acme => {
                const {
                    &[
                        size(1, 681, 93.0, 2.141),
                        size(2, 60, 126.0, 2.141),
                        size(4, 50, 171.0, 2.141),
                        size(8, 162, 231.0, 2.141),
                        size(16, 14, 313.0, 2.141),
                        size(32, 12, 423.0, 2.141),
                        size(64, 9, 572.0, 2.141),
                        size(128, 6, 774.0, 2.141),
                        size(256, 4, 1047.0, 2.141),
                        size(512, 2, 1416.0, 2.141),
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
            prop_assert!(fusion.len() < 300 || (10..70).contains(&(wide * 1000 / fusion.len())), "Acme: 3 % on 32 and more");
        }
    }

    /// What is published of all jobs of a cluster: GPUs per job, median and mean run time in seconds, GPU-seconds per job.
    fn published(shape: Shape) -> [f64; 4] {
        let (seren, kalos) = (663_813.0, 19_907.0);
        let acme = |of_seren: f64, of_kalos: f64| (of_seren * seren + of_kalos * kalos) / (seren + kalos);
        match shape {
            Shape::Philly => [1.686, 1196.0, 29_001.0, 88_053.0],
            Shape::Helios => [3.716, 206.0, 6651.681, 77_997_740_131.0 / 1_580_464.0],
            Shape::Acme => [
                acme(5.68, 26.77),
                122.0,
                acme(1414.335, 1259.689),
                (21_510_624_661.0 + 5_333_180_181.0) / (seren + kalos),
            ],
        }
    }

    /// The same of a shape, by summing up over the normal distribution.
    fn drawn(shape: Shape) -> [f64; 4] {
        let step = 0.001;
        let at = |place: i32| f64::from(place) * step;
        let weight = |z: f64| (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * step;
        let run = |size: &Size, z: f64| (size.median_s * (size.sigma * z).exp()).clamp(1.0, LONGEST_S);
        let over = |of: &dyn Fn(&Size, f64) -> f64| {
            let of_size = |size: &Size| (-8000..8000).map(|z| weight(at(z)) * of(size, at(z))).sum::<f64>();
            shape.sizes().iter().map(|size| f64::from(size.share) / 1000.0 * of_size(size)).sum::<f64>()
        };
        let below = |limit: f64| over(&|size, z| f64::from(u8::from(run(size, z) <= limit)));
        let (mut low, mut high) = (1.0_f64, LONGEST_S);
        for _ in 0..20 {
            let middle = (low * high).sqrt();
            if below(middle) < 0.5 { low = middle } else { high = middle }
        }
        [
            over(&|size, _| f64::from(size.gpus)),
            low,
            over(&|size, z| run(size, z)),
            over(&|size, z| f64::from(size.gpus) * run(size, z)),
        ]
    }

    #[test]
    fn shapes_have_the_summaries_of_the_whole_clusters() {
        // Philly's sizes are counted one by one, rounded to powers of two; the others are fitted to all four figures.
        for (shape, off) in [(Shape::Philly, 0.12), (Shape::Helios, 0.01), (Shape::Acme, 0.01)] {
            for (drawn, published) in drawn(shape).into_iter().zip(published(shape)) {
                let ratio = drawn / published;
                assert!((ratio - 1.0).abs() < off, "{shape:?}: {drawn} instead of {published}");
            }
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
