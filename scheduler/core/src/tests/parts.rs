//! Shares of GPUs and MIG instances, from the draft to the end.

use expect_test::{Expect, expect};

use crate::fixture;

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&fixture::run(text));
}

#[test]
fn slices_go_to_instances_that_are_there_and_nothing_else_does() {
    check(
        "
        node   n0 gpus=3 model=H100-80GB mig=0/0/3g.40gb,0/4/1g.10gb,0/5/1g.10gb
        node   n1 gpus=3 model=H100-80GB
        tenant t quota=6
        queued t/a 1x1 mig=1g.10gb | t/b 1x1 mig=3g.40gb | t/c 2x1 mig=1g.10gb | t/d 1x1 share=500 | t/e 1x3
        cycle
        exit   a 0
        cycle
        ",
        expect![[r#"
            place t/a -> n0[0]
            place t/b -> n0[0]
            place t/d -> n0[1]
            place t/e -> n1[0-2]
            blocked c: NoShare { H100-80GB, want: 2, fit: 1, of: Slice(1g/1) }
            over t/a: Completed
            end t/a: Completed
            place t/c -> n0[0] n0[0]"#]],
    );
}

#[test]
fn what_is_held_stays_held_when_a_gpu_is_cut_anew() {
    check(
        "
        node   n0 gpus=1 model=H100-80GB mig=0/0/3g.40gb,0/4/3g.40gb
        tenant t quota=1
        queued t/a 1x1 mig=3g.40gb | t/b 1x1 mig=3g.40gb
        cycle
        node   n0 gpus=1 model=H100-80GB mig=0/0/3g.40gb,0/4/2g.20gb
        queued t/c 1x1 mig=2g.20gb
        cycle
        exit   b 0
        cycle
        node   n0 gpus=1 model=H100-80GB
        queued t/d 1x1
        cycle
        exit   a 0
        exit   c 0
        cycle
        ",
        expect![[r#"
            place t/a -> n0[0]
            place t/b -> n0[0]
            blocked c: NoShare { H100-80GB, want: 1, fit: 0, of: Slice(2g/2) }
            over t/b: Completed
            end t/b: Completed
            place t/c -> n0[0]
            blocked d: NotEnoughGpus { H100-80GB, want: 1, free: 0 }
            over t/a: Completed
            end t/a: Completed
            over t/c: Completed
            end t/c: Completed
            place t/d -> n0[0]"#]],
    );
}

#[test]
fn of_what_is_held_whole_nothing_is_given_away_when_it_is_cut() {
    check(
        "
        node   n0 gpus=1 model=H100-80GB
        tenant t quota=9
        queued t/a 1x1
        cycle
        node   n0 gpus=1 model=H100-80GB mig=0/0/3g.40gb,0/4/3g.40gb
        queued t/b 1x1 mig=3g.40gb
        cycle                  # the whole GPU is still held
        exit   a 0
        cycle
        ",
        expect![[r#"
            place t/a -> n0[0]
            blocked b: NoShare { H100-80GB, want: 1, fit: 0, of: Slice(3g/4) }
            over t/a: Completed
            end t/a: Completed
            place t/b -> n0[0]"#]],
    );
}

#[test]
fn whole_gpus_are_refused_where_all_are_cut() {
    check(
        "
        node   n0 gpus=2 model=H100-80GB mig=0/0/3g.40gb,0/4/1g.10gb,1/0/7g.80gb
        node   n1 gpus=2 model=H100-80GB mig=0/0/7g.80gb,1/0/7g.80gb
        tenant t quota=4
        submit t/a 1x1
        submit t/b 1x1 share=500
        submit t/c 1x1 mig=3g.40gb
        node   n2 gpus=2 model=H100-80GB mig=0/0/7g.80gb
        submit t/d 1x1
        submit t/e 1x2
        submit t/f 2x1
        cycle
        ",
        expect![[r#"
            refused job 0: OnlyInstances { pool: "H100-80GB x2", known: ["1g.10gb", "3g.40gb", "7g.80gb"] }
            refused job 0: OnlyInstances { pool: "H100-80GB x2", known: ["1g.10gb", "3g.40gb", "7g.80gb"] }
            submit t/c
            submit t/d
            refused job 0: GangNeverFits { want: 1, best: 0, level: None }
            refused job 0: GangNeverFits { want: 2, best: 1, level: None }
            place t/c -> n0[0]
            place t/d -> n2[1]"#]],
    );
}

#[test]
fn instances_that_no_node_has_are_refused() {
    let nodes = "
        node   n0 gpus=1 model=H100-80GB mig=0/4/1g.10gb,0/5/1g.10gb
        tenant t quota=1
        submit t/f 1x1 mig=7g.80gb
        submit t/g 1x1 mig=1g.5gb
        submit t/h 3x1 mig=1g.10gb
        submit t/i 1x1 mig=1g.10gb exclusive
        queued  t/k 2x1 mig=1g.10gb
        cycle
        ";
    check(
        nodes,
        expect![[r#"
        refused job 0: GangNeverFits { want: 1, best: 0, level: None }
        refused job 0: UnknownProfile { name: "1g.5gb", known: ["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"] }
        refused job 0: GangNeverFits { want: 3, best: 2, level: None }
        refused job 0: PartWith { what: "exclusive" }
        place t/k -> n0[0] n0[0]"#]],
    );
}
