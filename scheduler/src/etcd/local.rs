//! Members of etcd on this machine, for tests and benches: real processes, killed, paused and started again at will.
//!
//! In: the `etcd` of PATH and a folder. Out: a cluster on free loopback ports, gone with its last handle.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Etcd, EtcdConfig, Patience, keys::Range};

/// How long a cluster may take to have a leader.
const START: Duration = Duration::from_secs(30);

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Install it: Debian has it as etcd-server.
    #[error("etcd is not installed: apt-get install etcd-server etcd-client")]
    NotInstalled,
    /// The system does not serve.
    #[error("etcd on this machine: {0}")]
    Io(#[from] std::io::Error),
    /// It does not come up; its logs lie in its folder.
    #[error("etcd on this machine does not answer: {0}")]
    Silent(String),
}

#[derive(Debug)]
struct Member {
    args: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

/// A cluster of etcd on loopback.
#[derive(Debug)]
pub struct LocalEtcd {
    endpoints: Vec<String>,
    members: Mutex<Vec<Member>>,
}

impl LocalEtcd {
    /// Starts so many members in `dir` and waits until they have a leader.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn start(dir: &Path, members: usize) -> Result<Self, LocalError> {
        Self::start_on("127.0.0.1", dir, members)
    }

    /// The same on another address of this machine.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn start_on(address: &str, dir: &Path, members: usize) -> Result<Self, LocalError> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Err(LocalError::NotInstalled);
        }
        let ports = free_ports(address, 2 * members)?;
        let client = |at: usize| format!("http://{address}:{}", ports[2 * at]);
        let peer = |at: usize| format!("http://{address}:{}", ports[2 * at + 1]);
        let all = (0..members).map(|at| format!("m{at}={}", peer(at))).collect::<Vec<_>>().join(",");
        let member = |at: usize| {
            let data = dir.join(format!("m{at}"));
            let args = [
                ("name", format!("m{at}")),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", client(at)),
                ("advertise-client-urls", client(at)),
                ("listen-peer-urls", peer(at)),
                ("initial-advertise-peer-urls", peer(at)),
                ("initial-cluster", all.clone()),
                ("initial-cluster-state", "new".to_owned()),
                ("logger", "zap".to_owned()),
            ];
            let args = args.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
            Member { args, log: dir.join(format!("m{at}.log")), process: None }
        };
        let cluster = Self {
            endpoints: (0..members).map(client).collect(),
            members: Mutex::new((0..members).map(member).collect()),
        };
        for at in 0..members {
            cluster.restart(at)?;
        }
        cluster.await_leader()?;
        Ok(cluster)
    }

    /// Addresses for clients.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// A way to it, with keys under `prefix`.
    ///
    /// # Errors
    /// [`LocalError::Silent`] when the system gives no thread.
    pub fn client(&self, prefix: &str) -> Result<Etcd, LocalError> {
        let (endpoints, prefix) = (self.endpoints.clone(), prefix.to_owned());
        let config = EtcdConfig { endpoints, prefix, ca: None, identity: None };
        Etcd::new(config).map_err(|err| LocalError::Silent(err.to_string()))
    }

    fn await_leader(&self) -> Result<(), LocalError> {
        let etcd = self.client("/probe")?;
        let asking = etcd.clone();
        let probe = async move { asking.range(Range::one(b"/probe".to_vec()), 1, true, Patience::of(START)).await };
        etcd.block(probe).map(drop).map_err(|err| LocalError::Silent(err.to_string()))
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// kill -9 of a member.
    pub fn kill(&self, at: usize) {
        if let Some(mut process) = self.members()[at].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a member on its old data.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&self, at: usize) -> Result<(), LocalError> {
        let member = &mut self.members()[at];
        let log = File::options().create(true).append(true).open(&member.log)?;
        let mut command = Command::new("etcd");
        command.args(&member.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        member.process = Some(command.spawn()?);
        Ok(())
    }

    /// Stops a member without ending it: it keeps its connections and answers nothing.
    pub fn pause(&self, at: usize) {
        self.signal(at, Signal::STOP);
    }

    /// Lets a paused member go on.
    pub fn resume(&self, at: usize) {
        self.signal(at, Signal::CONT);
    }

    fn signal(&self, at: usize, signal: Signal) {
        let pid = self.members()[at].process.as_ref().and_then(|process| Pid::from_raw(process.id().cast_signed()));
        if let Some(pid) = pid {
            // A member that has ended by itself is seen by whoever asks it.
            let _ = kill_process(pid, signal);
        }
    }

    /// The member that leads, as it says itself; none while there is none.
    pub fn leader(&self) -> Option<usize> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            for (at, endpoint) in self.endpoints.iter().enumerate() {
                let status = Command::new("etcdctl")
                    .args(["--endpoints", endpoint, "--command-timeout=1s", "endpoint", "status", "-w", "fields"])
                    .env("ETCDCTL_API", "3")
                    .output();
                let text =
                    status.map(|status| String::from_utf8_lossy(&status.stdout).into_owned()).unwrap_or_default();
                let field = |name: &str| {
                    text.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")).map(str::to_owned))
                };
                if field("Leader").is_some_and(|leader| Some(leader) == field("MemberID")) {
                    return Some(at);
                }
            }
        }
        None
    }
}

impl Drop for LocalEtcd {
    fn drop(&mut self) {
        for at in 0..self.endpoints.len() {
            self.kill(at);
        }
    }
}

/// Ports that were free a moment ago.
fn free_ports(address: &str, count: usize) -> std::io::Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind((address, 0))).collect::<std::io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
