use expect_test::{Expect, expect};

use super::*;

fn gang(change: impl FnOnce(&mut Draft), expected: Expect) {
    let mut draft = Draft { tenant: Some("fusion".into()), args: vec!["true".into()], ..Draft::default() };
    change(&mut draft);
    let text = match draft.spec().map(|spec| spec.shape.expect("always set")) {
        Ok(shape) => format!(
            "{}x{} {:?} cpu={} mem={}{}",
            shape.members,
            shape.gpus_per_member,
            shape.unequal,
            shape.cpu_milli_per_member,
            shape.memory_mib_per_member,
            if shape.distinct_nodes { " distinct" } else { "" }
        ),
        Err(why) => why,
    };
    expected.assert_eq(&text);
}

#[test]
fn sizes_make_gangs() {
    gang(|_| {}, expect!["1x1 [] cpu=0 mem=0"]);
    gang(|job| job.gpus = Some(8), expect!["1x8 [] cpu=0 mem=0"]);
    gang(|job| (job.gpus, job.nodes) = (Some(16), Some(2)), expect!["2x8 [] cpu=0 mem=0 distinct"]);
    gang(|job| (job.members, job.gpus_per_member) = (Some(4), Some(8)), expect!["4x8 [] cpu=0 mem=0"]);
    gang(|job| (job.gpus, job.gpus_per_member) = (Some(32), Some(8)), expect!["4x8 [] cpu=0 mem=0"]);
    gang(
        |job| {
            job.shape = Some(vec![8, 4]);
            job.memory_mib_per_gpu = Some(10);
        },
        expect!["0x0 [8, 4] cpu=0 mem=80"],
    );
    gang(
        |job| {
            job.gpus = Some(4);
            job.cpu_milli_per_gpu = Some(2_000);
            job.memory_mib_per_cpu = Some(3);
        },
        expect!["1x4 [] cpu=8000 mem=24"],
    );
}

#[test]
fn what_contradicts_itself_is_refused_with_the_remedy() {
    gang(
        |job| (job.gpus, job.members) = (Some(12), Some(5)),
        expect!["--gpus 12 does not divide by 5 members: use --gpus-per-member, or --shape for unequal members"],
    );
    gang(
        |job| (job.gpus, job.members, job.gpus_per_member) = (Some(12), Some(2), Some(8)),
        expect!["--gpus 12 is not --members 2 x --gpus-per-member 8: leave one of the three out"],
    );
    gang(
        |job| (job.members, job.nodes) = (Some(3), Some(2)),
        expect!["--members 3 and --nodes 2: with --nodes every member has a node of its own, give one of them"],
    );
    gang(
        |job| (job.shape, job.gpus) = (Some(vec![1]), Some(1)),
        expect!["--shape says it all: leave out --gpus, --members and --gpus-per-member"],
    );
    gang(|job| job.args.clear(), expect!["nothing to run: name a script, or a command after --"]);
    gang(
        |job| job.tenant = None,
        expect![
            "no tenant: name who pays with --tenant MISSION[/PROJECT[/TEAM]], DURE_TENANT or the context file (dure quota show lists them)"
        ],
    );
    // Zero is the scheduler's to refuse: it goes through.
    gang(|job| job.gpus = Some(0), expect!["1x0 [] cpu=0 mem=0"]);
}

#[test]
fn an_upper_draft_wins_field_by_field_but_its_shape_as_a_whole() {
    let upper = Draft { gpus: Some(4), env: [("A".into(), "1".into())].into(), ..Draft::default() };
    let lower = Draft {
        members: Some(2),
        gpus_per_member: Some(8),
        name: Some("low".into()),
        env: [("A".into(), "0".into()), ("B".into(), "2".into())].into(),
        ..Draft::default()
    };
    let both = upper.over(lower);
    assert_eq!((both.gpus, both.members, both.gpus_per_member), (Some(4), None, None));
    assert_eq!((both.name.as_deref(), both.env["A"].as_str(), both.env["B"].as_str()), (Some("low"), "1", "2"));
}

#[test]
fn arrays_dependencies_memory_and_gpus_are_read() {
    assert_eq!(array("0-99%10"), Ok(ArrayRange { size: 100, max_running: 10 }));
    assert_eq!(array("8"), Ok(ArrayRange { size: 8, max_running: 0 }));
    for text in ["1-5", "0-4:2", "0,3", "0-9%0", "0-4294967295", "", "-"] {
        assert!(array(text).is_err(), "{text}");
    }
    let all = depends("afterok:12:13,afterany:+0").expect("reads");
    assert_eq!(all.len(), 3);
    assert_eq!(all[2], Depend { kind: DependencyKind::AfterAny, on: On::IndexInCall(0) });
    for text in ["12", "afterok", "afterok:", "singleton", "aftercorr:1", "afterok:1?afterok:2"] {
        assert!(depends(text).is_err(), "{text}");
    }
    assert_eq!(
        [memory("64G"), memory("512M"), memory("2048"), memory("1T"), memory("1025K"), memory("8GiB")],
        [Ok(65_536), Ok(512), Ok(2_048), Ok(1_048_576), Ok(2), Ok(8_192)]
    );
    assert!(memory("lots").is_err() && memory("9P").is_err());
    assert_eq!(gpus("h200:8"), Ok((Some("h200".into()), 8)));
    assert!(gpus(":8").is_err() && gpus("h200:").is_err());
}

#[test]
fn variables_are_taken_only_when_asked_for() {
    let here = || vec![("HOME".to_owned(), "/h".to_owned()), ("X".to_owned(), "1".to_owned())];
    let names = |text: &str| {
        export(text, &here)
            .map(|env| env.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
    };
    assert_eq!(names("A=1,X").expect("reads"), ["A=1", "X=1"]);
    assert_eq!(names("ALL,X=2").expect("reads"), ["HOME=/h", "X=2"]);
    assert_eq!(names("NONE").expect("reads"), Vec::<String>::new());
    assert!(names("=3").is_err());
}
