//! Members inside containers: a small root file system, built on the spot, and crun. Where root, crun or a static busybox
//! is missing the tests say so.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use dure_agent::isolation::IsolationMode;
use dure_proto::v1::{Container, Launch, LogRead, Mount, exit::How, order::What};

use crate::harness::{Node, Scheduler, how, launch, lives, order, pid_in, script, stop, until, variables};

/// A root file system of one program.
fn root_of_busybox(dir: &Path) -> PathBuf {
    let root = dir.join("image");
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp"] {
        fs::create_dir_all(root.join(name)).expect("makes it");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copies");
    for name in ["sh", "id", "ls", "cat", "touch", "sleep", "kill", "test", "env", "wc", "mkdir"] {
        symlink("busybox", root.join("bin").join(name)).expect("links");
    }
    fs::write(root.join("etc/image"), "small").expect("writes");
    root
}

/// A node that can run containers, or why this machine has none.
fn node(scheduler: &Scheduler) -> Option<(Node, PathBuf)> {
    let has = |path: &str| Path::new(path).is_file();
    if !rustix::process::geteuid().is_root() || !has("/usr/bin/crun") || !has("/bin/busybox") {
        eprintln!("skipped: this needs root, /usr/bin/crun and a static /bin/busybox");
        return None;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("it is ours");
    let mut node = Node::new(scheduler);
    node.config.state_dir = dir.path().join("state");
    node.config.isolation.mode = IsolationMode::Auto;
    node.config.isolation.users = [("kim".to_owned(), "nobody".to_owned())].into();
    node.config.containers.runtime = "/usr/bin/crun".into();
    let image = root_of_busybox(dir.path());
    node.dir = dir;
    Some((node, image))
}

fn inside(image: &Path, text: &str) -> Launch {
    let mut launch = Launch { user: "kim".to_owned(), ..script(text) };
    let container = Container { image: image.display().to_string(), ..Container::default() };
    launch.payload.as_mut().expect("it has one").container = Some(container);
    launch
}

fn container(launch: &mut Launch) -> &mut Container {
    launch.payload.as_mut().expect("it has one").container.as_mut().expect("it has one")
}

fn read(job_id: u64, stderr: bool) -> LogRead {
    LogRead { read_id: job_id * 2 + u64::from(stderr), job_id, attempt: 1, stderr, ..LogRead::default() }
}

#[tokio::test]
async fn a_member_in_a_container_is_a_member_like_any_other() {
    let mut scheduler = Scheduler::start().await;
    let Some((mut node, image)) = node(&scheduler) else { return };
    let cdi = node.dir.path().join("cdi");
    fs::create_dir(&cdi).expect("makes it");
    // GPU 0 is the null device here, GPU 1 the zero device.
    let device = |name: u32, minor: u32| {
        format!(
            "- name: \"{name}\"\n  containerEdits:\n    deviceNodes:\n    \
             - {{path: /dev/nvidia{name}, type: c, major: 1, minor: {minor}}}\n"
        )
    };
    let text = format!("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{}{}", device(0, 3), device(1, 5));
    fs::write(cdi.join("nvidia.yaml"), text).expect("writes");
    node.config.containers.cdi_dirs = vec![cdi];
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    let data = node.dir.path().join("data");
    fs::create_dir(&data).expect("makes it");
    fs::write(data.join("numbers"), "42").expect("writes");
    let text =
        "echo image=$(cat /etc/image); echo uid=$(id -u); echo root=$(ls / | wc -l); echo data=$(cat /mnt/numbers)
        echo gpu=$(ls /dev | while read n; do case $n in nvidia*) echo -n $n;; esac; done)
        echo job=$DURE_JOB_ID; touch here && echo workdir=mine; touch /tmp/x && echo tmp=mine
        echo image_is=$( (touch /etc/x) 2>/dev/null && echo written || echo safe)
        echo data_is=$( (touch /mnt/x) 2>/dev/null && echo written || echo safe)
        echo 'checkpoint 7' > $DURE_REPORT; exit 9";
    let mut wanted = inside(&image, text);
    wanted.gpus = vec![1];
    let source = data.display().to_string();
    container(&mut wanted).mounts = vec![Mount { source, target: "/mnt".to_owned(), read_only: true }];
    session.order(launch(1, wanted)).await;
    let exit = session.gone().await;
    let (out, _) = session.log(read(1, false)).await;
    let (err, _) = session.log(read(1, true)).await;
    assert_eq!(how(&exit), How::Code(9), "{out}\n{err}");
    let said = variables(&out);
    let say = |name: &str| said.get(name).copied().unwrap_or_else(|| panic!("no {name} in {out}\n{err}"));
    assert_eq!([say("image"), say("uid"), say("data"), say("gpu")], ["small", "65534", "42", "nvidia1"]);
    assert_eq!([say("job"), say("workdir"), say("tmp")], ["1", "mine", "mine"]);
    assert_eq!([say("image_is"), say("data_is")], ["safe", "safe"]);
    agent.crash().await;
}

#[tokio::test]
async fn all_of_a_container_is_ended_and_its_signal_is_known() {
    let mut scheduler = Scheduler::start().await;
    let Some((node, image)) = node(&scheduler) else { return };
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    let text = "sh -c 'trap : TERM; while :; do sleep 0.1; done' & echo $! > child; echo $$ > main; sleep 600";
    session.order(launch(1, inside(&image, text))).await;
    let work = node.config.state_dir.join("work/1.1.0");
    until("it runs", || work.join("main").is_file()).await;
    let pids = [pid_in(&work.join("main")).await, pid_in(&work.join("child")).await];
    assert!(pids.iter().all(|pid| lives(*pid)), "its processes are the node's: {pids:?}");
    session.order(stop(1, 300)).await;
    assert!(matches!(how(&session.gone().await), How::Signal(15 | 9)));
    assert!(!pids.iter().any(|pid| lives(*pid)), "the deaf child as well");
    agent.crash().await;
}

#[tokio::test]
async fn what_cannot_be_had_is_said_before_anything_starts() {
    let mut scheduler = Scheduler::start().await;
    let Some((mut node, image)) = node(&scheduler) else { return };
    node.config.containers.max_image_mib = 1;
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    let secret = node.dir.path().join("secret");
    fs::create_dir_all(secret.join("inner")).expect("makes it");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let why = |exit: How| match exit {
        How::LaunchFailure(why) => why,
        other => panic!("it ran: {other:?}"),
    };
    session.order(launch(1, inside(&node.dir.path().join("none"), "true"))).await;
    assert!(why(how(&session.gone().await)).contains("name one that every node has"));
    // A static busybox is larger than one MiB.
    session.order(launch(2, inside(&image, "true"))).await;
    let said = why(how(&session.gone().await));
    assert!(said.contains("at most 1 MiB"), "{said}");
    let small = node.dir.path().join("small");
    fs::create_dir_all(small.join("bin")).expect("makes it");
    let mut wanted = inside(&small, "true");
    let source = secret.join("inner").display().to_string();
    container(&mut wanted).mounts = vec![Mount { source, target: "/mnt".to_owned(), read_only: false }];
    session.order(launch(3, wanted)).await;
    let said = why(how(&session.gone().await));
    assert!(said.contains("its user must reach it"), "a mount gives nobody what he may not reach: {said}");
    agent.crash().await;
}

#[tokio::test]
async fn a_runtime_that_cannot_leave_cgroups_alone_is_refused_by_name() {
    let mut scheduler = Scheduler::start().await;
    let Some((mut node, image)) = node(&scheduler) else { return };
    let runtimes = ["/usr/sbin/runc", "/usr/bin/runc"].map(Path::new);
    let Some(runc) = runtimes.into_iter().find(|runtime| runtime.is_file()) else {
        eprintln!("skipped: this needs runc");
        return;
    };
    node.config.containers.runtime = runc.to_owned();
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    session.order(launch(1, inside(&image, "true"))).await;
    let end = how(&session.gone().await);
    let expected = format!("containers.runtime = {} is none: it says \"runc version", runc.display());
    assert!(matches!(&end, How::LaunchFailure(why) if why.contains(&expected)), "{end:?}");
    agent.crash().await;
}

#[tokio::test]
async fn an_image_is_here_before_its_member_says_that_it_is_prepared() {
    let mut scheduler = Scheduler::start().await;
    let Some((node, image)) = node(&scheduler) else { return };
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    let of_a_gang = |image: &Path| Launch { start_at_once: false, ..inside(image, "echo image=$(cat /etc/image)") };
    session.order(launch(1, of_a_gang(&image))).await;
    session.prepared().await;
    let images = fs::read_dir(node.config.state_dir.join("images")).expect("is there").flatten();
    assert_eq!(images.filter(|entry| entry.path().join("done").is_file()).count(), 1);
    // What is here needs its source no more.
    fs::write(image.join("etc/image"), "changed").expect("writes");
    session.order(order(1, 2, What::Go(of_a_gang(&image)))).await;
    assert_eq!(how(&session.gone().await), How::Code(0));
    let (out, _) = session.log(read(1, false)).await;
    assert_eq!(out, "image=small\n");
    session.order(launch(2, of_a_gang(Path::new("/nowhere/image")))).await;
    let end = how(&session.gone().await);
    assert!(matches!(&end, How::LaunchFailure(why) if why.contains("/nowhere/image")), "{end:?}");
    agent.crash().await;
}
