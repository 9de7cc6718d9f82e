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
    /// Whole GPUs.
    Gpus(u32), " GPUs"
);
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

impl Gpus {
    /// This many GPUs held for `span`.
    #[inline]
    pub fn over(self, span: Span) -> GpuTime {
        GpuTime(u64::from(self.0) * span.0)
    }
}
