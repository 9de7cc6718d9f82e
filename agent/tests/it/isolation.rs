//! Members kept apart, with the kernel of this node: as its user, within its cgroups, with its own GPUs' devices only.
//! Needs root and cgroup controllers; where they are missing the tests say so.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use dure_agent::{
    AgentConfig,
    isolation::{IsolationMode, Limit},
};
use dure_proto::v1::{ExecOutput, ExecStart, Launch, LogRead, StepOf, exec_output, exit::How};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::harness::{Node, Scheduler, how, launch, lives, pid_in, script, soon, until, variables};

/// What a node must have for these tests.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// A node that confines its members, or why this machine cannot have one.
fn confined(scheduler: &Scheduler) -> Option<Node> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("it is ours");
    let passable = |above: &Path| fs::metadata(above).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
    let reached = dir.path().ancestors().all(passable);
    let has = |name: &&str| Path::new("/sys/fs/cgroup").join(name).is_dir() || in_v2(name);
    if !rustix::process::geteuid().is_root() || !reached || !CONTROLLERS.iter().all(has) {
        eprintln!("skipped: this needs root, cgroup controllers, and a build folder that every user can pass through");
        return None;
    }
    let mut node = Node::new(scheduler);
    node.config.state_dir = dir.path().join("state");
    node.dir = dir;
    node.config.isolation.mode = IsolationMode::Auto;
    node.config.isolation.users = [("kim".to_owned(), "nobody".to_owned())].into();
    Some(node)
}

fn in_v2(name: &str) -> bool {
    let text = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    text.split(' ').any(|controller| controller.trim() == name)
}

fn of_kim(text: &str) -> Launch {
    Launch { user: "kim".to_owned(), cpu_milli: 1_500, memory_mib: 64, ..script(text) }
}

fn read(job_id: u64, stderr: bool) -> LogRead {
    LogRead { read_id: job_id * 2 + u64::from(stderr), job_id, attempt: 1, stderr, ..LogRead::default() }
}

#[tokio::test]
async fn a_member_is_its_user_and_has_its_own_tmp_limits_and_cgroups() {
    let mut scheduler = Scheduler::start().await;
    let Some(mut node) = confined(&scheduler) else { return };
    node.config.isolation.rlimits.insert("nofile".to_owned(), Limit::Of(77));
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    let text = "echo uid=$(id -u); echo gid=$(id -g); echo home=$HOME; echo core=$(ulimit -c); echo files=$(ulimit -n)
        echo tmp=$(ls /tmp | wc -l); touch /tmp/mine-$DURE_JOB_ID; echo shm=$(ls /dev/shm | wc -l)
        echo privs=$(grep NoNewPrivs /proc/self/status | cut -f2)
        echo script=$( (echo x > $0) 2>/dev/null && echo written || echo safe)
        echo agents=$( (ls ../../members) 2>/dev/null && echo seen || echo hidden)
        touch here && echo workdir=mine; sed 's/^/cgroup /' /proc/self/cgroup";
    session.order(launch(1, of_kim(text))).await;
    assert_eq!(how(&session.gone().await), How::Code(0));
    let (out, _) = session.log(read(1, false)).await;
    let said = variables(&out);
    let say = |name: &str| said.get(name).copied().unwrap_or_else(|| panic!("no {name} in {out}"));
    assert_eq!([say("uid"), say("gid"), say("core"), say("files"), say("privs")], ["65534", "65534", "0", "77", "1"]);
    assert_eq!([say("tmp"), say("shm"), say("script"), say("agents")], ["0", "0", "safe", "hidden"], "{out}");
    assert_eq!([say("workdir"), say("home")], ["mine", "/nonexistent"]);
    let inside = out.lines().filter(|line| line.starts_with("cgroup") && line.contains("/dure/")).count();
    assert!(inside >= 1 && out.lines().any(|line| line.contains("1.1.0")), "{out}");
    assert!(!Path::new("/tmp/mine-1").exists(), "its /tmp is its own");
    let of_members = |entry: &std::io::Result<fs::DirEntry>| entry.as_ref().is_ok_and(|it| it.path().is_dir());
    let left =
        |name: &str| fs::read_dir(node.config.state_dir.join(name)).expect("is there").filter(of_members).count();
    until("what it was given is removed with it", || left("run") == 0 && left("tmp") == 0).await;
    agent.crash().await;
}

#[tokio::test]
async fn memory_above_the_grant_is_refused_and_reported() {
    let mut scheduler = Scheduler::start().await;
    let Some(node) = confined(&scheduler) else { return };
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    // tail keeps all of its input in memory.
    let greedy = of_kim("head -c 300000000 /dev/zero | tail -c 300000000 > /dev/null; echo survived=$?; exit 7");
    session.order(launch(2, greedy)).await;
    let exit = session.gone().await;
    assert!(exit.detail.contains("they wanted more than 64 MiB of memory"), "{exit:?}");
    let (err, _) = session.log(read(2, true)).await;
    assert!(err.contains("[dure: the kernel ended"), "{err}");
}

#[tokio::test]
async fn processes_beyond_the_bound_and_families_that_hide_are_ended() {
    let mut scheduler = Scheduler::start().await;
    let Some(mut node) = confined(&scheduler) else { return };
    node.config.isolation.pids = 24;
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 0.3; exit 0";
    session.order(launch(3, of_kim(bomb))).await;
    let exit = session.gone().await;
    assert!(exit.detail.contains("new processes or threads: it may have 24 at once"), "{exit:?}");
    // Forked twice, in a session of its own, deaf, without a word of its parents in its environment.
    let hidden = "(setsid env -i /bin/sh -c 'trap \"\" TERM HUP; (echo $$ > hidden; while :; do sleep 0.01; done) &' &)
        while ! test -s hidden; do sleep 0.01; done; exit 5";
    session.order(launch(4, of_kim(hidden))).await;
    let pid = pid_in(&node.config.state_dir.join("work/4.1.0/hidden")).await;
    assert_eq!(how(&session.gone().await), How::Code(5));
    assert!(!lives(pid), "it is gone before its GPUs are free");
    let left: Vec<PathBuf> = walk(Path::new("/sys/fs/cgroup"), 5).filter(|dir| dir.ends_with("4.1.0")).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn walk(dir: &Path, depth: u32) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    let folders: Vec<PathBuf> = folders.collect();
    let below: Vec<PathBuf> =
        if depth == 0 { Vec::new() } else { folders.iter().flat_map(|dir| walk(dir, depth - 1)).collect() };
    Box::new(folders.into_iter().chain(below))
}

#[tokio::test]
async fn the_device_of_another_jobs_gpu_cannot_be_opened() {
    let mut scheduler = Scheduler::start().await;
    let Some(node) = confined(&scheduler) else { return };
    let dir = node.dir.path().join("dev");
    fs::create_dir(&dir).expect("makes it");
    for minor in [0, 1, 7, 255] {
        let device = rustix::fs::makedev(195, minor);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let path = dir.join(format!("nvidia{minor}"));
        if rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, device).is_err() {
            eprintln!("skipped: this user may make no device files here");
            return;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    }
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    // No driver is here: a device that may be opened is "No such device", one that may not is "not permitted".
    let text =
        format!("for gpu in 0 1 7 255; do (: < {}/nvidia$gpu) 2>&1 | sed \"s/.*: /$gpu=/\"; done", dir.display());
    session.order(launch(5, Launch { gpus: vec![1], ..of_kim(&text) })).await;
    assert_eq!(how(&session.gone().await), How::Code(0));
    let (out, _) = session.log(read(5, false)).await;
    let said = variables(&out);
    for other in ["0", "7"] {
        assert_eq!(said.get(other), Some(&"Operation not permitted"), "{out}");
    }
    for own in ["1", "255"] {
        assert!(said.get(own).is_none_or(|words| words.starts_with("No such device")), "{out}");
    }
}

#[tokio::test]
async fn nothing_is_opened_for_a_user_that_the_user_could_not_open() {
    let mut scheduler = Scheduler::start().await;
    let Some(node) = confined(&scheduler) else { return };
    let secret = node.dir.path().join("secret");
    fs::write(&secret, "of root\n").expect("writes");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let mut asked = of_kim("echo overwritten");
    asked.payload.as_mut().expect("a script").stdout_path = secret.display().to_string();
    session.order(launch(6, asked)).await;
    let How::LaunchFailure(why) = how(&session.gone().await) else { panic!("it ran") };
    assert!(why.contains("Permission denied"), "{why}");
    assert_eq!(fs::read_to_string(&secret).expect("reads"), "of root\n");
    session.order(launch(7, Launch { user: "ghost".to_owned(), ..of_kim("true") })).await;
    let How::LaunchFailure(why) = how(&session.gone().await) else { panic!("it ran") };
    assert!(why.contains("user \"ghost\" cannot run here") && why.contains("no such account"), "{why}");
}

#[tokio::test]
async fn strict_mode_names_what_the_node_cannot_keep() {
    let dir = tempfile::tempdir_in("/tmp").expect("a temporary folder");
    let mut config = AgentConfig::new("n0", "http://127.0.0.1:1", dir.path().join("state"));
    config.gpus = dure_agent::config::GpuSource::None;
    config.isolation.mode = IsolationMode::Strict;
    let refused = dure_agent::run(config, std::future::pending()).await.expect_err("refuses").to_string();
    assert!(refused.starts_with("isolation.mode = \"strict\": this node cannot keep members apart: "), "{refused}");
    assert!(refused.contains("members share /tmp"), "{refused}");
}

/// The rules of cgroup v2 nodes, on any node whose kernel takes device programs; by the shim alone.
#[tokio::test]
async fn a_device_program_guards_the_gpus_too() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let v2 = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(Path::new);
    let Some(root) = v2.into_iter().find(|root| root.join("cgroup.procs").exists()) else {
        return eprintln!("skipped: no cgroup v2 here");
    };
    let cgroup = root.join(format!("dure-test-bpf-{}", std::process::id()));
    if fs::create_dir(&cgroup).is_err() {
        return eprintln!("skipped: this user may make no cgroups here");
    }
    let path = dir.path().join("nvidia");
    for minor in [3, 4] {
        let (mode, device) = (rustix::fs::Mode::from_raw_mode(0o666), rustix::fs::makedev(195, minor));
        let path = path.with_extension(minor.to_string());
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::CharacterDevice, mode, device)
            .expect("root makes device files");
    }
    let text = format!("for gpu in 3 4; do (: < {}.$gpu) 2>&1 | sed \"s/.*: /$gpu=/\"; done", path.display());
    let spec = serde_json::json!({
        "argv": ["/bin/sh", "-c", text], "env": [["PATH", "/usr/bin:/bin"]], "workdir": dir.path(),
        "logs": dir.path().join("logs"), "log_limit_bytes": 10_000, "time_limit_ms": 0, "grace_ms": 0, "boot_id": "b",
        "confinement": {
            "cgroups": [{ "path": cgroup }],
            "device_program": { "cgroup": cgroup, "guards": [{ "major": 195, "last_minor": 253, "allowed": [4] }] },
        },
    });
    fs::write(dir.path().join("spec.json"), spec.to_string()).expect("writes");
    let shim = std::process::Command::new(crate::harness::under_test()).arg("shim").arg(dir.path()).status();
    assert!(shim.expect("starts").success());
    let exit = fs::read_to_string(dir.path().join("exit.json")).expect("is there");
    if exit.contains("device rules") {
        fs::remove_dir(&cgroup).ok();
        return eprintln!("skipped: the kernel takes no device programs: {exit}");
    }
    let out = fs::read_to_string(dir.path().join("logs/out.0")).expect("is there");
    let said = variables(&out);
    assert_eq!(said.get("3"), Some(&"Operation not permitted"), "{out}{exit}");
    assert!(said.get("4").is_none_or(|words| words.starts_with("No such device")), "{out}");
    assert!(!cgroup.exists(), "it is removed with its member");
}

#[tokio::test]
async fn a_step_is_refused_to_a_user_whose_job_it_is_not() {
    let mut scheduler = Scheduler::start().await;
    let Some(node) = confined(&scheduler) else { return };
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    session.order(launch(1, of_kim("echo $DURE_STEPS; exec sleep 1000"))).await;
    session.started().await;
    let socket = loop {
        let (text, _) = session.log(read(1, false)).await;
        if let Some(path) = text.strip_suffix('\n') {
            break PathBuf::from(path);
        }
    };
    // This very test is root; the member is nobody's.
    let step = StepOf { attempt: 1, member: 0, ..StepOf::default() };
    let start = ExecStart { job_id: 1, args: vec!["id".to_owned()], step: Some(step), ..ExecStart::default() };
    let said = asked(&socket, &start).await;
    let nobody = fs::metadata(node.member_dir(1).join("report")).map_or(65_534, |meta| meta.uid());
    assert_eq!(said, format!("user 0 does not speak for member 1.1.0, which is user {nobody}'s"));
    let none = ExecStart { step: None, ..start };
    assert_eq!(asked(&socket, &none).await, "no step: srun asks for it, not you");
}

/// What the agent says to who asks for a step.
async fn asked(socket: &Path, start: &ExecStart) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("every user may ask");
    let bytes = start.encode_to_vec();
    stream.write_u32(u32::try_from(bytes.len()).expect("short")).await.expect("writes");
    stream.write_all(&bytes).await.expect("writes");
    let length = soon("an answer", stream.read_u32()).await.expect("reads");
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.expect("reads");
    match ExecOutput::decode(&*bytes).expect("an output").kind {
        Some(exec_output::Kind::End(end)) if end.code == 126 => end.error,
        other => panic!("it was not refused: {other:?}"),
    }
}
