//! The circuit breaker: what share of the fleet may be fenced by agents' verdicts alone.
//!
//! In: what is fenced, and what an agent calls bad now. Out: what of it is fenced. A driver that calls every GPU bad after
//! an update shall not close the cluster: beyond the share a person must look. Pure. What is let through stays so.

use dure_core::gpu::GpuSet;

/// GPUs that may always be fenced, however small the cluster: two nodes of eight.
pub const ALWAYS: u32 = 16;
/// The share when the configuration says none, in percent.
pub const DEFAULT_PERCENT: u32 = 10;

/// How many GPUs there are, and how many of them are bad on other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// All GPUs.
    pub gpus: u32,
    /// Bad ones on all other nodes.
    pub bad_elsewhere: u32,
}

/// What of `bad` is fenced, where `fenced` is already.
pub fn let_through(fleet: Fleet, percent: u32, fenced: GpuSet, bad: GpuSet) -> GpuSet {
    let limit = (u64::from(fleet.gpus) * u64::from(percent) / 100).max(u64::from(ALWAYS));
    let mut through = bad.without(bad.without(fenced));
    for gpu in bad.without(fenced).iter() {
        if u64::from(fleet.bad_elsewhere) + u64::from(through.len()) < limit {
            through = through.with(GpuSet::single(gpu));
        }
    }
    through
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(gpus: &[usize]) -> GpuSet {
        gpus.iter().copied().collect()
    }

    #[test]
    fn beyond_the_share_nothing_more_is_fenced_and_what_is_fenced_stays() {
        let fleet = |gpus, bad_elsewhere| Fleet { gpus, bad_elsewhere };
        assert_eq!(let_through(fleet(8_000, 0), 10, set(&[]), set(&[1, 2])), set(&[1, 2]));
        assert_eq!(let_through(fleet(8_000, 799), 10, set(&[]), set(&[1, 2])), set(&[1]));
        assert_eq!(let_through(fleet(8_000, 5_000), 10, set(&[3]), set(&[1, 3])), set(&[3]));
        assert_eq!(let_through(fleet(8_000, 5_000), 10, set(&[3]), set(&[])), set(&[]), "what is well again is let go");
        assert_eq!(
            let_through(fleet(32, 8), 10, set(&[]), set(&[0, 1, 2, 3, 4, 5, 6, 7])).len(),
            8,
            "two nodes always"
        );
        assert_eq!(let_through(fleet(32, 16), 10, set(&[]), set(&[0])), set(&[]));
    }
}
