//! One scheduling turn: take the jobs in order, admit, place, and go on until every class that is left was refused.

use crate::admit::quota;
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{AttemptNumber, JobId, PoolIndex};
use crate::order::Order;
use crate::placement::Members;
use crate::plan;
use crate::promise;
use crate::units::Time;

/// What a cycle came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cycled {
    /// Jobs placed.
    pub jobs: u32,
    /// Members placed.
    pub members: u32,
    /// Classes tried, placed or not.
    pub tried: u32,
    /// It stopped at its limit: another cycle may place more.
    pub more: bool,
}

/// Places what can start now.
pub fn cycle(cluster: &mut Cluster, now: Time, out: &mut Events) -> Cycled {
    let mut cycled = Cycled::default();
    plan::wake_at(cluster, None);
    if !cluster.has_queued() {
        return cycled;
    }
    cluster.refresh_index();
    promise::keep(cluster, now, &mut cycled, out);
    cluster.refused.begin(cluster.free_version, cluster.division_version, cluster.tenants.len());
    let (most_jobs, most_members) = (cluster.policy.max_placements_per_cycle, cluster.policy.max_members_per_cycle);
    let mut order = Order::begin(cluster, now);
    while let Some(job) = order.next(cluster) {
        if cycled.jobs >= most_jobs || cycled.members >= most_members {
            cycled.more = true;
            break;
        }
        cycled.tried += 1;
        match find_place(cluster, job) {
            Ok((pool, members)) => {
                cycled.jobs += 1;
                cycled.members += members.len() as u32;
                start(cluster, job, pool, members, now, out);
                order.placed(cluster);
            }
            Err(why) => refuse(cluster, &mut order, job, why),
        }
    }
    order.end(cluster);
    if !cycled.more {
        plan::make_room(cluster, now, &mut cycled, out);
    }
    cycled
}

/// Why a job was refused, and for whom that holds.
enum Refused {
    /// For its class in its tenant.
    Admission(Blocked),
    /// For its class everywhere.
    Placement(Blocked),
    /// For this job alone: it keeps away from nodes on which its class may find room.
    Alone(Blocked),
}

/// Tries the pools of a job in its order of preference.
fn find_place(cluster: &mut Cluster, id: JobId) -> Result<(PoolIndex, Members), Refused> {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let (pools, want) = (job.spec.request.pools.len(), job.gpus());
    let mut refused: Option<Refused> = None;
    for at in 0..pools {
        let spec = &cluster.jobs.get(id).expect("it was there above").spec;
        let pool = spec.request.pools[at];
        if let Err(why) = quota::may_start(cluster, spec.tenant, pool, want, spec.preemptible) {
            // Another tenant may still get what this pool has. But what keeps away from nodes speaks for itself alone.
            refused = Some(match refused {
                Some(Refused::Placement(_)) | None => Refused::Admission(why),
                Some(first) => first,
            });
            continue;
        }
        let Cluster { jobs, index, policy, scratch, .. } = cluster;
        let job = jobs.get(id).expect("it was there above");
        match index.place(&job.spec.request, pool, &job.avoid, policy.search_steps, scratch) {
            Ok(members) => return Ok((pool, members)),
            Err(why) if !job.avoid.is_empty() => refused = Some(Refused::Alone(why)),
            Err(why) => refused = refused.or(Some(Refused::Placement(why))),
        }
    }
    Err(refused.expect("a request names at least one pool"))
}

/// Whether a queued job could start now.
pub(crate) fn could_start(cluster: &mut Cluster, job: JobId) -> bool {
    find_place(cluster, job).is_ok()
}

fn refuse(cluster: &mut Cluster, order: &mut Order, id: JobId, why: Refused) {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let class = job.queued.expect("the order gives queued jobs").class;
    match why {
        Refused::Placement(why) => cluster.refused.note_no_room(class, why),
        Refused::Admission(why) => cluster.refused.note_no_quota(class, job.spec.tenant, why),
        Refused::Alone(why) => {
            cluster.refused.note_alone(id, why);
            return order.skip(cluster, id);
        }
    }
    order.refused(cluster);
}

/// The job, or the next index of the array, gets its GPUs.
fn start(cluster: &mut Cluster, id: JobId, pool: PoolIndex, members: Members, now: Time, out: &mut Events) {
    let is_array = cluster.jobs.get(id).expect("the order gives jobs that exist").progress.is_some();
    let started = if is_array { start_index(cluster, id, now, out) } else { id };
    let attempts = cluster.jobs.get(started).expect("it exists by now").attempts;
    let attempt = AttemptNumber(attempts + 1);
    emit(cluster, now, Event::JobPlaced { job: started, attempt, pool, members }, out);
}

/// The next index of an array becomes a job of its own.
pub(crate) fn start_index(cluster: &mut Cluster, array: JobId, now: Time, out: &mut Events) -> JobId {
    let progress = cluster.jobs.get(array).and_then(|job| job.progress.as_deref());
    let index = progress.expect("only an array has indices").next;
    let job = cluster.next_job;
    emit(cluster, now, Event::ArrayIndexStarted { array, index, job }, out);
    job
}
