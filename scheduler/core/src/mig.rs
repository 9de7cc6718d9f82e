//! MIG: the slices that a GPU can be cut into, and where on the GPU each of them may begin.
//!
//! In: a GPU model and the name of a profile. Out: its size in compute and memory slices and its legal beginnings. A GPU
//! has seven compute and eight memory slices; instances are placed by memory slice, and the legal beginnings are such
//! that compute slices never run out first. Instances with media extensions (`+me`, `+gfx`) are not offered.
//! Source: NVIDIA Multi-Instance GPU User Guide (v580), "Supported MIG Profiles", for names, fractions and numbers of
//! instances (a test counts them) of A100, H100, H200 and B200, and `nvidia-smi mig -lgipp` for the beginnings.

use std::fmt;

/// Memory slices of a GPU.
pub const MEMORY_SLICES: u8 = 8;

/// The size of a slice, whatever its name on a model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice {
    /// Compute slices, of seven.
    pub compute: u8,
    /// Memory slices, of eight.
    pub memory: u8,
}

impl fmt::Debug for Slice {
    /// As `3g/4`: compute slices and memory slices.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}g/{}", self.compute, self.memory)
    }
}

const fn slice(compute: u8, memory: u8) -> Slice {
    Slice { compute, memory }
}

/// All sizes and their legal beginnings, by memory slice; the same on all models.
const STARTS: [(Slice, &[u8]); 6] = [
    (slice(1, 1), &[0, 1, 2, 3, 4, 5, 6]),
    (slice(1, 2), &[0, 2, 4, 6]),
    (slice(2, 2), &[0, 2, 4]),
    (slice(3, 4), &[0, 4]),
    (slice(4, 4), &[0]),
    (slice(7, 8), &[0]),
];

/// The profiles of a model by name.
type Profiles = &'static [(&'static str, Slice)];

/// A100 and H100 of 80 GB have the same profiles.
const OF_80_GB: Profiles = &[
    ("1g.10gb", slice(1, 1)),
    ("1g.20gb", slice(1, 2)),
    ("2g.20gb", slice(2, 2)),
    ("3g.40gb", slice(3, 4)),
    ("4g.40gb", slice(4, 4)),
    ("7g.80gb", slice(7, 8)),
];

/// Models by a part of the name that NVML gives them, with GB of memory where the name leaves it open, and their profiles.
const MODELS: [(&str, &str, Profiles); 6] = [
    (
        "A100",
        "40GB",
        &[
            ("1g.5gb", slice(1, 1)),
            ("1g.10gb", slice(1, 2)),
            ("2g.10gb", slice(2, 2)),
            ("3g.20gb", slice(3, 4)),
            ("4g.20gb", slice(4, 4)),
            ("7g.40gb", slice(7, 8)),
        ],
    ),
    ("A100", "80GB", OF_80_GB),
    ("H100", "80GB", OF_80_GB),
    // NVML does not say the memory of this one; the others of 94 and 96 GB have other profiles.
    ("H100 PCIe", "", OF_80_GB),
    (
        "H200",
        "",
        &[
            ("1g.18gb", slice(1, 1)),
            ("1g.35gb", slice(1, 2)),
            ("2g.35gb", slice(2, 2)),
            ("3g.71gb", slice(3, 4)),
            ("4g.71gb", slice(4, 4)),
            ("7g.141gb", slice(7, 8)),
        ],
    ),
    (
        "B200",
        "",
        &[
            ("1g.23gb", slice(1, 1)),
            ("1g.45gb", slice(1, 2)),
            ("2g.45gb", slice(2, 2)),
            ("3g.90gb", slice(3, 4)),
            ("4g.90gb", slice(4, 4)),
            ("7g.180gb", slice(7, 8)),
        ],
    ),
];

/// The profiles of a model, smallest first; empty where it has none that are known.
pub fn profiles(model: &str) -> &'static [(&'static str, Slice)] {
    let has = |(name, memory, _): &&(&str, &str, &'static [_])| model.contains(name) && model.contains(memory);
    MODELS.iter().find(has).map_or(&[], |(_, _, profiles)| profiles)
}

impl Slice {
    /// The slice that a profile (`3g.40gb`) stands for on a model, if the model has it.
    pub fn named(model: &str, profile: &str) -> Option<Slice> {
        profiles(model).iter().find(|(name, _)| *name == profile).map(|(_, slice)| *slice)
    }

    /// Its name on a model, if the model has it.
    pub fn name(self, model: &str) -> Option<&'static str> {
        profiles(model).iter().find(|(_, slice)| *slice == self).map(|(name, _)| *name)
    }

    /// Where it may begin, rising.
    pub fn starts(self) -> &'static [u8] {
        STARTS.iter().find(|(slice, _)| *slice == self).map_or(&[], |(_, starts)| starts)
    }

    /// The memory slices that it covers when it begins at `start`.
    pub fn mask(self, start: u8) -> u8 {
        (((1u16 << self.memory) - 1) << start) as u8
    }

    /// What it counts as, in thousandths of a GPU: its memory slices, in eighths.
    pub fn milli(self) -> u16 {
        u16::from(self.memory) * 1000 / u16::from(MEMORY_SLICES)
    }

    /// The first legal beginning that leaves `used` alone; the highest for the smallest, which keeps low halves whole.
    pub fn first_free(self, used: u8) -> Option<u8> {
        let is_free = |start: &&u8| self.mask(**start) & used == 0;
        let starts = self.starts();
        if self.compute == 1 { starts.iter().rev().find(is_free) } else { starts.iter().find(is_free) }.copied()
    }

    /// How many of them fit beside `used`.
    pub fn count_free(self, used: u8) -> u32 {
        // The legal beginnings of one size never overlap.
        self.starts().iter().filter(|start| self.mask(**start) & used == 0).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_the_model() {
        let (small, large) = ("NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3");
        assert_eq!(Slice::named(small, "1g.10gb"), Some(slice(1, 2)));
        assert_eq!(Slice::named(large, "1g.10gb"), Some(slice(1, 1)));
        assert_eq!(slice(3, 4).name("NVIDIA H200"), Some("3g.71gb"));
        assert_eq!(Slice::named("NVIDIA H100 PCIe", "3g.40gb"), Some(slice(3, 4)));
        assert_eq!(Slice::named("Tesla T4", "1g.5gb"), None);
    }

    /// The column "Number of Instances Available" of NVIDIA's tables, the same for all models here.
    #[test]
    fn as_many_instances_fit_as_the_guide_says() {
        for (name, memory, profiles) in MODELS {
            let counts: Vec<u32> = profiles.iter().map(|(_, slice)| slice.count_free(0)).collect();
            assert_eq!(counts, [7, 4, 3, 2, 1, 1], "{name} {memory}");
        }
    }

    /// Compute slices never run out before memory slices do: whatever is placed legally is at most seven.
    #[test]
    fn legal_places_never_pass_seven_compute_slices() {
        fn most(used: u8, compute: u8) -> u8 {
            let nexts = STARTS.iter().flat_map(|(slice, starts)| starts.iter().map(move |start| (*slice, *start)));
            let free = nexts.filter(|(slice, start)| slice.mask(*start) & used == 0);
            free.map(|(slice, start)| most(used | slice.mask(start), compute + slice.compute)).max().unwrap_or(compute)
        }
        assert_eq!(most(0, 0), 7);
    }

    #[test]
    fn equal_slices_never_overlap() {
        for (slice, starts) in STARTS {
            let all = starts.iter().fold(0u32, |sum, start| sum + u32::from(slice.mask(*start)));
            let union = starts.iter().fold(0u8, |mask, start| mask | slice.mask(*start));
            assert_eq!(all, u32::from(union), "{slice:?}");
        }
    }
}
