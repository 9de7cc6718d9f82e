//! Units: arithmetic only where it means something.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($raw:ty), $suffix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $raw);

        impl $name {
            /// Nothing of it.
            pub const ZERO: $name = $name(0);

            /// The difference, or nothing where it would be negative.
            #[inline]
            pub fn less(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

macro_rules! additive {
    ($($name:ident),*) => {$(
        impl Add for $name {
            type Output = Self;
            #[inline]
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }
        impl Sub for $name {
            type Output = Self;
            #[inline]
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }
        impl AddAssign for $name {
            #[inline]
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }
        impl SubAssign for $name {
            #[inline]
            fn sub_assign(&mut self, other: Self) {
                self.0 -= other.0;
            }
        }
        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
                // Sums of what users may set saturate: nothing that they write can overflow.
                parts.fold(Self::ZERO, |sum, part| Self(sum.0.saturating_add(part.0)))
            }
        }
    )*};
}

unit!(
    /// A moment: milliseconds since the Unix epoch (or since the start of a replay).
    Time(u64), "ms"
);
unit!(
    /// A length of time in milliseconds.
    Span(u64), "ms"
);
unit!(
    /// GPUs times time, in GPU-milliseconds.
    GpuTime(u64), "GPUms"
);
unit!(
    /// Thousandths of a CPU.
    CpuMilli(u64), "m"
);
unit!(
    /// Memory in MiB.
    MemoryMib(u64), "MiB"
);

/// GPUs, counted exactly in thousandths: what shares and slices of a GPU hold is counted as what it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpus(u64);

impl Gpus {
    /// Nothing of it.
    pub const ZERO: Gpus = Gpus(0);

    /// One GPU in thousandths.
    pub const MILLI: u64 = 1000;

    /// So many whole GPUs.
    #[inline]
    pub const fn whole(gpus: u32) -> Self {
        Self(gpus as u64 * Self::MILLI)
    }

    /// So many thousandths of a GPU.
    #[inline]
    pub const fn milli(thousandths: u64) -> Self {
        Self(thousandths)
    }

    /// In thousandths.
    #[inline]
    pub const fn in_milli(self) -> u64 {
        self.0
    }

    /// In whole GPUs, a part of one counted as one: never less than there is.
    #[inline]
    pub const fn rounded_up(self) -> u32 {
        let whole = self.0.div_ceil(Self::MILLI);
        if whole > u32::MAX as u64 { u32::MAX } else { whole as u32 }
    }

    /// The difference, or nothing where it would be negative.
    #[inline]
    pub fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The GPU-time from `from` to `until` of something that is charged since `since`: rounded down to GPU-milliseconds in
    /// such a way that parts of its life add up to the whole of it.
    #[inline]
    pub fn between(self, since: Time, from: Time, until: Time) -> GpuTime {
        self.over(until.since(since)) - self.over(from.min(until).since(since))
    }

    /// These GPUs held for `span`, rounded down to GPU-milliseconds.
    #[inline]
    pub fn over(self, span: Span) -> GpuTime {
        let exact = u128::from(self.0) * u128::from(span.0) / u128::from(Self::MILLI);
        GpuTime(u64::try_from(exact).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Gpus {
    /// As `8` or `0.25`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / Self::MILLI, self.0 % Self::MILLI);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{part:03}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} GPUs")
    }
}

additive!(Gpus, Span, GpuTime, CpuMilli, MemoryMib);

impl Span {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }
}

impl Time {
    /// The end of all time: a timer that never fires.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long after `earlier` this is; nothing when it is not after it.
    #[inline]
    pub fn since(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Time {
    type Output = Time;
    #[inline]
    fn add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}
