//! Members kept apart on a node as it is in production, seen by their user: what a job may not do fails and is told to
//! whoever submitted it, and a container is a job like any other. Needs root and cgroup controllers, crun and a static
//! busybox; where they are missing the tests say so.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use dure_agent::isolation::IsolationMode;
use dure_proto::v1::{Container, JobPhase, JobSpec};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::script;
use dure_tests::process::{self, lives};
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until_some;
use tempfile::TempDir;

/// A cluster of one node that confines its members; its agent's folder is one that every user can pass through.
struct Confined {
    cluster: Cluster,
    dir: TempDir,
}

impl Drop for Confined {
    fn drop(&mut self) {
        process::kill_all(self.dir.path());
    }
}

impl Confined {
    async fn start() -> Option<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("it is ours");
        let passable = |above: &Path| fs::metadata(above).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
        let has = |name: &str| Path::new("/sys/fs/cgroup").join(name).is_dir() || in_v2(name);
        let can = rustix::process::geteuid().is_root() && ["cpu", "memory", "pids"].into_iter().all(has);
        if !can || !dir.path().ancestors().all(passable) {
            eprintln!("skipped: this needs root, cgroup controllers, and a build folder that all can pass through");
            return None;
        }
        let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes: 1, ..Setup::default() });
        let agent = cluster.agent(0);
        agent.state_dir = dir.path().join("state");
        agent.isolation.mode = IsolationMode::Auto;
        agent.isolation.users = [("ana".to_owned(), "nobody".to_owned())].into();
        agent.isolation.pids = 64;
        agent.containers.runtime = "/usr/bin/crun".into();
        cluster.start_scheduler();
        cluster.serving().await;
        cluster.start_agents();
        cluster.ready().await;
        Some(Self { cluster, dir })
    }

    /// Runs a job to its end; its id and what `dure job` says of it.
    async fn told(&self, job: JobSpec) -> (u64, String) {
        let caller = self.cluster.caller(Who::Ana);
        let id = caller.submit(job).await;
        caller.ended(id).await;
        (id, self.cluster.dure(Who::Ana, &["job", &id.to_string()]).await.out)
    }

    async fn log(&self, id: u64) -> String {
        self.cluster.dure(Who::Ana, &["logs", &id.to_string()]).await.out
    }
}

fn in_v2(name: &str) -> bool {
    let text = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    text.split_whitespace().any(|controller| controller == name)
}

#[tokio::test]
async fn what_a_job_may_not_do_fails_and_its_user_is_told() {
    let Some(confined) = Confined::start().await else { return };
    // tail keeps all of its input in memory.
    let mut greedy = script("fusion", 1, 1, "head -c 300000000 /dev/zero | tail -c 300000000 > /dev/null; exit 7");
    greedy.shape.as_mut().expect("it has one").memory_mib_per_member = 64;
    let (_, said) = confined.told(greedy).await;
    assert!(said.contains("out of memory") && said.contains("they wanted more than 64 MiB of memory"), "{said}");

    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 0.3; exit 0";
    let (_, said) = confined.told(script("fusion", 1, 1, bomb)).await;
    assert!(said.contains("new processes or threads: it may have 64 at once"), "{said}");

    // Forked twice, in a session of its own, deaf, without a word of its parents in its environment.
    let hidden = "(setsid env -i /bin/sh -c 'trap \"\" TERM HUP; (echo $$ > hidden; while :; do sleep 0.01; done) &' &)
        while ! test -s hidden; do sleep 0.01; done; cat hidden";
    let (id, said) = confined.told(script("fusion", 1, 1, hidden)).await;
    assert!(said.contains("it had left behind w"), "{said}");
    let pid: u32 = confined.log(id).await.trim().parse().expect("its number");
    assert!(!lives(pid), "it is gone before its GPUs are free");

    let (_, said) = confined.told(JobSpec { name: "of-bo".to_owned(), ..script("fusion", 1, 1, "true") }).await;
    assert!(said.contains("completed") && !said.contains("left behind"), "{said}");
}

#[tokio::test]
async fn the_gpu_of_another_job_cannot_be_written_and_an_unknown_user_runs_nothing() {
    let Some(confined) = Confined::start().await else { return };
    let dir = confined.dir.path().join("dev");
    fs::create_dir(&dir).expect("makes it");
    for minor in 0..8 {
        let (mode, device) = (rustix::fs::Mode::from_raw_mode(0o666), rustix::fs::makedev(195, minor));
        let path = dir.join(format!("nvidia{minor}"));
        if rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, device).is_err() {
            return eprintln!("skipped: this user may make no device files here");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    }
    // No driver is here: a device that may be opened is "No such device", one that may not is "not permitted".
    let text = format!("for gpu in 0 1 2 3 4 5 6 7; do (echo x > {}/nvidia$gpu) 2>&1; done; exit 3", dir.display());
    let (id, said) = confined.told(script("fusion", 1, 2, &text)).await;
    assert!(said.contains("exit code 3"), "{said}");
    let log = confined.log(id).await;
    assert_eq!(log.matches("Operation not permitted").count(), 6, "two of eight are its own: {log}");

    let caller = confined.cluster.caller(Who::Bo);
    let id = caller.submit(script("fusion", 1, 1, "id -u")).await;
    let why = "cannot run here as account \"bo\": there is no such account";
    caller.job_is(id, "says why it cannot run", |job| format!("{job:?}").contains(&why.replace('"', "\\\""))).await;
}

/// A root file system of one program.
fn image(dir: &Path) -> Option<PathBuf> {
    if !Path::new("/usr/bin/crun").is_file() || !Path::new("/bin/busybox").is_file() {
        eprintln!("skipped: this needs /usr/bin/crun and a static /bin/busybox");
        return None;
    }
    let root = dir.join("image");
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp"] {
        fs::create_dir_all(root.join(name)).expect("makes it");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copies");
    for name in ["sh", "id", "cat", "sleep", "test"] {
        symlink("busybox", root.join("bin").join(name)).expect("links");
    }
    fs::write(root.join("etc/image"), "small").expect("writes");
    Some(root)
}

#[tokio::test]
async fn a_container_runs_takes_programs_beside_it_and_is_ended_whole() {
    let Some(confined) = Confined::start().await else { return };
    let Some(image) = image(confined.dir.path()) else { return };
    let caller = confined.cluster.caller(Who::Ana);
    let mut job =
        script("fusion", 2, 2, "cat /etc/image; echo \" of $RANK/$WORLD_SIZE as $(id -u)\"; sleep 1000 & wait");
    let container = Container { image: image.display().to_string(), ..Container::default() };
    job.payload.as_mut().expect("it has one").container = Some(container);
    let id = caller.submit(job).await;
    caller.phase(id, JobPhase::Running).await;
    let shown = id.to_string();
    let log = until_some("member 1 has spoken", || async {
        let said = confined.cluster.dure(Who::Ana, &["logs", &shown, "--member", "1"]).await.out;
        (!said.is_empty()).then_some(said)
    });
    assert_eq!(log.await, "small of 1/2 as 65534\n");
    let beside =
        ["exec", &shown, "--member", "1", "--", "/bin/sh", "-c", "cat /etc/image; echo $RANK; echo $DURE_JOB_ID"];
    let said = confined.cluster.dure(Who::Ana, &beside).await;
    assert_eq!((said.code, said.out), (0, format!("small1\n{id}\n")), "{}", said.err);
    let said = confined.cluster.dure(Who::Ana, &["cancel", &shown]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(caller.ended(id).await.phase(), JobPhase::Cancelled);
    let left = process::naming(&confined.dir.path().join("state/members"));
    assert!(left.is_empty(), "left over: {left:?}");
}
