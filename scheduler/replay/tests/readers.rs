//! Whatever a trace file holds: it is read, or refused by file and line; what was written is read back the same.

use std::fmt::Debug;
use std::path::Path;

use dure_core::node::Location;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_replay::faults;
use dure_replay::trace::{self, Mission, TraceError, TraceJob, TraceNode, read_jobs, read_missions, read_nodes};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// Values that are on an edge of something, and some that are in the middle.
fn value() -> impl Strategy<Value = String> {
    let edges = [
        "",
        "0",
        "1",
        "8",
        "-1",
        "1e3",
        "1e12",
        "1e13",
        "NaN",
        "inf",
        "0.0005",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "999999999999",
        "1000000000001",
        "1-02:03:04",
        "99999999999999-00:00:00",
        "::::",
        "-",
        "2026-01-31T12:00:00",
        "Unknown",
        "UNLIMITED",
        "gres/gpu=4",
        "gres/gpu:h100=4294967295,gres/gpu:a=1",
        "gres/gpu=",
        "a|b",
        "\"",
        "\"\"",
        "n0",
        "\u{1f}\u{8b}",
        "평가",
    ];
    prop_oneof![4 => select(edges.to_vec()).prop_map(str::to_owned), 1 => "[ -~]{0,12}"]
}

fn file(columns: &'static [&'static str], delimiter: char) -> impl Strategy<Value = String> {
    let width = columns.len();
    vec(vec(value(), width), 0..6).prop_map(move |rows| {
        let line = |cells: Vec<String>| format!("{}\n", cells.join(&delimiter.to_string()));
        let head = line(columns.iter().map(|column| (*column).to_owned()).collect());
        rows.into_iter().map(line).fold(head, |all, row| all + &row)
    })
}

const JOBS: &[&str] = &[
    "job_id",
    "submit_s",
    "duration_s",
    "num_gpu",
    "gpu_milli",
    "nodes",
    "cpu_milli",
    "memory_mib",
    "tenant",
    "gpu_model",
    "time_limit_s",
];
const SACCT: &[&str] =
    &["JobID", "Submit", "Start", "End", "ElapsedRaw", "Elapsed", "TimelimitRaw", "Timelimit", "NNodes", "AllocTRES"];
const NODES: &[&str] = &["node", "gpus", "gpu_model", "cpu_milli", "memory_mib", "pool", "leaf"];
const MISSIONS: &[&str] = &["tenant", "quota", "limit", "lend_limit", "domains", "weight", "budget_gpu_hours"];
const FAULTS: &[&str] = &["time_s", "node", "gpu", "duration_s"];

/// It is read, or refused in one line that begins with the file and says where.
fn is_read_or_named<T: Debug>(content: &[u8], read: impl Fn(&Path) -> Result<T, TraceError>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("f.csv");
    std::fs::write(&path, content).expect("a file");
    if let Err(err) = read(&path) {
        let text = err.to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        assert!(!text.contains("panicked") && text.len() > path.display().to_string().len() + 2, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_columns_of_edges_are_read_or_named(
        jobs in file(JOBS, ','),
        sacct in file(SACCT, '|'),
        nodes in file(NODES, ','),
        missions in file(MISSIONS, ','),
        listed in file(FAULTS, ','),
    ) {
        is_read_or_named(jobs.as_bytes(), read_jobs);
        is_read_or_named(sacct.as_bytes(), read_jobs);
        is_read_or_named(nodes.as_bytes(), read_nodes);
        is_read_or_named(missions.as_bytes(), read_missions);
        let there = [TraceNode { name: "n0".into(), gpus: 8, ..TraceNode::default() }];
        is_read_or_named(listed.as_bytes(), |path| faults::read(path, &there));
    }

    #[test]
    fn any_bytes_are_read_or_named(bytes in vec(any::<u8>(), 0..200), packed in any::<bool>()) {
        let bytes = if packed { [&[0x1f, 0x8b][..], &bytes].concat() } else { bytes };
        is_read_or_named(&bytes, read_jobs);
        is_read_or_named(&bytes, read_nodes);
        is_read_or_named(&bytes, read_missions);
    }

    #[test]
    fn what_was_written_is_read_back(
        jobs in vec(job(), 0..8),
        nodes in vec(node(), 0..8),
        missions in vec(mission(), 0..8),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.csv");
        let create = || std::fs::File::create(&path).expect("a file");
        let jobs: Vec<TraceJob> =
            jobs.into_iter().enumerate().map(|(at, job)| TraceJob { id: format!("{}{at}", job.id), ..job }).collect();
        trace::write_jobs(create(), &jobs).expect("written");
        prop_assert_eq!(read_jobs(&path).expect("read"), jobs);
        trace::write_nodes(create(), &nodes).expect("written");
        prop_assert_eq!(read_nodes(&path).expect("read"), nodes);
        trace::write_missions(create(), &missions).expect("written");
        prop_assert_eq!(read_missions(&path).expect("read"), missions);
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-z\"'][a-z\"', 가-힣]{0,5}[a-z]"
}

fn job() -> impl Strategy<Value = TraceJob> {
    let times = (0u64..1 << 49, 0u64..1 << 49, of(1u64..1 << 49));
    let size = (0u32..9_000, 1u32..=1000, of(1u32..64), any::<u32>(), any::<u32>());
    (name(), times, size, (name(), name(), vec("[a-z]{1,4}", 0..3))).prop_map(
        |(id, times, size, (tenant, user, models))| {
            let ((submit, duration, limit), (gpus, gpu_milli, nodes, cpu, memory)) = (times, size);
            TraceJob {
                name: user.clone(),
                priority: "high".into(),
                cpu: CpuMilli(cpu.into()),
                memory: MemoryMib(memory.into()),
                submit: Time(submit),
                duration: Span(duration),
                limit: limit.map(Span),
                ..TraceJob { id, gpus, gpu_milli, nodes, tenant, user, models, ..TraceJob::default() }
            }
        },
    )
}

fn node() -> impl Strategy<Value = TraceNode> {
    (name(), name(), any::<u32>(), any::<u32>()).prop_map(|(name, leaf, gpus, cpu)| TraceNode {
        name,
        gpus,
        cpu: CpuMilli(cpu.into()),
        location: Location { leaf: leaf.as_str().into(), ..Location::default() },
        ..TraceNode::default()
    })
}

fn mission() -> impl Strategy<Value = Mission> {
    (name(), any::<u32>(), of(any::<u32>()), of(any::<u32>()), of(any::<u64>())).prop_map(
        |(tenant, quota, limit, weight, budget_hours)| Mission {
            tenant,
            quota: Gpus::whole(quota),
            limit: limit.map(Gpus::whole),
            weight,
            budget_hours,
            ..Mission::default()
        },
    )
}
