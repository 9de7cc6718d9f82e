//! MIG: the slices that a GPU can be cut into, and where on the GPU each of them may begin.
//!
//! In: a GPU model and the name of a profile. Out: its size in compute and memory slices and its legal beginnings; what a
//! GPU is cut into (`Layout`). A GPU
//! has seven compute and eight memory slices; instances are placed by memory slice, and the legal beginnings are such
//! that compute slices never run out first. Instances with media extensions (`+me`, `+gfx`) are not offered.
//! Source: NVIDIA Multi-Instance GPU User Guide, "Supported MIG Profiles" and "Supported GPUs" (v610), for names, fractions and
//! numbers of instances (a test counts them), and its listing of `nvidia-smi mig -lgipp` for the beginnings (IDs 19, 15, 14, 9,
//! 5, 0, the same on A100 and H100). A30 and the RTX PRO models are cut into quarters and halves, and are not offered.

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

/// The profiles of a model by name, smallest first.
type Profiles = [(&'static str, Slice); 6];

/// The names of the six sizes on a model.
const fn named(names: [&'static str; 6]) -> Profiles {
    [
        (names[0], slice(1, 1)),
        (names[1], slice(1, 2)),
        (names[2], slice(2, 2)),
        (names[3], slice(3, 4)),
        (names[4], slice(4, 4)),
        (names[5], slice(7, 8)),
    ]
}

/// A100 and H100 of 80 GB have the same profiles.
const OF_80_GB: Profiles = named(["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]);
const OF_94_GB: Profiles = named(["1g.12gb", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb"]);
const OF_96_GB: Profiles = named(["1g.12gb", "1g.24gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb"]);

/// Models by words of the names that NVML gives them, and their profiles; the first that fits counts.
const MODELS: [(&[&str], Profiles); 12] = [
    (&["A100", "40GB"], named(["1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])),
    (&["A100", "80GB"], OF_80_GB),
    (&["H100", "80GB"], OF_80_GB),
    (&["H100", "94GB"], OF_94_GB),
    // NVML does not say the memory of these: NVL has 94 GB, PCIe 80.
    (&["H100", "NVL"], OF_94_GB),
    (&["H100", "PCIe"], OF_80_GB),
    (&["H100", "96GB"], OF_96_GB),
    // A Hopper of 96 GB beside a Grace with 480 GB.
    (&["GH200", "480GB"], OF_96_GB),
    (&["H20"], OF_96_GB),
    (&["H200"], named(["1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"])),
    (&["B200"], named(["1g.23gb", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb"])),
    (&["GB200"], named(["1g.23gb", "1g.47gb", "2g.47gb", "3g.93gb", "4g.93gb", "7g.186gb"])),
];

/// The profiles of a model, smallest first; empty where it has none that are known.
pub fn profiles(model: &str) -> &'static [(&'static str, Slice)] {
    let has =
        |word: &&str| model.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part.eq_ignore_ascii_case(word));
    MODELS.iter().find(|(words, _)| words.iter().all(has)).map_or(&[], |(_, profiles)| profiles)
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
}

/// How a GPU is cut: its instances, by the memory slice at which each begins. What Dure finds, not what it makes: a GPU is
/// cut by the node's operator, and while it is it is nobody's whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Layout(u32);

impl Layout {
    /// It is not cut.
    pub const WHOLE: Layout = Layout(0);

    /// It is in MIG mode, and has no instance yet. No instance begins at the last memory slice, so that its bits are free.
    pub const BARE: Layout = Layout(1 << 31);

    /// With one more instance; none where it must not begin there or lies over another.
    pub fn with(self, slice: Slice, start: u8) -> Option<Layout> {
        let kind = STARTS.iter().position(|(known, starts)| *known == slice && starts.contains(&start))?;
        let is_free = self.covered() & slice.mask(start) == 0;
        is_free.then(|| Layout(self.0 | Self::BARE.0 | (kind as u32 + 1) << (start * 4)))
    }

    /// Whether it is in MIG mode.
    #[inline]
    pub fn is_cut(self) -> bool {
        self != Self::WHOLE
    }

    /// The instances and where they begin, rising.
    pub fn instances(self) -> impl Iterator<Item = (Slice, u8)> {
        let kind = move |start: u8| (self.0 >> (start * 4) & 0xF) as usize;
        (0..MEMORY_SLICES - 1)
            .filter(move |start| kind(*start) > 0)
            .map(move |start| (STARTS[kind(start) - 1].0, start))
    }

    /// Whether there is such an instance.
    pub fn has(self, slice: Slice, start: u8) -> bool {
        self.instances().any(|instance| instance == (slice, start))
    }

    /// Its instances of a size that leave the memory slices `used` alone: where they begin, rising.
    pub fn free(self, slice: Slice, used: u8) -> impl Iterator<Item = u8> {
        let free = self.instances().filter(move |(size, start)| *size == slice && size.mask(*start) & used == 0);
        free.map(|(_, start)| start)
    }

    /// Tells it apart from others, beside 32 bits of something else.
    pub(crate) fn digest(self) -> u64 {
        u64::from(self.0) << 32
    }

    /// Memory slices that its instances cover.
    pub fn covered(self) -> u8 {
        self.instances().fold(0, |sum, (slice, start)| sum | slice.mask(start))
    }
}

impl fmt::Debug for Layout {
    /// As `0:3g/4,4:3g/4`; `bare` without instances, `whole` where it is not cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WHOLE => write!(f, "whole"),
            Self::BARE => write!(f, "bare"),
            cut => {
                let list: Vec<String> = cut.instances().map(|(slice, start)| format!("{start}:{slice:?}")).collect();
                write!(f, "{}", list.join(","))
            }
        }
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
        assert_eq!(Slice::named("NVIDIA H100 NVL", "3g.47gb"), Some(slice(3, 4)));
        assert_eq!(slice(7, 8).name("NVIDIA GH200 480GB"), Some("7g.96gb"));
        assert_eq!(slice(3, 4).name("NVIDIA GB200"), Some("3g.93gb"));
        assert_eq!(slice(3, 4).name("b200-sxm"), Some("3g.90gb"));
        // Not to be taken for an H200.
        assert!(profiles("NVIDIA GH200 144G HBM3e").is_empty());
        assert_eq!(Slice::named("Tesla T4", "1g.5gb"), None);
    }

    /// The column "Number of Instances Available" of NVIDIA's tables, the same for all models here.
    #[test]
    fn as_many_instances_fit_as_the_guide_says() {
        for (words, profiles) in MODELS {
            let counts: Vec<usize> = profiles.iter().map(|(_, slice)| slice.starts().len()).collect();
            assert_eq!(counts, [7, 4, 3, 2, 1, 1], "{words:?}");
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

    #[test]
    fn layouts_take_what_is_legal_and_free() {
        let halves = Layout::WHOLE.with(slice(3, 4), 4).and_then(|cut| cut.with(slice(1, 1), 0)).expect("is legal");
        assert_eq!(format!("{halves:?}"), "0:1g/1,4:3g/4");
        assert_eq!(
            (halves.covered(), halves.has(slice(3, 4), 4), halves.has(slice(3, 4), 0)),
            (0b1111_0001, true, false)
        );
        assert_eq!(halves.with(slice(1, 1), 6), None, "lies over another");
        assert_eq!(halves.with(slice(2, 2), 1), None, "must not begin there");
        assert_eq!(halves.free(slice(1, 1), 0).collect::<Vec<_>>(), [0]);
        assert_eq!(halves.free(slice(1, 1), 1).count(), 0);
        assert!(Layout::BARE.is_cut() && Layout::BARE.instances().next().is_none() && !Layout::WHOLE.is_cut());
        let sevenths = (0..7).try_fold(Layout::WHOLE, |cut, start| cut.with(slice(1, 1), start));
        assert_eq!(sevenths.map(|cut| cut.instances().count()), Some(7));
    }
}
