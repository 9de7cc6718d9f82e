//! What a cluster under test is like: nodes, GPUs, configuration, and who may speak to it.

use std::collections::BTreeMap;
use std::path::Path;

use dure_scheduler::auth::token::{self, TokenEntry};

/// The GPU model of every node.
pub const MODEL: &str = "NVIDIA H200";

/// The missions: 28 of 32 GPUs between them.
pub const TENANTS: &str = "
[[pool]]
name = \"h200\"
model = \"NVIDIA H200\"
gpus_per_node = 8
[[tenant]]
name = \"fusion\"
quota = 12
[[tenant]]
name = \"solar\"
quota = 8
[[tenant]]
name = \"space\"
quota = 8
";

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Nodes, named n0, n1, ...
    pub nodes: u32,
    /// GPUs of each.
    pub gpus: u32,
    /// What each node's fake NVML shows beside its GPUs, a statement a line.
    pub fake: &'static str,
    /// `[liveness]` of the scheduler.
    pub liveness: &'static str,
    /// `[policy]` of the scheduler.
    pub policy: &'static str,
    /// `[[pool]]` and `[[tenant]]` of the scheduler.
    pub tenants: &'static str,
    /// Further sections of the scheduler's file.
    pub more: &'static str,
    /// Speak TLS; nodes then join by one-time tokens.
    pub tls: bool,
    /// The scheduler's address; one of its own on loopback when absent.
    pub address: Option<String>,
    /// Where the scheduler keeps its journal; in the cluster's folder when absent.
    pub data_dir: Option<std::path::PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 4,
            gpus: 8,
            fake: "",
            liveness: "heartbeat = \"200ms\"\nsuspect_after = \"20s\"\nlost_after = \"60s\"",
            policy: "default_grace = \"2s\"\nbackoff = \"100ms\"\nreclaim_patience = \"0s\"",
            tenants: TENANTS,
            more: "",
            tls: false,
            address: None,
            data_dir: None,
        }
    }
}

/// Somebody with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// An operator.
    Op,
    /// A member of fusion and solar.
    Ana,
    /// Another member of fusion.
    Bo,
    /// Who only looks.
    Auditor,
    /// All agents, over plaintext.
    Agents,
}

impl Who {
    const ALL: [Who; 5] = [Who::Op, Who::Ana, Who::Bo, Who::Auditor, Who::Agents];

    fn entry(self, sha256: String) -> TokenEntry {
        let (user, role, missions, node): (_, _, &[&str], _) = match self {
            Who::Op => ("op", "operator", &[], None),
            Who::Ana => ("ana", "member", &["fusion", "solar"], None),
            Who::Bo => ("bo", "member", &["fusion"], None),
            Who::Auditor => ("aud", "auditor", &[], None),
            Who::Agents => ("agents", "agent", &[], Some("n*".to_owned())),
        };
        let missions = missions.iter().map(|name| (*name).to_owned()).collect();
        TokenEntry { sha256, user: user.into(), role: role.into(), missions, node, expires: None, one_time: false }
    }
}

/// Makes the token file and gives the secrets.
///
/// # Panics
/// When the folder cannot be written.
pub fn tokens(path: &Path) -> BTreeMap<Who, String> {
    let mut text = String::new();
    let mut secrets = BTreeMap::new();
    for who in Who::ALL {
        let created = token::create().expect("there are random bytes");
        text += &who.entry(created.digest.to_string()).to_toml().expect("a good entry");
        text.push('\n');
        secrets.insert(who, created.token);
    }
    std::fs::write(path, text).expect("the token file is written");
    secrets
}

/// A one-time token for the nodes that `node` names, added to the file.
///
/// # Panics
/// When the file cannot be written.
pub fn join_token(path: &Path, node: &str) -> String {
    let created = token::create().expect("there are random bytes");
    let mut entry = Who::Agents.entry(created.digest.to_string());
    (entry.node, entry.one_time) = (Some(node.to_owned()), true);
    let old = std::fs::read_to_string(path).expect("the token file is there");
    let new = format!("{old}\n{}", entry.to_toml().expect("a good entry"));
    std::fs::write(path, new).expect("the token file is written");
    created.token
}

/// The scheduler's file.
pub fn scheduler_toml(setup: &Setup, address: &str, data_dir: &Path) -> String {
    let tls = if setup.tls { "[tls]\n" } else { "" };
    format!(
        "listen = \"{address}:7070\"\nmetrics_listen = \"{address}:7071\"\ndata_dir = \"{}\"\ntokens = \"tokens.toml\"\n\
         {tls}[liveness]\n{}\n[policy]\n{}\n{}\n{}",
        data_dir.display(),
        setup.liveness,
        setup.policy,
        setup.more,
        setup.tenants,
    )
}
