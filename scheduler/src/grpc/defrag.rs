//! Moving jobs closer together: a plan to look at, and its digest by which it is carried out, never by surprise.

use dure_core::Cluster;
use dure_core::defrag::{Defrag, MAX_MOVES, Move, WholeNodes};
use dure_core::ids::{AttemptNumber, JobId, NodeIndex, PoolIndex};
use dure_core::input::Input;
use dure_core::units::GpuTime;
use dure_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tonic::{Response, Status};

use super::server::Services;
use super::status::Violation;
use super::{convert, request};
use crate::auth::Caller;

const MS_PER_HOUR: f64 = 3_600_000.0;

/// What a plan moves, as the core takes it.
type Moves = Vec<(JobId, AttemptNumber)>;

impl Services {
    /// The plan as things are.
    pub(super) async fn defrag_plan(&self, asked: v1::PlanDefragRequest) -> Result<(Moves, v1::DefragPlan), Status> {
        request::name("pool", &asked.pool)?;
        if asked.max_moves > MAX_MOVES {
            let problem = format!("{} moves in one plan, at most {MAX_MOVES}: carry out several", asked.max_moves);
            return Err(Violation::new("max_moves", problem).into());
        }
        let most = if asked.max_moves == 0 { MAX_MOVES } else { asked.max_moves };
        let now = self.clock.now();
        let look = move |cluster: &Cluster| {
            let pool = pool(cluster, &asked.pool)?;
            let plan = cluster.plan_defrag(pool, most, now);
            let moves: Moves = plan.moves.iter().map(|found| (found.job, found.attempt)).collect();
            Ok::<_, Violation>((moves, shown(cluster, &plan)))
        };
        let (found, position) = self.handle.read(move |cluster, _| look(cluster)).await?;
        let (moves, mut plan) = found?;
        plan.position = Some(convert::position(position));
        Ok((moves, plan))
    }

    pub(super) async fn carry_out_defrag(
        &self,
        by: Caller,
        asked: v1::DefragRequest,
    ) -> Result<Response<v1::DefragPlan>, Status> {
        let (moves, mut plan) = self.defrag_plan(asked.plan.unwrap_or_default()).await?;
        if asked.digest != plan.digest {
            let problem = "this is not the plan as it would be now; look at it again: dure defrag";
            return Err(Status::failed_precondition(format!("digest: {problem}")));
        }
        if !moves.is_empty() {
            let (_, position) = self.handle.mutate(by, Input::Defragment(moves), None, Vec::new(), |_, _| ()).await?;
            plan.position = Some(convert::position(position));
        }
        Ok(Response::new(plan))
    }
}

/// The pool of a name; the first, where there is none.
fn pool(cluster: &Cluster, name: &str) -> Result<PoolIndex, Violation> {
    let first = || (!cluster.pools().is_empty()).then_some(PoolIndex(0));
    let found = if name.is_empty() { first() } else { cluster.find_pool(name) };
    found.ok_or_else(|| {
        let known: Vec<&str> = cluster.pools().iter().map(|pool| &*pool.name).collect();
        Violation::new("pool", format!("there is no pool {name:?}, there is {}: use one of these", known.join(", ")))
    })
}

fn shown(cluster: &Cluster, plan: &Defrag) -> v1::DefragPlan {
    let room = |of: &WholeNodes| v1::WholeNodes { nodes: of.nodes, in_nvlink: of.in_nvlink, in_leaf: of.in_leaf };
    let mut told = v1::DefragPlan {
        pool: cluster.pool(plan.pool).name.to_string(),
        moves: plan.moves.iter().map(|found| shown_move(cluster, found)).collect(),
        before: Some(room(&plan.before)),
        after: Some(room(&plan.after)),
        digest: String::new(),
        position: None,
    };
    told.digest = hex::encode(Sha256::digest(told.encode_to_vec()));
    for (told, found) in told.moves.iter_mut().zip(&plan.moves) {
        told.lost_gpu_hours = gpu_hours(found.loss);
    }
    told
}

/// Without its loss, which is another one every time.
fn shown_move(cluster: &Cluster, found: &Move) -> v1::DefragMove {
    let names = |nodes: &[NodeIndex]| nodes.iter().map(|node| cluster.node(*node).name.to_string()).collect();
    let spec = cluster.job(found.job).map(|job| &job.spec);
    v1::DefragMove {
        job_id: found.job.0,
        name: spec.map_or_else(String::new, |spec| spec.name.to_string()),
        tenant: spec.map_or_else(String::new, |spec| cluster.tenant(spec.tenant).name.to_string()),
        user: spec.map_or_else(String::new, |spec| cluster.user(spec.user).to_string()),
        attempt: found.attempt.0,
        gpus: found.gpus.rounded_up(),
        from: names(&found.from),
        to: names(&found.to),
        lost_gpu_hours: 0.0,
    }
}

fn gpu_hours(time: GpuTime) -> f64 {
    time.0 as f64 / MS_PER_HOUR
}
