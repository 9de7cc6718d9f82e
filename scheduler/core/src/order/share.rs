//! Who is next among siblings: those under quota by what they use of it, then borrowers by what they took above it.

use crate::tenant::{Tenant, UserLedger};
use crate::units::{Gpus, Span, Time};

/// The place of a tenant among its siblings: the smallest goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rank {
    /// Under its quota: by the part of it that is used, in 2^-32ths.
    UnderQuota(u64),
    /// A borrower: by GPUs above quota, now and decayed, over its weight, in 2^-16ths of a thousandth of a GPU.
    Borrower(u64),
}

impl Rank {
    /// Of a tenant that is not asked.
    pub(crate) const NONE: Rank = Rank::UnderQuota(0);
}

/// The rank of a tenant at `now`.
pub(crate) fn rank(tenant: &Tenant, now: Time, half_life: Span) -> Rank {
    let (used, quota) = (tenant.used(), tenant.quota());
    if used < quota {
        let part = (u128::from(used.in_milli()) << 32) / u128::from(quota.in_milli());
        return Rank::UnderQuota(part as u64);
    }
    Rank::Borrower((of_borrower(tenant, now, half_life) << 16) / u64::from(tenant.weight.max(1)))
}

/// What a tenant took above its quota: GPUs, now and decayed, in thousandths.
pub(crate) fn of_borrower(tenant: &Tenant, now: Time, half_life: Span) -> u64 {
    recent_and_now(tenant.excess.value(now, half_life), tenant.above_quota())
}

/// The share of a user: GPUs held, now and decayed, in thousandths.
pub(crate) fn of_user(ledger: &UserLedger, now: Time, half_life: Span) -> u64 {
    recent_and_now(ledger.recent.value(now, half_life), ledger.used)
}

/// What is held now counts like the same amount held for about a half-life, so that a cycle does not give everything to
/// whoever was idle before it.
fn recent_and_now(decayed: u64, now: Gpus) -> u64 {
    decayed.saturating_add(now.in_milli()).min(1 << 47)
}
