//! What the jobs of the bench ask for beside GPUs, and the nodes that have it.
//!
//! In: a job or a node by its number. Out: the same with labels, CPU and memory, a required leaf, NVLink islands, shares or
//! MIG instances. Each kind alone, so that its cost stands beside that of the plain work.

use std::str::FromStr;

use dure_core::gpu::GpuSet;
use dure_core::input::{JobDraft, PartDraft};
use dure_core::mig::{Layout, Slice};
use dure_core::node::Capacity;
use dure_core::request::{LabelRule, Level, Shape};
use dure_core::units::{CpuMilli, MemoryMib};

use super::work::{Line, Size};

/// The model of all nodes: one that can be cut.
pub(super) const MODEL: &str = "NVIDIA H100 80GB HBM3";
/// CPU of a node, for jobs that ask for it.
const NODE_CPU: CpuMilli = CpuMilli(192_000);
/// Memory of a node, likewise.
const NODE_MEMORY: MemoryMib = MemoryMib(2_048_000);
/// Values of the label `zone`, dealt out in turn.
const ZONES: [&str; 4] = ["a", "b", "c", "d"];
/// Shares that jobs of one GPU ask for in turn, in thousandths.
const SHARES: [u16; 4] = [250, 500, 300, 700];
/// Every so many nodes one is cut: of its GPUs the last quarter.
const CUT_EVERY: u32 = 4;

/// What jobs ask beside their GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Constraint {
    /// Nothing.
    None,
    /// Three jobs of four name labels: one of two values, two of four, not one of four.
    Labels,
    /// CPU and memory, in proportion to the GPUs.
    CpuMemory,
    /// All members under one leaf, where a leaf can hold them.
    Leaf,
    /// Nodes with two NVLink islands: members should not cross them.
    Islands,
    /// Jobs of one GPU ask for a quarter to seven tenths of it.
    Shares,
    /// Half of the jobs of one GPU ask for a seventh, an eighth of them for a half, as MIG instances.
    Mig,
}

/// Several of them, as the command line names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kinds(pub(super) Vec<Constraint>);

impl Constraint {
    /// All that ask for something.
    const ALL: [Self; 6] = [Self::Labels, Self::CpuMemory, Self::Leaf, Self::Islands, Self::Shares, Self::Mig];

    /// Its name on the command line.
    fn flag(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Labels => "labels",
            Self::CpuMemory => "cpu-memory",
            Self::Leaf => "leaf",
            Self::Islands => "islands",
            Self::Shares => "shares",
            Self::Mig => "mig",
        }
    }

    /// Its name in figures.
    pub(super) fn name(self) -> String {
        self.flag().replace('-', "_")
    }

    /// Gives a node what the jobs ask for.
    pub(super) fn equip(self, node: u32, capacity: &mut Capacity) {
        let gpus = capacity.gpus.len();
        match self {
            Self::None | Self::Leaf | Self::Shares => {}
            Self::Labels => {
                let disk = if node.is_multiple_of(2) { "hdd" } else { "nvme" };
                let zone = ZONES[node as usize / 2 % ZONES.len()];
                capacity.labels =
                    [("disk", disk), ("zone", zone)].map(|(key, value)| (key.into(), value.into())).into();
            }
            Self::CpuMemory => (capacity.cpu, capacity.memory) = (NODE_CPU, NODE_MEMORY),
            Self::Islands => {
                let half = GpuSet::first(gpus as usize / 2);
                let of_gpu = |gpu| if half.contains(GpuSet::single(gpu)) { half } else { capacity.gpus.without(half) };
                capacity.islands = (0..gpus as usize).map(of_gpu).collect();
            }
            Self::Mig if node.is_multiple_of(CUT_EVERY) => {
                let is_cut = |gpu: u32| gpu >= self.uncut(node, gpus);
                let cut = if node.is_multiple_of(2 * CUT_EVERY) { sevenths() } else { halves() };
                capacity.layouts = (0..gpus).map(|gpu| if is_cut(gpu) { cut } else { Layout::WHOLE }).collect();
            }
            Self::Mig => {}
        }
    }

    /// The first GPUs of a node are not cut.
    pub(super) fn uncut(self, node: u32, gpus: u32) -> u32 {
        let is_cut = self == Self::Mig && node.is_multiple_of(CUT_EVERY);
        if is_cut { gpus - gpus / CUT_EVERY } else { gpus }
    }

    /// Lets a job ask for it.
    pub(super) fn ask(self, size: &Size, number: usize, line: &Line, job: &mut JobDraft) {
        let is_single = job.shape == Shape::Equal { members: 1, gpus: 1 };
        match self {
            Self::None | Self::Islands => {}
            Self::Labels => job.only.labels.extend(rule(number)),
            Self::CpuMemory => {
                let share = |all: u64| all * u64::from(line.gpus) / u64::from(size.gpus);
                (job.cpu, job.memory) = (CpuMilli(share(NODE_CPU.0)), MemoryMib(share(NODE_MEMORY.0)));
            }
            Self::Leaf => {
                let fits_leaf = line.members * u32::from(line.gpus) <= size.leaf * size.gpus;
                job.required = fits_leaf.then_some(Level::Leaf);
            }
            Self::Shares if is_single => job.part = PartDraft::Milli(SHARES[number % SHARES.len()]),
            Self::Mig if is_single && number.is_multiple_of(2) => job.part = PartDraft::Profile("1g.10gb".into()),
            Self::Mig if is_single && number % 8 == 1 => job.part = PartDraft::Profile("3g.40gb".into()),
            Self::Shares | Self::Mig => {}
        }
    }
}

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Constraint::ALL.to_vec()));
        }
        let known = |word: &str| Constraint::ALL.into_iter().find(|kind| kind.flag() == word);
        let kinds = text.split(',').map(|word| known(word.trim()).ok_or(word));
        kinds.collect::<Result<Vec<_>, _>>().map(Self).map_err(|word| {
            let all = Constraint::ALL.map(Constraint::flag).join(", ");
            format!("{word:?} is no kind of request: name some of {all}, or all")
        })
    }
}

/// The rule on labels of a job; every fourth has none.
fn rule(number: usize) -> Option<LabelRule> {
    let rule = |key: &str, values: &[&str], negated| LabelRule {
        key: key.into(),
        values: values.iter().map(|value| Box::from(*value)).collect(),
        negated,
    };
    match number % 4 {
        0 => Some(rule("disk", &["nvme"], false)),
        1 => Some(rule("zone", &["a", "b"], false)),
        2 => Some(rule("zone", &["d"], true)),
        _ => None,
    }
}

/// Seven instances of the smallest size.
fn sevenths() -> Layout {
    cut("1g.10gb", 0..7)
}

/// Two of half the memory.
fn halves() -> Layout {
    cut("3g.40gb", [0, 4].into_iter())
}

fn cut(profile: &str, mut starts: impl Iterator<Item = u8>) -> Layout {
    let slice = Slice::named(MODEL, profile).expect("the model has this profile");
    starts.try_fold(Layout::WHOLE, |layout, start| layout.with(slice, start)).expect("they may begin there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_in_a_list() {
        assert_eq!("labels,mig".parse(), Ok(Kinds(vec![Constraint::Labels, Constraint::Mig])));
        assert_eq!("all".parse::<Kinds>().map(|kinds| kinds.0.len()), Ok(Constraint::ALL.len()));
        let refused = "labels,rack".parse::<Kinds>().expect_err("there is no such kind");
        assert!(refused.contains("\"rack\" is no kind of request") && refused.contains("cpu-memory"), "{refused}");
    }
}
