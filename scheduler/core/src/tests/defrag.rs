//! Which jobs would move closer together, what that frees, and that it never costs anybody room.

use expect_test::expect;
use proptest::prelude::*;

use super::check;
use crate::defrag::MAX_MOVES;
use crate::fixture::Fixture;
use crate::ids::{AttemptNumber, JobId, PoolIndex};
use crate::input::Input;
use crate::job::Phase;
use crate::policy::Policy;

#[test]
fn two_halves_become_a_whole_node() {
    check(
        "
        node   n0 n1 n2 gpus=8 leaf=l0
        tenant dev quota=24
        run    dev/a 1x5 on n0
        run    dev/b 1x3 on n1
        run    dev/c 1x8 on n2
        tick   1h
        checkpoint b 7
        tick   1m
        defrag                 # b loses a minute, a would lose an hour
        defrag apply
        exit   b sig15
        cycle
        ",
        expect![[r#"
            checkpoint dev/b 7
            defrag: 0 whole nodes, 0 in a leaf -> 1 whole nodes, 1 in a leaf
              b: n1 -> n0, loses 180 GPU-s
            defrag: 0 whole nodes, 0 in a leaf -> 1 whole nodes, 1 in a leaf
              b: n1 -> n0, loses 180 GPU-s
            stop dev/b: Drained
            over dev/b: Drained
            again dev/b at the front
            place dev/b -> n0[5-7] (attempt 2)"#]],
    );
}

#[test]
fn nobody_moves_for_nothing() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        tenant dev quota=16
        run    dev/a 1x5 on n0
        run    dev/b 1x4 on n1
        tick   1h
        defrag apply           # they do not fit on one node
        ",
        expect!["defrag: 0 whole nodes, 0 in a leaf -> 0 whole nodes, 0 in a leaf"],
    );
}

#[test]
fn what_must_not_be_evicted_stays() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        tenant dev quota=16 min-run=2h
        run    dev/a 1x4 on n0 fixed
        run    dev/b 1x4 on n1
        tick   1h
        defrag                 # a is fixed, b has not run its minimum
        tick   1h
        defrag
        ",
        expect![[r#"
            defrag: 0 whole nodes, 0 in a leaf -> 0 whole nodes, 0 in a leaf
            defrag: 0 whole nodes, 0 in a leaf -> 1 whole nodes, 1 in a leaf
              b: n1 -> n0, loses 28800 GPU-s"#]],
    );
}

#[test]
fn a_gang_moves_whole() {
    check(
        "
        node   n0 n1 n2 gpus=8 leaf=l0
        node   n3 gpus=8 leaf=l1
        tenant dev quota=32
        run    dev/a 1x6 on n0
        run    dev/b 1x6 on n1
        run    dev/g 2x2 on n2 n3
        tick   1h
        defrag apply
        exit   g.0 sig15
        exit   g.1 sig15
        cycle
        ",
        expect![[r#"
            defrag: 0 whole nodes, 0 in a leaf -> 1 whole nodes, 1 in a leaf
              g: n2,n3 -> n3,n3, loses 14400 GPU-s
            stop dev/g: Drained
            over dev/g: Drained
            again dev/g at the front
            place dev/g -> n3[0-1] n3[2-3] (attempt 2)"#]],
    );
}

const SHAPES: [&str; 6] = ["1x1", "1x2", "1x3", "2x2", "1x4", "2x1 inside=leaf"];

fn world(jobs: &[(usize, bool)], ends: &[usize]) -> Fixture {
    let mut fixture = Fixture::new(Policy { plan_interval: crate::units::Span::ZERO, ..Policy::standard() });
    for line in ["node n0 n1 n2 gpus=4 leaf=l0", "node n3 n4 n5 gpus=4 leaf=l1", "tenant a quota=24"] {
        fixture.line(line);
    }
    for (at, (shape, is_fixed)) in jobs.iter().enumerate() {
        let fixed = if *is_fixed { " fixed" } else { "" };
        fixture.line(&format!("queued a/j{at} {}{fixed}", SHAPES[*shape]));
        fixture.line("cycle");
    }
    for job in running(&fixture) {
        let (name, members) =
            (fixture.name_of(job), fixture.cluster.job(job).map_or(0, |job| job.spec.request.shape.members()));
        for verb in ["prepared", "started"] {
            (0..members).for_each(|member| fixture.line(&format!("{verb} {name}.{member}")));
        }
        if ends.contains(&(job.0 as usize)) {
            (0..members).for_each(|member| fixture.line(&format!("exit {name}.{member} 0")));
        }
    }
    // What waits would take the room that a plan makes: that is what it is for, and not what is looked at here.
    let waiting: Vec<JobId> =
        fixture.cluster.jobs().iter().filter(|job| job.phase == Phase::Waiting).map(|job| job.id).collect();
    for job in waiting {
        fixture.line(&format!("cancel {}", fixture.name_of(job)));
    }
    fixture.line("tick 1h");
    fixture
}

fn running(fixture: &Fixture) -> Vec<JobId> {
    fixture.cluster.jobs().iter().filter(|job| job.live_attempt().is_some()).map(|job| job.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_that_is_carried_out_leaves_the_room_that_it_shows(
        jobs in prop::collection::vec((0..SHAPES.len(), prop::bool::weighted(0.15)), 1..16),
        ends in prop::collection::vec(1..16usize, 0..8),
    ) {
        let mut fixture = world(&jobs, &ends);
        let plan = fixture.cluster.plan_defrag(PoolIndex(0), MAX_MOVES, fixture.now);
        prop_assert!(plan.after.nodes >= plan.before.nodes, "{plan:?}");
        prop_assert!(plan.after.in_leaf >= plan.before.in_leaf, "{plan:?}");
        prop_assert!(plan.moves.is_empty() || plan.after.nodes > plan.before.nodes, "{plan:?}");
        let same = fixture.cluster.plan_defrag(PoolIndex(0), MAX_MOVES, fixture.now);
        prop_assert_eq!(&same, &plan);
        let moves: Vec<(JobId, AttemptNumber)> = plan.moves.iter().map(|found| (found.job, found.attempt)).collect();
        fixture.line("defrag apply");
        for found in &plan.moves {
            let name = fixture.name_of(found.job);
            (0..found.from.len()).for_each(|member| fixture.line(&format!("exit {name}.{member} sig15")));
        }
        fixture.line("cycle");
        for found in &plan.moves {
            let job = fixture.cluster.job(found.job).expect("it is in memory");
            prop_assert!(job.live_attempt().is_some(), "{found:?} has no place");
        }
        let after = fixture.cluster.plan_defrag(PoolIndex(0), 0, fixture.now).before;
        prop_assert_eq!((after.nodes, after.in_leaf), (plan.after.nodes, plan.after.in_leaf), "{:?}", plan);
        // Done twice it is refused: those attempts are over.
        let again = Input::Defragment(moves.clone());
        let again = crate::decide(&mut fixture.cluster, again, None, fixture.now, &mut Vec::new());
        prop_assert_eq!(again.is_err(), !moves.is_empty());
    }
}
