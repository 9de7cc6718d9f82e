//! Why a gang found no place, with true numbers.
//!
//! In: the index as the search saw it. Out: a `Blocked`.
//! It must never be on the way of a gang that finds a place, but for two comparisons of counters.

use super::ask::Ask;
use super::eligible;
use super::gang;
use super::pool::Pool;
use super::spread;
use super::unequal::Search;
use crate::blocked::Blocked;
use crate::ids::PoolIndex;
use crate::request::{Level, Request, Shape};
use crate::units::Gpus;

/// What the counters of the whole pool say: enough GPUs, and enough places of the size of the (largest) member?
///
/// # Errors
/// `NotEnoughGpus`, `NotEnoughSlots`.
#[inline]
pub(super) fn check_counters(pool: &Pool, index: PoolIndex, ask: &Ask, request: &Request) -> Result<(), Blocked> {
    let free = pool.free();
    if free < ask.total {
        return Err(Blocked::NotEnoughGpus { pool: index, want: Gpus::whole(ask.total), free: Gpus::whole(free) });
    }
    let want = match &request.shape {
        Shape::Equal { .. } => ask.members,
        Shape::Unequal(sizes) => sizes.iter().filter(|gpus| **gpus as usize == ask.gpus).count() as u32,
    };
    let whole = pool.whole();
    let free = if ask.distinct { whole.at_least(0, ask.gpus) } else { whole.slots(0, ask.gpus) };
    if free < want {
        return Err(Blocked::NotEnoughSlots { pool: index, want, free, gpus_per_member: ask.gpus as u8 });
    }
    Ok(())
}

/// Why equal members found no place although the pool's counters gave hope.
pub(super) fn equal(pool: &Pool, index: PoolIndex, ask: &Ask, required: Option<Level>) -> Blocked {
    let want = ask.members;
    let by_gpus = most_in_one_domain(pool, &ask.by_gpus_alone(), required);
    if by_gpus < want {
        // Only a required level makes one domain less than the pool.
        let level = required.unwrap_or(Level::Site);
        return Blocked::NoDomain { pool: index, level, want, best: by_gpus };
    }
    if let Some(mask) = ask.mask {
        let fit = most_in_one_domain(pool, &ask.without_beside(), required);
        if fit < want {
            let nodes = mask_count(pool, mask);
            return Blocked::NotEnoughMatching { pool: index, want, fit, nodes };
        }
    }
    let fit = most_in_one_domain(pool, ask, required);
    match ask.segment {
        Some(segment) if fit >= want => {
            let height = required.map_or(Some(pool.levels.len() - 1), |level| pool.height(level));
            let domains = height.map_or(0..0, |height| 0..pool.levels[height].count());
            let most = domains.map(|domain| spread::segments_in(pool, ask, segment, height.unwrap_or(0), domain)).max();
            Blocked::NotEnoughSegments {
                pool: index,
                level: segment.level,
                members: segment.members,
                want: spread::segments_of(ask, segment),
                fit: most.unwrap_or(0),
            }
        }
        Some(_) | None => Blocked::NotEnoughCpuOrMemory { pool: index, want, fit },
    }
}

/// Nodes of a pool that a mask allows.
fn mask_count(pool: &Pool, mask: &[u64]) -> u32 {
    (0..pool.order.len()).filter(|at| eligible::allows(mask, *at)).count() as u32
}

/// The most members that one domain of the required level has room for; the whole pool where none is required.
fn most_in_one_domain(pool: &Pool, ask: &Ask, required: Option<Level>) -> u32 {
    let height = match required {
        // The search has just seen that no node takes it; which of its needs is the reason is asked node by node.
        _ if ask.members == 1 && !ask.narrow => return 1,
        _ if ask.members == 1 => None,
        None => Some(pool.levels.len() - 1),
        Some(level) => pool.height(level),
    };
    let Some(height) = height else {
        return (0..pool.rooms.len()).map(|at| ask.fit(pool, at, ask.gpus)).max().unwrap_or(0).min(ask.members);
    };
    let level = &pool.levels[height];
    if !ask.narrow && !ask.distinct {
        return level.most_slots(ask.gpus);
    }
    let rooms = (0..level.count()).map(|domain| gang::room(pool, ask, height, domain, u32::MAX));
    rooms.max().unwrap_or(0)
}

/// Why unequal members found no place: it was proven that there is none.
pub(super) fn unequal(
    pool: &Pool,
    index: PoolIndex,
    ask: &Ask,
    request: &Request,
    sizes: &[u8],
    search: &mut Search,
) -> Blocked {
    let height = request.required.map_or(Some(pool.levels.len() - 1), |level| pool.height(level));
    let want = ask.members;
    if ask.narrow && search.best_of(pool, &ask.by_gpus_alone(), sizes, height).0 == want {
        if let Some(mask) = ask.mask {
            let (fit, _) = search.best_of(pool, &ask.without_beside(), sizes, height);
            if fit < want {
                return Blocked::NotEnoughMatching { pool: index, want, fit, nodes: mask_count(pool, mask) };
            }
        }
        let (fit, _) = search.best_of(pool, ask, sizes, height);
        return Blocked::NotEnoughCpuOrMemory { pool: index, want, fit };
    }
    let (best, gpus_per_member) = search.best_of(pool, ask, sizes, height);
    match request.required {
        Some(level) => Blocked::NoDomain { pool: index, level, want, best },
        None => Blocked::NotEnoughSlots { pool: index, want, free: best, gpus_per_member },
    }
}
