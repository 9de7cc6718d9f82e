use super::*;

fn xid(code: u64) -> Observation {
    Observation { xids: vec![code], ..Observation::default() }
}

fn judge_all(config: &HealthConfig, seen: &[Observation]) -> Health {
    let mut judge = Judge::default();
    (0..).zip(seen).map(|(now_s, seen)| judge.judge(config, now_s, seen).clone()).last().expect("something was seen")
}

#[test]
fn bad_stays_suspect_passes_and_an_applications_fault_is_none() {
    let config = HealthConfig::default();
    let mut judge = Judge::default();
    let mut look = |seen: &Observation| judge.judge(&config, 0, seen).clone();
    assert_eq!(look(&xid(31)).verdict, Verdict::Ok);
    assert_eq!(look(&xid(54)), Health { verdict: Verdict::Suspect, reason: "XID 54: watched".to_owned() });
    for _ in 1..config.suspect_for_s {
        assert_eq!(look(&Observation::default()).verdict, Verdict::Suspect);
    }
    assert_eq!(look(&Observation::default()), Health::default());
    let several = Observation { xids: vec![13, 79, 54], ..Observation::default() };
    assert_eq!(look(&several).reason, "XID 79: restart the node");
    for _ in 0..2 * config.suspect_for_s {
        assert_eq!(look(&Observation::default()).verdict, Verdict::Bad);
    }
    assert_eq!(look(&xid(54)).reason, "XID 79: restart the node", "a lesser sign does not hide the reason");
}

#[test]
fn only_new_errors_count() {
    let config = HealthConfig::default();
    let errors = |uncorrected, nvlink_errors| Observation { uncorrected, nvlink_errors, ..Observation::default() };
    assert_eq!(judge_all(&config, &[errors(7, 5_000)]).verdict, Verdict::Ok);
    assert_eq!(judge_all(&config, &[errors(7, 0), errors(9, 0)]).reason, "2 uncorrectable memory errors");
    assert_eq!(judge_all(&config, &[errors(0, 0), errors(0, 99)]).verdict, Verdict::Ok);
    assert_eq!(judge_all(&config, &[errors(0, 7), errors(0, 207)]).reason, "200 NVLink errors in a sample");
}

#[test]
fn the_driver_is_obeyed_and_memory_without_a_way_out_is_bad() {
    let config = HealthConfig::default();
    let action = |recovery_action| judge_all(&config, &[Observation { recovery_action, ..xid(154) }]);
    assert_eq!(action(0).verdict, Verdict::Ok, "XID 154 alone asks the driver");
    assert_eq!(
        (action(1).verdict, action(3).verdict, action(9).verdict),
        (Verdict::Bad, Verdict::Suspect, Verdict::Suspect)
    );
    assert_eq!(action(2).reason, "the driver asks: restart the node (recovery action 2)");
    let pending = Observation { repair_pending: true, ..xid(63) };
    assert_eq!(judge_all(&config, std::slice::from_ref(&pending)).verdict, Verdict::Suspect);
    assert_eq!(judge_all(&config, &[Observation { repair_failed: true, ..pending }]).verdict, Verdict::Bad);
}

#[test]
fn repeat_offenders_and_slow_ones_are_found_and_the_site_has_its_own_word() {
    let config = HealthConfig { suspect_for_s: 1, slowdown_for_s: 3, ..HealthConfig::default() };
    let clean = Observation::default();
    let twice = [xid(54), clean.clone(), xid(54), clean.clone()];
    assert_eq!(judge_all(&config, &twice).verdict, Verdict::Ok);
    let thrice = judge_all(&config, &[&twice[..], &[xid(54)]].concat());
    assert_eq!(thrice.reason, "XID 54: watched, and suspect 3 times within 86400 s");
    assert_eq!(thrice.verdict, Verdict::Bad);
    let forgiving = HealthConfig { repeat_within_s: 2, ..config.clone() };
    assert_eq!(judge_all(&forgiving, &[&twice[..], &[xid(54)]].concat()).verdict, Verdict::Suspect);
    let slow = Observation { throttle_reasons: 0x40, ..Observation::default() };
    assert_eq!(judge_all(&config, &[slow.clone(), slow.clone()]).verdict, Verdict::Ok);
    assert_eq!(judge_all(&config, &[slow.clone(), slow.clone(), slow]).verdict, Verdict::Suspect);
    let own = HealthConfig { xids: [("54".to_owned(), XidAction::RestartNode)].into(), ..config };
    assert_eq!(judge_all(&own, &[xid(54)]).verdict, Verdict::Bad);
    let text = "xids = { 79 = \"reset-gpu\", 31 = \"ignore\" }\nsample_ms = 500";
    let read: HealthConfig = toml::from_str(text).expect("reads");
    assert_eq!(xid::action(&read.xids, 79), XidAction::ResetGpu);
}

#[test]
fn a_restart_of_the_agent_forgets_no_offence_and_a_new_boot_gives_another_chance() {
    let config = HealthConfig { suspect_for_s: 1, repeat_within_s: 3_600, ..HealthConfig::default() };
    let clean = Observation::default();
    let mut record = Record::default();
    // Three lives of the agent, each with one offence; an offence of long ago has decayed.
    record.suspected.push(1);
    for (life, expected) in [(0, Verdict::Suspect), (1, Verdict::Suspect), (2, Verdict::Bad)] {
        let now_s = 10_000 + life * 600;
        let mut judge = Judge::recover(record, "boot-1");
        assert_eq!(judge.judge(&config, now_s, &clean).verdict, Verdict::Ok);
        assert_eq!(judge.judge(&config, now_s + 1, &xid(54)).verdict, expected);
        record = judge.record("boot-1");
    }
    assert_eq!(record.suspected, [10_001, 10_601, 11_201]);
    let again = Judge::recover(record.clone(), "boot-1").judge(&config, 12_000, &clean).clone();
    assert_eq!(again.reason, "XID 54: watched, and suspect 3 times within 3600 s");
    let mut booted = Judge::recover(record, "boot-2");
    assert_eq!(booted.judge(&config, 12_000, &clean).verdict, Verdict::Ok, "a new boot");
    assert_eq!(booted.judge(&config, 12_001, &xid(54)).verdict, Verdict::Bad, "but no new name");
    // A clock that was set back for an hour and more does not count the same offences for ever.
    let record = booted.record("boot-2");
    assert_eq!(Judge::recover(record, "boot-3").judge(&config, 100, &xid(54)).verdict, Verdict::Suspect);
}
