//! Ids: one type per thing, so that a node's number can never be taken for a tenant's.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty), $show:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $raw);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($show, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($raw:ty), $show:literal) => {
        id!($(#[$doc])* $name($raw), $show);

        impl $name {
            /// The place in the vector that this index belongs to.
            #[inline]
            pub fn at(self) -> usize {
                self.0 as usize
            }

            /// The index of place `at`.
            ///
            /// # Panics
            /// When `at` does not fit: every vector is bounded by a limit far below.
            #[inline]
            pub fn of(at: usize) -> Self {
                Self(<$raw>::try_from(at).expect("the limits keep every vector below its index type"))
            }
        }
    };
}

id!(
    /// A job, an array as a whole, or one started index of an array. Given in order of submission, from 1.
    JobId(u64), "j"
);
id!(
    /// The run of a job, from 1.
    AttemptNumber(u32), "a"
);
id!(
    /// A booking, while it is there; given anew when it is over and forgotten.
    BookingId(u32), "b"
);
id!(
    /// The term of a leader; grows for ever.
    Epoch(u64), "e"
);
id!(
    /// Position in the journal: the number of an event, from 1; 0 = before the first.
    Seq(u64), "s"
);
index!(
    /// A node, in order of first appearance. Never reused, never moved: events may name it for ever.
    NodeIndex(u32), "n"
);
index!(
    /// A pool: GPUs of one model and shape.
    PoolIndex(u8), "p"
);
index!(
    /// A tenant; 0 is the root, which stands for the whole cluster.
    TenantIndex(u16), "t"
);
index!(
    /// A user, in order of first appearance.
    UserIndex(u32), "u"
);
index!(
    /// A class: requests alike in everything that placement can see.
    ClassIndex(u32), "c"
);
index!(
    /// A member of a gang; its rank, from 0.
    MemberIndex(u32), "m"
);
index!(
    /// A priority class of the policy, by its place there; a higher place goes first.
    PriorityIndex(u8), "prio"
);

impl TenantIndex {
    /// The root of the tenant tree.
    pub const ROOT: TenantIndex = TenantIndex(0);
}

/// Names the forecast that a change was approved on: the SHA-256 of what it showed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ForecastId(pub [u8; 32]);

/// What a job runs, kept outside the core: the first 16 bytes of the SHA-256 of its encoded payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct BlobId(pub [u8; 16]);
