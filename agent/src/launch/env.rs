//! The environment of a member: which GPUs it sees, who it is in its gang, and the names batch scripts know.
//!
//! Comes in: the launch and where it happens. Goes out: names and values, sorted. Pure.
//! What the scheduler granted wins over what the user set: a job cannot give itself another job's GPUs by a variable.

use std::{collections::BTreeMap, path::Path};

use super::rendezvous::{self, Network};
use crate::{
    isolation::account::Account,
    model::{Launch, MemberId},
    shim::proc::MARK,
};

/// Variables of the agent's own environment that members inherit; everything else of it stays here.
pub const INHERITED: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "LD_LIBRARY_PATH"];
/// The rendezvous ports of gangs: `FIRST_PORT` up to and without `FIRST_PORT + PORTS`.
pub const FIRST_PORT: u16 = 20_000;
/// How many rendezvous ports there are.
pub const PORTS: u16 = 10_000;

/// Where and as whom a member runs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The member.
    pub id: MemberId,
    /// What was ordered.
    pub launch: &'a Launch,
    /// This node's name.
    pub node: &'a str,
    /// UUIDs of the granted GPUs, in the order of `launch.gpus`.
    pub gpu_uuids: &'a [String],
    /// Memory of the first of them, in MiB; 0: not known.
    pub gpu_memory_mib: u64,
    /// The member's folder: its mark.
    pub member_dir: &'a Path,
    /// The folder it runs in.
    pub workdir: &'a Path,
    /// The pipe for its reports.
    pub report: &'a Path,
    /// The host file of its gang.
    pub hostfile: &'a Path,
    /// The folder of the programs that stand in for Slurm's.
    pub bin: &'a Path,
    /// Where the node's agent takes steps of batch scripts.
    pub steps: &'a Path,
    /// What the site knows about its networks.
    pub network: &'a Network,
    /// The account it runs as; none: the agent's own.
    pub(crate) account: Option<&'a Account>,
    /// The agent's own environment, from which `INHERITED` is taken.
    pub inherited: &'a [(String, String)],
}

/// The port at which the first member of a gang is met: the same on every node, and another one for the next attempt.
pub fn master_port(id: MemberId) -> u16 {
    // Fibonacci hashing: neighbouring jobs must not share a port, and a port must need no agreement.
    let mixed = (id.job.wrapping_mul(31).wrapping_add(u64::from(id.attempt))).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    FIRST_PORT + u16::try_from(mixed % u64::from(PORTS)).expect("less than PORTS")
}

/// All variables of a member.
pub fn environment(place: &Place<'_>) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = place.inherited.iter().cloned().collect();
    rendezvous::hints(place.network, &mut |name, value| drop(env.insert(name.to_owned(), value)));
    if let Some(payload) = &place.launch.payload {
        env.extend(payload.env.clone());
    }
    if let Some(account) = place.account {
        let home = account.home.display().to_string();
        let own = [("HOME", &home), ("USER", &account.name), ("LOGNAME", &account.name), ("SHELL", &account.shell)];
        env.extend(own.map(|(name, value)| (name.to_owned(), value.clone())));
    }
    let path = env.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    env.insert("PATH".to_owned(), format!("{}:{path}", place.bin.display()));
    let mut set = |name: &str, value: String| {
        env.insert(name.to_owned(), value);
    };
    gpus(place, &mut set);
    ranks(place, &mut set);
    rendezvous::frameworks(place, &mut set);
    rendezvous::mpi(place, &mut set);
    names(place, &mut set);
    array(place, &mut set);
    env
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn gpus(place: &Place<'_>, set: &mut impl FnMut(&str, String)) {
    let uuids = place.gpu_uuids.join(",");
    set("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned());
    set("CUDA_VISIBLE_DEVICES", uuids.clone());
    // Container runtimes read an empty list as "all" when it is absent; "void" is their word for none.
    set("NVIDIA_VISIBLE_DEVICES", if uuids.is_empty() { "void".to_owned() } else { uuids });
    if let Some(mig) = &place.launch.mig {
        // The hardware keeps to the instance by itself.
        set("DURE_GPU_MIG", mig.profile.clone());
    } else if place.launch.gpu_milli > 0 {
        // A client of CUDA's multi-process service keeps to its share of the processors, and gets its share of the memory
        // at most; without the service the share is a promise.
        set("DURE_GPU_MILLI", place.launch.gpu_milli.to_string());
        set("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", place.launch.gpu_milli.div_ceil(10).to_string());
        let memory_mib = place.gpu_memory_mib * u64::from(place.launch.gpu_milli) / 1_000;
        if memory_mib > 0 {
            // Device 0 is the first, and only, that it sees.
            set("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", format!("0={memory_mib}M"));
        }
    }
    set("DURE_GPUS", list(&place.launch.gpus));
    set("SLURM_JOB_GPUS", list(&place.launch.gpus));
    set("SLURM_GPUS_ON_NODE", place.launch.gpus.len().to_string());
}

/// Nodes of the gang, each once, in rank order.
fn nodes<'a>(place: &Place<'a>) -> Vec<&'a str> {
    let mut nodes: Vec<&str> = Vec::new();
    for peer in &place.launch.peers {
        if !nodes.contains(&peer.node.as_str()) {
            nodes.push(&peer.node);
        }
    }
    if nodes.is_empty() { vec![place.node] } else { nodes }
}

fn ranks(place: &Place<'_>, set: &mut impl FnMut(&str, String)) {
    let peers = &place.launch.peers;
    let nodes = nodes(place);
    let size = peers.len().max(1).to_string();
    let rank = place.id.member.to_string();
    let node_rank = nodes.iter().position(|node| *node == place.node).unwrap_or(0).to_string();
    // One process per member, and each sees only its own GPUs: it is the first and only one of its kind here.
    for (name, value) in [("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"), ("SLURM_LOCALID", "0")] {
        set(name, value.to_owned());
    }
    for name in ["RANK", "SLURM_PROCID", "DURE_MEMBER"] {
        set(name, rank.clone());
    }
    for name in ["WORLD_SIZE", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS"] {
        set(name, size.clone());
    }
    for name in ["NODE_RANK", "SLURM_NODEID"] {
        set(name, node_rank.clone());
    }
    set("DURE_MEMBERS", size.clone());
    set("MASTER_ADDR", rendezvous::master(place).to_owned());
    set("MASTER_PORT", master_port(place.id).to_string());
    let on = |node: &str| u32::try_from(peers.iter().filter(|peer| peer.node == node).count().max(1)).unwrap_or(1);
    let tasks: Vec<u32> = nodes.iter().map(|node| on(node)).collect();
    for name in ["SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"] {
        set(name, rendezvous::per_node(&tasks));
    }
    set("SLURM_STEP_ID", "0".to_owned());
    set("SLURM_STEPID", "0".to_owned());
    for name in ["DURE_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST", "SLURM_STEP_NODELIST"] {
        set(name, nodes.join(","));
    }
    for name in ["SLURM_NNODES", "SLURM_JOB_NUM_NODES", "SLURM_STEP_NUM_NODES"] {
        set(name, nodes.len().to_string());
    }
}

fn names(place: &Place<'_>, set: &mut impl FnMut(&str, String)) {
    let Place { id, launch, .. } = place;
    for name in ["DURE_JOB_ID", "SLURM_JOB_ID", "SLURM_JOBID"] {
        set(name, id.job.to_string());
    }
    for name in ["DURE_JOB_NAME", "SLURM_JOB_NAME"] {
        set(name, launch.job_name.clone());
    }
    set("DURE_ATTEMPT", id.attempt.to_string());
    set("DURE_TENANT", launch.tenant.clone());
    set("DURE_NODE", place.node.to_owned());
    set("SLURM_JOB_ACCOUNT", launch.tenant.clone());
    set("SLURM_JOB_USER", launch.user.clone());
    set("SLURMD_NODENAME", place.node.to_owned());
    set("SLURM_RESTART_COUNT", launch.restarts.to_string());
    set("SLURM_SUBMIT_DIR", place.workdir.display().to_string());
    let cpus = launch.cpu_milli.div_ceil(1_000).max(1).to_string();
    for name in ["SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SLURM_JOB_CPUS_PER_NODE"] {
        set(name, cpus.clone());
    }
    set("SLURM_CLUSTER_NAME", "dure".to_owned());
    set("SLURM_GPUS", launch.peers.iter().map(|peer| peer.gpus).sum::<u32>().max(1).to_string());
    set("SLURM_MEM_PER_NODE", launch.memory_mib.to_string());
    set("DURE_REPORT", place.report.display().to_string());
    if let Some(step) = launch.resume_step {
        set("DURE_RESUME_STEP", step.to_string());
    }
    set("DURE_STEPS", place.steps.display().to_string());
    if launch.payload.as_ref().is_some_and(|payload| payload.batch) {
        set("DURE_BATCH", "1".to_owned());
    }
    set(MARK, place.member_dir.display().to_string());
}

fn array(place: &Place<'_>, set: &mut impl FnMut(&str, String)) {
    let Some(index) = place.launch.array_index else { return };
    let size = place.launch.array_size.max(1);
    set("SLURM_ARRAY_JOB_ID", place.launch.array_job_id.to_string());
    set("SLURM_ARRAY_TASK_COUNT", size.to_string());
    set("SLURM_ARRAY_TASK_MIN", "0".to_owned());
    set("SLURM_ARRAY_TASK_MAX", (size - 1).to_string());
    for name in ["SLURM_ARRAY_TASK_ID", "DURE_ARRAY_INDEX"] {
        set(name, index.to_string());
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::v1::{Payload, Peer};
    use expect_test::{ExpectFile, expect_file};

    use super::*;

    /// What a member of node n1 finds.
    fn found(id: MemberId, launch: &Launch, uuids: &[&str]) -> BTreeMap<String, String> {
        let gpu_uuids: Vec<String> = uuids.iter().map(|uuid| (*uuid).to_owned()).collect();
        environment(&Place {
            id,
            launch,
            node: "n1",
            gpu_uuids: &gpu_uuids,
            gpu_memory_mib: 81_559,
            member_dir: Path::new("/state/members/m"),
            workdir: Path::new("/work"),
            report: Path::new("/run/report"),
            hostfile: Path::new("/run/hostfile"),
            bin: Path::new("/run/bin"),
            steps: Path::new("/run/steps.sock"),
            network: &Network { socket_ifname: "ib0".to_owned(), ..Network::default() },
            account: None,
            inherited: &[("PATH".to_owned(), "/bin".to_owned())],
        })
    }

    fn check(id: MemberId, launch: &Launch, uuids: &[&str], expected: ExpectFile) {
        let env = found(id, launch, uuids);
        let lines: String = env.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        expected.assert_eq(&lines);
    }

    fn peer(node: &str) -> Peer {
        Peer { node: node.to_owned(), address: format!("{node}.cluster"), gpus: 2 }
    }

    #[test]
    fn second_member_of_a_gang_on_two_nodes() {
        let env = [("CUDA_VISIBLE_DEVICES", "all of them"), ("LR", "0.1")];
        let launch = Launch {
            payload: Some(Payload {
                env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                ..Payload::default()
            }),
            gpus: vec![4, 6],
            peers: vec![peer("n0"), peer("n0"), peer("n1")],
            job_name: "train".to_owned(),
            restarts: 1,
            tenant: "fusion/edge".to_owned(),
            user: "kim".to_owned(),
            cpu_milli: 1_500,
            memory_mib: 2_048,
            ..Launch::default()
        };
        check(
            MemberId { job: 17, attempt: 2, member: 2 },
            &launch,
            &["GPU-a", "GPU-b"],
            expect_file!["env/second-member.txt"],
        );
    }

    #[test]
    fn an_array_index_without_gpus_sees_none() {
        let launch = Launch { array_job_id: 40, array_index: Some(3), array_size: 10, ..Launch::default() };
        let env = found(MemberId { job: 43, attempt: 1, member: 0 }, &launch, &[]);
        let got = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(got("CUDA_VISIBLE_DEVICES"), Some(""));
        assert_eq!(got("NVIDIA_VISIBLE_DEVICES"), Some("void"));
        assert_eq!(got("SLURM_ARRAY_JOB_ID"), Some("40"));
        assert_eq!(got("SLURM_ARRAY_TASK_ID"), Some("3"));
        assert_eq!(got("SLURM_ARRAY_TASK_COUNT"), Some("10"));
        assert_eq!((got("RANK"), got("WORLD_SIZE"), got("MASTER_ADDR")), (Some("0"), Some("1"), Some("127.0.0.1")));
    }

    #[test]
    fn a_share_bounds_processors_and_memory() {
        let launch = Launch { gpus: vec![1], gpu_milli: 250, ..Launch::default() };
        let env = found(MemberId { job: 1, attempt: 1, member: 0 }, &launch, &["GPU-b"]);
        let got = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(got("CUDA_VISIBLE_DEVICES"), Some("GPU-b"));
        assert_eq!((got("DURE_GPU_MILLI"), got("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")), (Some("250"), Some("25")));
        assert_eq!(got("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), Some("0=20389M"));
    }

    #[test]
    fn a_mig_instance_needs_no_bounds() {
        let mig = Some(dure_proto::v1::MigSlice { profile: "3g.40gb".to_owned(), first_slice: 4 });
        let launch = Launch { gpus: vec![1], gpu_milli: 500, mig, ..Launch::default() };
        let env = found(MemberId { job: 1, attempt: 1, member: 0 }, &launch, &["MIG-b"]);
        let got = |name: &str| env.get(name).map(String::as_str);
        assert_eq!((got("CUDA_VISIBLE_DEVICES"), got("DURE_GPU_MIG")), (Some("MIG-b"), Some("3g.40gb")));
        assert_eq!((got("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), got("DURE_GPU_MILLI")), (None, None));
    }

    #[test]
    fn ports_lie_in_their_range_and_change_with_the_attempt() {
        let port = |job, attempt| master_port(MemberId { job, attempt, member: 0 });
        for job in 0..5_000 {
            assert!((FIRST_PORT..FIRST_PORT + PORTS).contains(&port(job, 1)));
        }
        assert_ne!(port(7, 1), port(7, 2));
        assert_eq!(master_port(MemberId { job: 7, attempt: 1, member: 5 }), port(7, 1), "one port per gang");
    }
}
