//! Trace files: what is read is what was written, and what cannot be read is named.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use dure_core::units::{CpuMilli, Gpus, Span, Time};
use dure_replay::division::{Division, quotas};
use dure_replay::drive::Drive;
use dure_replay::report::report;
use dure_replay::trace::{
    self, Mission, Moment, TraceError, TraceJob, TraceNode, read_jobs, read_missions, read_nodes, window,
};
use expect_test::expect;
use flate2::Compression;
use flate2::write::GzEncoder;

fn job(id: &str, submit: u64, duration: u64, gpus: u32, tenant: &str) -> TraceJob {
    TraceJob {
        id: id.into(),
        submit: Time(submit * 1000),
        duration: Span::seconds(duration),
        gpus,
        gpu_milli: 1000,
        tenant: tenant.into(),
        user: "kim".into(),
        ..TraceJob::default()
    }
}

fn node(name: &str, gpus: u32, pool: &str) -> TraceNode {
    TraceNode { name: name.into(), gpus, cpu: CpuMilli(64_000), pool: pool.into(), ..TraceNode::default() }
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("CSV is text")
}

fn error<T: std::fmt::Debug>(content: &str, read: fn(&Path) -> Result<T, TraceError>) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("f.csv");
    std::fs::write(&path, content).expect("a file");
    read(&path).expect_err("it cannot be read").to_string().replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn plain_or_compressed_it_is_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let jobs = [
        job("a", 1, 60, 12, "x"),
        TraceJob { nodes: Some(2), models: vec!["A".into(), "B".into()], ..job("b", 2, 1, 16, "") },
    ];
    let nodes = [node("n0", 8, "x"), node("n1", 8, "")];
    let (plain, packed) = (folder.path().join("plain"), folder.path().join("packed"));
    trace::write_jobs(File::create(&plain).expect("a file"), &jobs).expect("written");
    let mut out = GzEncoder::new(File::create(&packed).expect("a file"), Compression::fast());
    out.write_all(&std::fs::read(&plain).expect("read")).expect("packed");
    out.finish().expect("packed");
    assert_eq!(read_jobs(&plain).expect("read"), jobs);
    assert_eq!(read_jobs(&packed).expect("read"), jobs);
    trace::write_nodes(File::create(&plain).expect("a file"), &nodes).expect("written");
    assert_eq!(read_nodes(&plain).expect("read"), nodes);
    std::fs::write(&plain, "tenant,quota,limit\nx,8,\ny,4,6\n").expect("a file");
    let mission = |tenant: &str, quota, limit: Option<u32>| Mission {
        tenant: tenant.into(),
        quota: Gpus::whole(quota),
        limit: limit.map(Gpus::whole),
        ..Mission::default()
    };
    assert_eq!(read_missions(&plain).expect("read"), [mission("x", 8, None), mission("y", 4, Some(6))]);
}

#[test]
fn errors_name_file_line_and_field() {
    let header = "job_id,submit_s,duration_s,num_gpu";
    let errors = [
        error("job_id,submit_s\na,1\n", read_jobs),
        error(&format!("{header}\na,1,2,3\nb,x,2,3\n"), read_jobs),
        error(&format!("{header}\na,1,-2,3\n"), read_jobs),
        error(&format!("{header}\na,1,2,many\n"), read_jobs),
        error(&format!("{header}\n,1,2,3\n"), read_jobs),
        error(&format!("{header}\na,1,2,3\na,1,2,3\n"), read_jobs),
        error(&format!("{header}\na,1,2\n"), read_jobs),
        error("node,gpus\nn0,\n", read_nodes),
        error("tenant,quota,limit\nx,8,lots\n", read_missions),
        error("\u{1f}\u{8b}garbage", read_missions),
    ];
    expect![[r#"
        f.csv: line 1: there is no column "duration_s"; its columns are job_id, submit_s
        f.csv: line 3: field "submit_s" is "x": write seconds, 0 or more, as in 12.5
        f.csv: line 2: field "duration_s" is "-2": write seconds, 0 or more, as in 12.5
        f.csv: line 2: field "num_gpu" is "many": write a whole number
        f.csv: line 2: field "job_id" is "": give it a name
        f.csv: line 3: field "job_id" is "a": an earlier line has this id: give each job its own
        f.csv: CSV error: record 1 (line: 2, byte: 35): found record with 3 fields, but the previous record has 4 fields
        f.csv: line 2: field "gpus" is "": write a whole number
        f.csv: line 2: field "limit" is "lots": write a whole number, or nothing
        f.csv: line 1: there is no column "tenant"; its columns are garbage"#]]
    .assert_eq(&errors.join("\n"));
    assert!(read_jobs(Path::new("/nowhere/f.csv")).expect_err("no file").to_string().starts_with("/nowhere/f.csv: "));
}

#[test]
fn a_small_replay() {
    let nodes = [node("n0", 8, "x"), node("n1", 8, "y")];
    let jobs = [
        job("a", 0, 1000, 12, "x"),
        job("b", 10, 50, 8, "y"),
        job("c", 10, 50, 4, "y"),
        job("late", 2000, 1, 1, "x"),
        job("same", 2000, 0, 1, "x"),
    ];
    let mut drive = Drive::new(&nodes, &jobs, &Division::Pools).expect("it can be replayed");
    while drive.turn().expect("it goes on") {}
    let rows = text(|out| trace::write_placements(out, drive.rows(), &jobs, &nodes).expect("written"));
    expect![[r#"
        time_s,event,job,attempt,node,gpus,milli
        0.000,start,a,1,n0,0+1+2+3+4+5+6+7,1000
        0.000,start,a,1,n1,0+1+2+3,1000
        10.000,start,c,1,n1,4+5+6+7,1000
        60.000,end,c,1,,,
        60.000,preempt,a,1,,,
        60.000,start,b,1,n0,0+1+2+3+4+5+6+7,1000
        110.000,end,b,1,,,
        110.000,start,a,2,n0,0+1+2+3+4+5+6+7,1000
        110.000,start,a,2,n1,0+1+2+3,1000
        1110.000,end,a,2,,,
        2000.000,start,late,1,n0,0,1000
        2000.000,start,same,1,n0,1,1000
        2000.000,end,same,1,,,
        2001.000,end,late,1,,,
    "#]]
    .assert_eq(&rows);
    let quotas = quotas(drive.missions());
    let replayed = drive.finish();
    let (report, measured) = report(&replayed, &jobs, &nodes, &quotas, BTreeMap::new(), Some(Span::seconds(500)));
    let of = |figures: &dure_replay::report::Figures| {
        format!(
            "{} started, wait {} {}, completion {}, slowdown {}, own {} borrowed {} lost {} owed {}, {} evictions",
            figures.started,
            figures.wait_s.mean,
            figures.wait_s.p95,
            figures.completion_s.mean,
            figures.mean_slowdown,
            figures.own_gpu_hours,
            figures.borrowed_gpu_hours,
            figures.evicted_gpu_hours,
            figures.quota_breach_gpu_hours,
            figures.evictions
        )
    };
    let figures = [of(&report.tenants["x"]), of(&report.tenants["y"]), of(&report.all)].join("\n");
    expect![[r#"
        3 started, wait 0 0, completion 370.333, slowdown 1.037, own 0 borrowed 3.533 lost 0.2 owed 0.111, 1 evictions
        2 started, wait 25 50, completion 75, slowdown 1.5, own 0.167 borrowed 0 lost 0 owed 0.056, 0 evictions
        5 started, wait 10 50, completion 252.2, slowdown 1.222, own 0.167 borrowed 3.533 lost 0.2 owed 0.167, 1 evictions"#]].assert_eq(&figures);
    let samples: Vec<String> =
        measured.samples.iter().map(|sample| format!("{} {:?}", sample.time, sample.tenants)).collect();
    expect![[r#"
        0 [[12, 4, 0, 0], [0, 0, 0, 0]]
        500000 [[12, 4, 0, 0], [0, 0, 0, 0]]
        1000000 [[12, 4, 0, 0], [0, 0, 0, 0]]
        1500000 [[0, 0, 0, 0], [0, 0, 0, 0]]
        2000000 [[1, 0, 0, 0], [0, 0, 0, 0]]"#]]
    .assert_eq(&samples.join("\n"));
    expect!["0.416073 0.216475 cfaee4579331a75d34df158b034b4c76c65e0862889e35b78bff2f617fb608eb"]
        .assert_eq(&format!("{} {} {}", report.utilisation, report.fragmentation, report.digest));
}

#[test]
fn what_cannot_be_replayed_is_named() {
    let nodes = [node("n0", 8, "x")];
    let why = |job: TraceJob, nodes: &[TraceNode]| {
        let jobs = [job];
        match Drive::new(nodes, &jobs, &Division::Equal).and_then(Drive::run) {
            Ok(replayed) => {
                let (_, why) = replayed.refused.first().expect("it was replayed");
                format!("refused: {why:?}")
            }
            Err(why) => why.to_string(),
        }
    };
    let limited = Division::Missions(vec![Mission {
        tenant: "x".into(),
        quota: Gpus::whole(1),
        limit: Some(Gpus::whole(1)),
        ..Mission::default()
    }]);
    let errors = [
        why(TraceJob { models: vec!["H100".into()], ..job("a", 0, 1, 1, "x") }, &nodes),
        why(job("a", 0, 1, 9, "x"), &nodes),
        why(job("a", 0, 1, 1, "a b"), &nodes),
        why(job("a", 0, 1, 1, "x"), &[node("n0", 33, "")]),
        why(TraceJob { cpu: CpuMilli(65_000), ..job("a", 0, 1, 1, "x") }, &nodes),
        match Drive::new(&nodes, &[job("a", 0, 1, 2, "x")], &limited).and_then(Drive::run) {
            Ok(replayed) => format!("refused: {:?}", replayed.refused[0].1),
            Err(why) => why.to_string(),
        },
    ];
    expect![[r#"
        job a: no node has a GPU of the models ["H100"]: leave the job out, or add nodes
        refused: Rejected { job: Some(0), why: GangTooLarge { want: 9 GPUs, capacity: 8 GPUs } }
        tenant a b is refused: Rejected { job: None, why: BadTenantName { name: "a b", why: "letters, digits, '-', '_' and '.' only, parts separated by '/'" } }
        node n0 has 33 GPUs: at most 32 are possible; divide it
        1 jobs wait for ever, among them a: Blocked(NotEnoughCpuOrMemory { pool: p0, want: 1, fit: 0 })
        refused: Rejected { job: Some(0), why: OverLimitForEver { tenant: "x", want: 2 GPUs, limit: 1 GPUs } }"#]].assert_eq(&errors.join("\n"));
}

#[test]
fn a_window_is_half_open_and_in_order() {
    let jobs = vec![job("c", 3, 1, 1, ""), job("b", 2, 1, 1, ""), job("a", 1, 1, 1, "")];
    let ids: Vec<String> = window(jobs, Time(1000), Time(3000)).into_iter().map(|job| job.id).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn the_same_files_give_the_same_rows() {
    let nodes: Vec<TraceNode> = (0..4).map(|at| node(&format!("n{at}"), 8, "")).collect();
    let jobs: Vec<TraceJob> = (0..200)
        .map(|at| {
            job(&format!("j{at}"), at / 3, 5 + at * 7 % 40, 1 + (at * 5 % 16) as u32, ["x", "y", "z"][at as usize % 3])
        })
        .collect();
    let run = || Drive::new(&nodes, &jobs, &Division::Equal).and_then(Drive::run).expect("it can be replayed");
    let replayed = run();
    assert_eq!(replayed, run());
    assert_eq!(replayed.rows.iter().filter(|row| row.moment == Moment::End).count(), jobs.len());
}
