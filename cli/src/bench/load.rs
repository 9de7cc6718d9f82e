//! Clusters and jobs for the benches that go over gRPC.

use std::{net::SocketAddr, path::Path};

use dure_proto::v1::{JobSpec, Payload, Shape, SubmitRequest};

use crate::{
    dev::{
        MODEL,
        cluster::{Cluster, Launcher, Spec},
    },
    failure::Failure,
    submit::request_id,
};

/// The mission of all jobs.
pub(super) const MISSION: &str = "bench";
/// Their user.
pub(super) const USER: &str = "bench";
/// GPUs of a node.
pub(super) const GPUS: u32 = 8;

/// Starts a cluster of simulated nodes, all for one mission, and waits until all have joined.
pub(super) async fn cluster(dir: &Path, nodes: u32, tls: bool) -> Result<Cluster, Failure> {
    cluster_of(dir, nodes, tls, &[(MISSION.to_owned(), nodes * GPUS)]).await
}

/// The same, for missions with these quotas.
pub(super) async fn cluster_of(
    dir: &Path,
    nodes: u32,
    tls: bool,
    missions: &[(String, u32)],
) -> Result<Cluster, Failure> {
    let mut config =
        format!("data_dir = \".\"\n[[pool]]\nname = \"pool\"\nmodel = \"{MODEL}\"\ngpus_per_node = {GPUS}\n");
    for (mission, quota) in missions {
        config.push_str(&format!("[[tenant]]\nname = \"{mission}\"\nquota = {quota}\n"));
    }
    let spec = Spec {
        config,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: dir.to_owned(),
        nodes,
        gpus: GPUS,
        launcher: Launcher::Simulated,
        isolated: false,
        users: missions.iter().map(|(mission, _)| (mission.clone(), USER.to_owned())).collect(),
        tls,
    };
    let cluster = Cluster::start(spec).await?;
    match cluster.ready().await {
        Ok(()) => Ok(cluster),
        Err(failure) => {
            cluster.stop().await?;
            Err(failure)
        }
    }
}

/// A job of so many GPUs on one node that runs for so long.
pub(super) fn job(gpus: u32, run_ms: u64) -> JobSpec {
    JobSpec {
        tenant: MISSION.to_owned(),
        name: "bench".to_owned(),
        shape: Some(Shape { members: 1, gpus_per_member: gpus, ..Shape::default() }),
        payload: Some(Payload {
            args: vec!["simulated".to_owned()],
            env: [("DURE_SIM_DURATION_MS".to_owned(), run_ms.to_string())].into(),
            ..Payload::default()
        }),
        ..JobSpec::default()
    }
}

/// A call with these jobs.
pub(super) fn call(jobs: Vec<JobSpec>) -> Result<SubmitRequest, Failure> {
    Ok(SubmitRequest { request_id: request_id()?, jobs })
}
