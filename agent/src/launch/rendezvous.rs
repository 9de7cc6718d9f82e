//! How the members of a gang find each other: the names that torchrun, JAX, MPI, NCCL and the users of Slurm's names read.
//!
//! Comes in: the place of a member in its gang. Goes out: variables that hold for it, hints that its user may overrule, and
//! the host file. Pure. Sources: the frameworks' own documentation of what they read from the environment (torchrun takes
//! every option as `PET_<OPTION>`; JAX's and submitit's Slurm detection; Open MPI's and Hydra's default host files).

use crate::launch::env::{Place, master_port};

/// What the site knows about its networks; empty: the library finds out itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Interfaces for NCCL's and Gloo's sockets, as in NCCL_SOCKET_IFNAME: `eth0` or `=ib0,ib1`.
    pub socket_ifname: String,
    /// InfiniBand adapters for NCCL, as in NCCL_IB_HCA.
    pub ib_hca: String,
    /// Topology of the node for NCCL, as in NCCL_TOPO_FILE.
    pub nccl_topo_file: String,
}

/// The address of the first member.
pub(super) fn master<'a>(place: &Place<'a>) -> &'a str {
    let first = place.launch.peers.first();
    first.map_or("127.0.0.1", |peer| if peer.address.is_empty() { peer.node.as_str() } else { peer.address.as_str() })
}

/// Variables of the frameworks.
pub(super) fn frameworks(place: &Place<'_>, set: &mut impl FnMut(&str, String)) {
    let size = place.launch.peers.len().max(1);
    let rank = place.id.member;
    let (host, port) = (master(place), master_port(place.id));
    let gpus = place.launch.gpus.len().max(1);
    // A member is one torchrun agent; it starts a worker for each of its GPUs.
    set("PET_NNODES", size.to_string());
    set("PET_NODE_RANK", rank.to_string());
    set("PET_NPROC_PER_NODE", gpus.to_string());
    set("PET_RDZV_BACKEND", "c10d".to_owned());
    set("PET_RDZV_ENDPOINT", format!("{host}:{port}"));
    set("PET_RDZV_ID", format!("dure-{}-{}", place.id.job, place.id.attempt));
    // Told rather than guessed: names and addresses of a node may differ.
    set("PET_RDZV_CONF", format!("is_host={}", rank == 0));
    set("JAX_COORDINATOR_ADDRESS", format!("{host}:{port}"));
    set("JAX_NUM_PROCESSES", size.to_string());
    set("JAX_PROCESS_ID", rank.to_string());
}

/// Variables that MPI's launchers read.
pub(super) fn mpi(place: &Place<'_>, set: &mut impl FnMut(&str, String)) {
    let file = place.hostfile.display().to_string();
    for name in [
        "DURE_HOSTFILE",
        "OMPI_MCA_orte_default_hostfile",
        "PRTE_MCA_prte_default_hostfile",
        "HYDRA_HOST_FILE",
        "I_MPI_HYDRA_HOST_FILE",
    ] {
        set(name, file.clone());
    }
    // The nodes are in the file; there is no Slurm to ask for them.
    for name in ["OMPI_MCA_ras", "OMPI_MCA_plm", "PRTE_MCA_ras", "PRTE_MCA_plm"] {
        set(name, "^slurm".to_owned());
    }
    if place.launch.payload.as_ref().is_some_and(|payload| payload.batch) {
        // Where the script runs once, mpirun reaches the other nodes as steps do, and needs no ssh.
        let rsh = place.bin.join("dure-rsh").display().to_string();
        for name in [
            "OMPI_MCA_plm_rsh_agent",
            "PRTE_MCA_plm_ssh_agent",
            "HYDRA_LAUNCHER_EXEC",
            "HYDRA_BOOTSTRAP_EXEC",
            "I_MPI_HYDRA_BOOTSTRAP_EXEC",
        ] {
            set(name, rsh.clone());
        }
        for name in ["HYDRA_LAUNCHER", "HYDRA_BOOTSTRAP", "I_MPI_HYDRA_BOOTSTRAP"] {
            set(name, "ssh".to_owned());
        }
    }
}

/// What a user may know better.
pub(super) fn hints(network: &Network, set: &mut impl FnMut(&str, String)) {
    let sockets = [("NCCL_SOCKET_IFNAME", &network.socket_ifname), ("GLOO_SOCKET_IFNAME", &network.socket_ifname)];
    let rest = [("NCCL_IB_HCA", &network.ib_hca), ("NCCL_TOPO_FILE", &network.nccl_topo_file)];
    for (name, value) in sockets.into_iter().chain(rest).filter(|(_, value)| !value.is_empty()) {
        set(name, value.clone());
    }
}

/// One line per member: its address and a slot for each GPU, at least one.
pub(super) fn hostfile(place: &Place<'_>) -> String {
    let peers = place.launch.peers.iter();
    let line = |peer: &dure_proto::v1::Peer| {
        let host = if peer.address.is_empty() { &peer.node } else { &peer.address };
        format!("{host} slots={}\n", peer.gpus.max(1))
    };
    peers.map(line).collect()
}

/// `4` for four nodes with one task each becomes `1(x4)`, as Slurm writes it.
pub(super) fn per_node(tasks: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &count in tasks {
        match runs.last_mut() {
            Some((same, times)) if *same == count => *times += 1,
            _ => runs.push((count, 1)),
        }
    }
    let show = |(count, times): &(u32, u32)| if *times == 1 { count.to_string() } else { format!("{count}(x{times})") };
    runs.iter().map(show).collect::<Vec<_>>().join(",")
}
