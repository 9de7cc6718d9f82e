//! Whatever others do, a gang that needs a whole domain of its own promise is placed, or promised what is taken back for it.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::fixture::Fixture;
use crate::ids::PoolIndex;
use crate::job::Phase;
use crate::policy::Policy;
use crate::units::{Gpus, Span};

/// Somebody's job: whose, members, GPUs of each, whether it must not be evicted, and whether another ends first.
type Ask = (usize, u32, u32, bool, bool);

const TENANTS: [&str; 3] = ["prod", "dev", "guest"];

fn world(is_leaf: bool, extra: u32) -> Fixture {
    let policy = Policy { plan_interval: Span::ZERO, reserve_interval: Span::ZERO, ..Policy::standard() };
    let mut world = Fixture::new(policy);
    (0..4).for_each(|leaf| world.line(&format!("node n{} n{} gpus=4 leaf=l{leaf}", 2 * leaf, 2 * leaf + 1)));
    let (domains, quota) = if is_leaf { ("leaf:2", 16) } else { ("node:3", 12) };
    let quota = quota + extra;
    world.line(&format!("tenant prod quota={quota} domains={domains} | dev quota={} | guest quota=0", 32 - quota));
    world
}

/// Lets a job come, after another has ended where that is asked.
fn ask(world: &mut Fixture, at: usize, (tenant, members, gpus, fixed, ends): Ask) {
    let runs = |phase: Phase| matches!(phase, Phase::Launching | Phase::Running);
    let first = world.cluster.jobs().iter().find(|job| runs(job.phase)).map(|job| job.id);
    if let Some(job) = first.filter(|_| ends) {
        let name = world.name_of(job);
        world.line(&format!("exit {name} 0"));
    }
    let fixed = if fixed { "fixed" } else { "" };
    world.line(&format!("submit {}/j{at} {members}x{gpus} {fixed}", TENANTS[tenant]));
    world.line("cycle");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_gang_inside_its_promise_is_never_fragmented(
        is_leaf in any::<bool>(),
        extra in 0..9u32,
        asks in vec((0..3usize, 1..3u32, 1..5u32, any::<bool>(), prop::bool::weighted(0.3)), 1..20),
    ) {
        let mut world = world(is_leaf, extra);
        for (at, one) in asks.into_iter().enumerate() {
            ask(&mut world, at, one);
        }
        let waiting: Vec<_> = world.cluster.jobs().iter().filter(|job| job.queued.is_some()).map(|job| job.id).collect();
        for job in waiting {
            let name = world.name_of(job);
            world.line(&format!("cancel {name}"));
        }
        let (shape, gpus) = if is_leaf { ("2x4 inside=leaf", 8) } else { ("1x4", 4) };
        for at in 0..3 {
            let whole = world.cluster.whole_domains(PoolIndex(0)).expect("some are promised");
            let prod = world.cluster.tenants().iter().find(|tenant| &*tenant.name == "prod").expect("it is there");
            let (quota, held) = (prod.quota_in(PoolIndex(0)), prod.held_in(PoolIndex(0)));
            let is_promised = whole.used[prod.index.at()] < quota.domains.map_or(0, |domains| domains.count);
            let own = held.used.less(held.borrowed) + Gpus::whole(gpus);
            if !is_promised || Some(own) > quota.quota {
                break;
            }
            world.line(&format!("queued prod/p{at} {shape} fixed"));
            world.line("cycle");
            let job = world.job(&format!("p{at}"));
            let is_placed = world.cluster.job(job).is_some_and(|job| job.phase == Phase::Launching);
            let is_promised = world.cluster.promise(job).is_some();
            prop_assert!(is_placed || is_promised, "{}", world.outcome().join("\n"));
        }
    }
}
