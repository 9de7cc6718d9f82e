//! The shim by itself: no agent, only its folder.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{lives, pid_in, under_test, until};

fn spec(dir: &Path, script: &str, limits: (u64, u64)) {
    let spec = json!({
        "argv": ["/bin/sh", "-c", script],
        "env": [["PATH", std::env::var("PATH").unwrap_or_default()]],
        "workdir": dir,
        "logs": dir.join("logs"),
        "log_limit_bytes": 1_000_000,
        "time_limit_ms": limits.0,
        "grace_ms": limits.1,
        "confinement": { "cgroups": cgroup().into_iter().map(|path| json!({ "path": path })).collect::<Vec<_>>() },
        "boot_id": "b",
    });
    fs::write(dir.join("spec.json"), spec.to_string()).expect("writes");
}

/// A cgroup of our own where this node lets us make one.
fn cgroup() -> Option<String> {
    let root = Path::new("/sys/fs/cgroup/unified");
    let dir = root.join(format!("dure-test-{}-{:?}", std::process::id(), std::thread::current().id()));
    let usable = root.join("cgroup.procs").exists() && fs::create_dir(&dir).and_then(|()| fs::remove_dir(&dir)).is_ok();
    if !usable {
        eprintln!("no cgroup v2 that this test may use: the cgroup half is skipped");
    }
    usable.then(|| dir.display().to_string())
}

fn start(dir: &Path) -> Child {
    let mut command = Command::new(under_test());
    command.arg("shim").arg(dir).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().expect("starts")
}

fn json_in(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("is there")).expect("is JSON")
}

#[tokio::test]
async fn of_many_shims_in_one_folder_one_starts_the_process() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    spec(dir.path(), "echo started >> starts; sleep 0.2; exit 9", (0, 0));
    let shims: Vec<Child> = (0..8).map(|_| start(dir.path())).collect();
    let mut codes: Vec<i32> = Vec::new();
    for mut shim in shims {
        codes.push(shim.wait().expect("ends").code().expect("no signal"));
    }
    codes.sort_unstable();
    assert_eq!(codes, [0, 3, 3, 3, 3, 3, 3, 3]);
    assert_eq!(fs::read_to_string(dir.path().join("starts")).expect("is there"), "started\n");
    assert_eq!(json_in(&dir.path().join("exit.json"))["code"], 9);
    assert_eq!(start(dir.path()).wait().expect("ends").code(), Some(3), "what has ended does not begin again");
}

#[tokio::test]
async fn a_stop_that_was_asked_before_the_start_starts_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    spec(dir.path(), "echo started > starts", (0, 0));
    fs::write(dir.path().join("stop.json"), r#"{"reason": "cancelled", "grace_ms": 0}"#).expect("writes");
    assert_eq!(start(dir.path()).wait().expect("ends").code(), Some(0));
    assert!(!dir.path().join("starts").exists());
    let exit = json_in(&dir.path().join("exit.json"));
    assert_eq!(exit["launch_failure"], "stopped before it was started (cancelled)");
}

#[tokio::test]
async fn the_time_limit_reaches_descendants_in_sessions_of_their_own() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = "(setsid sh -c 'trap \"\" TERM; echo $$ > daemon; while :; do sleep 0.01; done' &); sleep 1000";
    spec(dir.path(), daemon, (300, 5_000));
    let mut shim = start(dir.path());
    let pid = pid_in(&dir.path().join("daemon")).await;
    until("the shim ends", || shim.try_wait().expect("can be asked").is_some()).await;
    let exit = json_in(&dir.path().join("exit.json"));
    assert_eq!((&exit["timed_out"], &exit["signal"]), (&json!(true), &json!(15)));
    assert!(!lives(pid));
    let spec = json_in(&dir.path().join("spec.json"));
    let cgroup = spec["confinement"]["cgroups"][0]["path"].as_str();
    assert!(cgroup.is_none_or(|path| !Path::new(path).exists()), "its cgroup is removed with it");
}

#[tokio::test]
async fn a_stop_is_heard_at_once_and_a_second_one_can_only_hurry() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    spec(dir.path(), "trap '' TERM; echo $$ > ready; while :; do sleep 0.01; done", (0, 0));
    let mut shim = start(dir.path());
    let pid = pid_in(&dir.path().join("ready")).await;
    let ask = |grace_ms: u64| {
        let text = json!({"reason": "evicted", "grace_ms": grace_ms}).to_string();
        fs::write(dir.path().join("stop.tmp"), text).expect("writes");
        fs::rename(dir.path().join("stop.tmp"), dir.path().join("stop.json")).expect("renames");
        fs::write(dir.path().join("bell"), "!").expect("rings");
    };
    ask(600_000);
    ask(0);
    until("the shim ends", || shim.try_wait().expect("can be asked").is_some()).await;
    assert_eq!(json_in(&dir.path().join("exit.json"))["signal"], 9);
    assert!(!lives(pid));
}

#[tokio::test]
async fn a_shim_is_small() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    spec(dir.path(), "sleep 1000", (0, 0));
    let mut shim = start(dir.path());
    until("it runs", || dir.path().join("started.json").exists()).await;
    let status = fs::read_to_string(format!("/proc/{}/status", shim.id())).expect("it lives");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("is there");
        line.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    assert_eq!(field("Threads:"), 1);
    assert!(field("RssAnon:") < 2_048, "private memory of a shim: {} KiB", field("RssAnon:"));
    fs::write(dir.path().join("stop.json"), r#"{"reason": "cancelled", "grace_ms": 0}"#).expect("writes");
    fs::write(dir.path().join("bell"), "!").expect("rings");
    shim.wait().expect("ends");
}
