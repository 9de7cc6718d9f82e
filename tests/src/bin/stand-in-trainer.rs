//! Stands in for a training program: checks what it is told of its gang, meets the others at the master, counts steps,
//! saves them when it is asked to, and goes on where it was told to go on. `stand-in-trainer FOLDER`.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

/// How long the gang may take to meet.
const MEETING: Duration = Duration::from_secs(30);
/// Time of one step.
const STEP: Duration = Duration::from_millis(10);

fn var(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("{name} is not set"))
}

fn number(name: &str) -> anyhow::Result<u32> {
    var(name)?.parse().with_context(|| format!("{name} is no number"))
}

/// Everything that torchrun, JAX, MPI, Lightning, submitit and accelerate look for, and that it says the same thing.
fn check() -> anyhow::Result<(u32, u32)> {
    let (rank, size) = (number("RANK")?, number("WORLD_SIZE")?);
    for name in ["NODE_RANK", "SLURM_PROCID", "SLURM_NODEID", "PET_NODE_RANK", "JAX_PROCESS_ID", "DURE_MEMBER"] {
        ensure!(number(name)? == rank, "{name} is not {rank}");
    }
    for name in [
        "SLURM_NTASKS",
        "SLURM_NPROCS",
        "SLURM_NNODES",
        "SLURM_JOB_NUM_NODES",
        "SLURM_STEP_NUM_TASKS",
        "PET_NNODES",
        "SLURM_STEP_NUM_NODES",
        "JAX_NUM_PROCESSES",
        "DURE_MEMBERS",
    ] {
        ensure!(number(name)? == size, "{name} is not {size}");
    }
    let master = format!("{}:{}", var("MASTER_ADDR")?, var("MASTER_PORT")?);
    for name in ["PET_RDZV_ENDPOINT", "JAX_COORDINATOR_ADDRESS"] {
        ensure!(var(name)? == master, "{name} is not {master}");
    }
    ensure!(var("PET_RDZV_BACKEND")? == "c10d" && var("PET_RDZV_CONF")? == format!("is_host={}", rank == 0));
    ensure!(!var("PET_RDZV_ID")?.is_empty() && number("SLURM_LOCALID")? == 0 && number("LOCAL_RANK")? == 0);
    let gpus: Vec<String> = var("CUDA_VISIBLE_DEVICES")?.split(',').map(str::to_owned).collect();
    ensure!(
        number("PET_NPROC_PER_NODE")? as usize == gpus.len() && number("SLURM_GPUS_ON_NODE")? as usize == gpus.len()
    );
    for name in ["SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_STEP_NODELIST"] {
        ensure!(var(name)?.split(',').count() == size as usize, "{name} has not {size} nodes");
    }
    ensure!(var("SLURM_TASKS_PER_NODE")? == format!("1(x{size})"));
    for name in ["SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURMD_NODENAME", "SLURM_CPUS_PER_TASK"] {
        ensure!(!var(name)?.is_empty(), "{name} is empty");
    }
    let hosts = fs::read_to_string(var("DURE_HOSTFILE")?).context("the host file")?;
    let slots = format!("slots={}", gpus.len());
    ensure!(hosts.lines().count() == size as usize && hosts.lines().all(|line| line.ends_with(&slots)), "{hosts}");
    ensure!(var("OMPI_MCA_orte_default_hostfile")? == var("DURE_HOSTFILE")?);
    Ok((rank, size))
}

/// All members meet at the first one.
async fn meet(rank: u32, size: u32) -> anyhow::Result<()> {
    let master = format!("{}:{}", var("MASTER_ADDR")?, var("MASTER_PORT")?);
    if rank > 0 {
        let mut there = loop {
            match TcpStream::connect(&master).await {
                Ok(stream) => break stream,
                Err(_) => sleep(STEP).await,
            }
        };
        there.write_u32(rank).await?;
        ensure!(there.read_u32().await? == size, "the master counts another gang");
        return Ok(());
    }
    let listener = TcpListener::bind(&master).await.with_context(|| master.clone())?;
    let mut met = BTreeMap::new();
    while met.len() + 1 < size as usize {
        let (mut stream, _) = listener.accept().await?;
        let rank = stream.read_u32().await?;
        ensure!(met.insert(rank, stream).is_none(), "rank {rank} came twice");
    }
    for stream in met.values_mut() {
        stream.write_u32(size).await?;
    }
    Ok(())
}

fn save(folder: &Path, rank: u32, step: u64) -> anyhow::Result<()> {
    fs::write(folder.join(format!("checkpoint.{rank}")), step.to_string())?;
    if rank > 0 {
        return Ok(());
    }
    // The first member speaks for the gang.
    writeln!(OpenOptions::new().write(true).open(var("DURE_REPORT")?)?, "checkpoint {step}")?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(env::args().nth(1).context("expected a folder")?);
    let mut asked = signal(SignalKind::user_defined1())?;
    let (rank, size) = check()?;
    timeout(MEETING, meet(rank, size)).await.context("the gang did not meet")??;
    let mut step: u64 = env::var("DURE_RESUME_STEP").map_or(Ok(0), |step| step.parse())?;
    fs::write(folder.join(format!("begun.{}.{rank}", var("DURE_ATTEMPT")?)), step.to_string())?;
    while !folder.join("finish").exists() {
        tokio::select! {
            () = sleep(STEP) => step += 1,
            _ = asked.recv() => {
                save(&folder, rank, step)?;
                if rank > 0 {
                    return Ok(());
                }
            }
        }
    }
    println!("rank {rank} of {size} did {step} steps");
    Ok(())
}
