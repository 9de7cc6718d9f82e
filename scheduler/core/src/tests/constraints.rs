//! Jobs that say on which nodes they may lie, and how their members lie to each other.

use expect_test::{Expect, expect};

use crate::fixture;

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&fixture::run(text));
}

#[test]
fn labels_and_named_nodes_are_verified() {
    check(
        "
        node   n0 gpus=8 leaf=l0 labels=rack:r0,old
        node   n1 gpus=8 leaf=l0 labels=rack:r1
        node   n2 gpus=8 leaf=l1 labels=rack:r1
        tenant t quota=24
        queued t/a 1x8 labels=rack:r1,!old | t/b 1x4 labels=rack | t/c 1x8 nodes=n0,n1 not-nodes=n0 | t/d 2x8 labels=rack:r0/r1 | t/e 1x8 labels=!rack:r1
        cycle
        ",
        expect![[r#"
            place t/a -> n2[0-7]
            place t/b -> n0[0-3]
            place t/c -> n1[0-7]
            blocked d: NotEnoughGpus { gpu, want: 16, free: 4 }
            blocked e: NotEnoughGpus { gpu, want: 8, free: 4 }"#]],
    );
}

#[test]
fn members_are_spread_or_stay_together() {
    check(
        "
        node   n0 n1 gpus=4 leaf=l0
        node   n2 n3 gpus=4 leaf=l1
        node   n4 n5 gpus=4 leaf=l2
        tenant t quota=24
        queued t/a 3x1 spread=leaf | t/b 4x4 segment=2:leaf | t/c 5x1 spread=node | t/d 3x1 segment=2:leaf
        cycle
        ",
        expect![[r#"
            place t/a -> n0[0] n2[0] n4[0]
            place t/c -> n0[1] n1[0] n2[1] n3[0] n4[1]
            place t/d -> n1[1] n1[2] n1[3]
            blocked b: NotEnoughSlots { gpu, want: 4, free: 3, of: 4 }"#]],
    );
}

#[test]
fn elastic_gangs_take_what_there_is() {
    check(
        "
        node   n0 n1 gpus=4 leaf=l0
        tenant t quota=7 limit=7
        queued t/a 1x3 | t/b 8x1 least=2 | t/c 4x1 least=3
        cycle
        ",
        expect![[r#"
            place t/a -> n0[0-2]
            place t/b -> n1[0] n1[1] n1[2] n1[3]
            blocked c: OverLimit { t, limit: 7, used: 7, want: 3 }"#]],
    );
}

#[test]
fn whole_nodes_and_islands() {
    check(
        "
        node   n0 n1 gpus=8 islands=4 leaf=l0
        tenant t quota=16
        run    t/x 1x2 on n0
        queued t/a 1x4 | t/b 1x2 | t/c 1x1 exclusive
        cycle
        ",
        expect![[r#"
            place t/a -> n0[4-7]
            place t/b -> n0[2-3]
            place t/c -> n1[0-7]"#]],
    );
}

#[test]
fn segments_of_a_high_level_go_into_one_lower_domain_that_holds_all() {
    check(
        "
        node   n0 n1 gpus=2 site=a spine=s leaf=l0
        node   n2 gpus=2 site=b spine=s leaf=l1
        node   n3 gpus=2 site=b spine=s leaf=l2
        tenant t quota=8
        queued t/a 2x1 distinct segment=1:spine
        cycle
        ",
        expect!["place t/a -> n0[0] n1[0]"],
    );
}
