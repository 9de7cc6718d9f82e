//! Submit: a draft with names in, jobs accepted or `Rejected` out. All jobs of a call or none.
//!
//! What can never run is refused here; what merely has to wait is not.

pub(crate) mod booking;
pub(crate) mod budget;
pub(crate) mod calendar;
pub(crate) mod caps;
pub(crate) mod constraints;
mod domains;
pub(crate) mod fits;
pub(crate) mod lending;
mod part;
pub(crate) mod quota;
pub(crate) mod start;
pub(crate) mod tenant;
pub(crate) mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;

use petgraph::algo::toposort;
use petgraph::graph::DiGraph;

use crate::classes::ClassKey;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{BookingId, JobId, PoolIndex, PriorityIndex, TenantIndex, UserIndex};
use crate::input::{DependencyOn, JobDraft};
use crate::job::{Dependency, DependencyKind, JobSpec, Phase};
use crate::rejected::{Refusal, Rejected};
use crate::reply::Reply;
use crate::request::{Request, Shape};
use crate::units::{Span, Time};

/// Most pools: each tenant has an entry for each of them.
pub const MAX_POOLS: usize = 64;

/// Longest name of a job, tenant part, user or pool, in bytes.
pub const MAX_NAME: usize = 128;

pub(crate) fn find_tenant(cluster: &Cluster, name: &str) -> Result<TenantIndex, Refusal> {
    cluster.find_tenant(name).ok_or_else(|| Refusal::UnknownTenant { name: name.into() })
}

/// Defines a pool unless one of this name exists.
pub(crate) fn define_pool(
    cluster: &mut Cluster,
    name: &str,
    model: &str,
    gpus_per_node: u8,
    now: Time,
    out: &mut Events,
) -> PoolIndex {
    if let Some(known) = cluster.pools.iter().position(|pool| &*pool.name == name) {
        return PoolIndex::of(known);
    }
    let pool = PoolIndex::of(cluster.pools.len());
    emit(cluster, now, Event::PoolDefined { pool, name: name.into(), model: model.into(), gpus_per_node }, out);
    pool
}

/// Accepts all of `drafts`, or refuses the first that cannot be accepted.
pub(crate) fn submit(
    cluster: &mut Cluster,
    drafts: &[JobDraft],
    now: Time,
    out: &mut Events,
) -> Result<Reply, Rejected> {
    let policy = &cluster.policy;
    if drafts.is_empty() {
        return Err(Refusal::NoJobs.into());
    }
    if drafts.len() > policy.max_jobs_per_submit as usize {
        return Err(Refusal::TooManyJobs { count: drafts.len(), limit: policy.max_jobs_per_submit }.into());
    }
    if cluster.waiting as usize + drafts.len() > policy.max_pending_jobs as usize {
        return Err(Refusal::QueueFull { limit: policy.max_pending_jobs }.into());
    }
    check_order_in_call(drafts)?;
    cluster.refresh_index();
    let first = cluster.next_job;
    let mut call = InCall { first, count: drafts.len(), checked: BTreeMap::new(), of_users: BTreeMap::new() };
    let mut new_users: Vec<Box<str>> = Vec::new();
    let mut specs = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts.iter().enumerate() {
        let of_job = |why: Refusal| Rejected { job: Some(at as u32), why };
        let user = resolve_user(cluster, &draft.user, &mut new_users).map_err(of_job)?;
        specs.push(resolve(cluster, draft, user, &mut call).map_err(of_job)?);
    }
    for name in new_users {
        let user = UserIndex::of(cluster.users.len());
        emit(cluster, now, Event::UserSeen { user, name }, out);
    }
    for (at, (spec, draft)) in specs.into_iter().zip(drafts).enumerate() {
        let job = JobId(first.0 + at as u64);
        let not_before = draft.not_before.filter(|time| *time > now);
        emit(cluster, now, Event::JobSubmitted { job, spec: Box::new(spec), held: draft.held, not_before }, out);
    }
    Ok(Reply::Submitted { first, count: drafts.len() as u32 })
}

/// Jobs of a call may wait for each other in any order, but not in a circle.
fn check_order_in_call(drafts: &[JobDraft]) -> Result<(), Rejected> {
    let in_call = |draft: &JobDraft| draft.after.iter().any(|(_, on)| matches!(on, DependencyOn::InCall(_)));
    if !drafts.iter().any(in_call) {
        return Ok(());
    }
    let mut graph: DiGraph<u32, ()> = DiGraph::new();
    let nodes: Vec<_> = (0..drafts.len()).map(|at| graph.add_node(at as u32)).collect();
    for (at, draft) in drafts.iter().enumerate() {
        for (_, on) in &draft.after {
            let DependencyOn::InCall(index) = on else { continue };
            let Some(on) = nodes.get(*index as usize) else {
                let why = Refusal::DependencyOutsideCall { index: *index, count: drafts.len() };
                return Err(Rejected { job: Some(at as u32), why });
            };
            graph.add_edge(*on, nodes[at], ());
        }
    }
    if toposort(&graph, None).is_ok() {
        return Ok(());
    }
    let circle = petgraph::algo::tarjan_scc(&graph)
        .into_iter()
        .find(|part| part.len() > 1 || graph.contains_edge(part[0], part[0]))
        .expect("a graph that cannot be sorted has a circle");
    let mut jobs: Vec<u32> = circle.into_iter().map(|node| graph[node]).collect();
    jobs.sort_unstable();
    Err(Rejected { job: Some(jobs[0]), why: Refusal::DependencyCycle { jobs } })
}

fn resolve_user(cluster: &Cluster, name: &str, new: &mut Vec<Box<str>>) -> Result<UserIndex, Refusal> {
    if let Some(user) = cluster.find_user(name) {
        return Ok(user);
    }
    check_name("user", name)?;
    let at = new.iter().position(|known| &**known == name).unwrap_or_else(|| {
        new.push(name.into());
        new.len() - 1
    });
    let limit = cluster.policy.max_users;
    if cluster.users.len() + new.len() > limit as usize {
        return Err(Refusal::TooManyUsers { limit });
    }
    Ok(UserIndex::of(cluster.users.len() + at))
}

fn check_name(field: &'static str, name: &str) -> Result<(), Refusal> {
    if name.len() > MAX_NAME {
        return Err(Refusal::NameTooLong { field, length: name.len(), limit: MAX_NAME });
    }
    Ok(())
}

/// What the jobs of one call share.
struct InCall {
    /// The id of the first of them.
    first: JobId,
    /// How many they are.
    count: usize,
    /// Requests of this call that were found to fit somewhere.
    checked: BTreeMap<ClassKey, Arc<Request>>,
    /// Jobs of this call by user, where caps count them.
    of_users: BTreeMap<UserIndex, u32>,
}

fn resolve(cluster: &Cluster, draft: &JobDraft, user: UserIndex, call: &mut InCall) -> Result<JobSpec, Refusal> {
    let policy = &cluster.policy;
    check_name("name", &draft.name)?;
    let tenant = find_tenant(cluster, &draft.tenant)?;
    if tenant == TenantIndex::ROOT || !cluster.tenant(tenant).children.is_empty() {
        return Err(Refusal::TenantHasChildren { name: draft.tenant.clone() });
    }
    let booking = booking::of_job(cluster, &draft.booking, tenant)?;
    let request = resolve_request(cluster, draft, tenant, booking, call)?;
    let priority = resolve_priority(cluster, &draft.priority)?;
    let time_limit = resolve_limit(cluster, draft, tenant)?;
    if cluster.has_caps {
        let in_call = call.of_users.entry(user).or_default();
        caps::check(cluster, tenant, user, draft, time_limit, *in_call)?;
        *in_call += 1;
    }
    let grace = draft.grace.unwrap_or(policy.default_grace);
    if draft.hold_survivors > policy.max_hold_survivors {
        let (hold, longest) = (draft.hold_survivors, policy.max_hold_survivors);
        return Err(Refusal::HoldTooLong { hold, longest });
    }
    if grace > policy.max_grace {
        return Err(Refusal::GraceTooLong { grace, longest: policy.max_grace });
    }
    if let Some(array) = draft.array {
        match array.size {
            0 => return Err(Refusal::EmptyArray),
            size if size > policy.max_array_size => {
                return Err(Refusal::ArrayTooLarge { size, limit: policy.max_array_size });
            }
            _ => {}
        }
    }
    Ok(JobSpec {
        tenant,
        user,
        name: draft.name.clone(),
        request,
        priority,
        preemptible: draft.preemptible,
        time_limit,
        time_min: draft.time_min,
        grace,
        array: draft.array,
        after: resolve_dependencies(cluster, draft, call)?,
        max_retries: draft.max_retries,
        batch: draft.batch,
        hold_survivors: draft.hold_survivors,
        booking,
        payload: draft.payload,
    })
}

fn resolve_limit(cluster: &Cluster, draft: &JobDraft, tenant: TenantIndex) -> Result<Span, Refusal> {
    let policy = &cluster.policy;
    let inherited = || cluster.chain(tenant).find_map(|tenant| tenant.default_time_limit);
    let limit = match draft.time_limit {
        Span::ZERO => inherited().unwrap_or(policy.default_time_limit),
        stated => stated,
    };
    if limit > policy.max_time_limit {
        return Err(Refusal::TimeLimitTooLong { limit, longest: policy.max_time_limit });
    }
    match draft.time_min {
        Some(least) if least == Span::ZERO || least > limit => Err(Refusal::BadTimeMin { least, limit }),
        _ => Ok(limit),
    }
}

fn resolve_priority(cluster: &Cluster, name: &str) -> Result<PriorityIndex, Refusal> {
    let policy = &cluster.policy;
    if name.is_empty() {
        return Ok(PriorityIndex(policy.default_priority));
    }
    let at =
        policy.priorities.iter().position(|class| &*class.name == name).ok_or_else(|| Refusal::UnknownPriority {
            name: name.into(),
            known: policy.priorities.iter().map(|class| class.name.clone()).collect(),
        })?;
    Ok(PriorityIndex::of(at))
}

fn resolve_dependencies(cluster: &Cluster, draft: &JobDraft, call: &InCall) -> Result<Box<[Dependency]>, Refusal> {
    let InCall { first, count, .. } = *call;
    let limit = cluster.policy.max_dependencies;
    if draft.after.len() > limit as usize {
        return Err(Refusal::TooManyDependencies { count: draft.after.len(), limit });
    }
    let mut after = Vec::with_capacity(draft.after.len());
    for (kind, on) in &draft.after {
        let job = match on {
            DependencyOn::InCall(index) => JobId(first.0 + u64::from(*index)),
            DependencyOn::Job(job) => *job,
        };
        let is_in_call = job >= first && job.0 < first.0 + count as u64 && matches!(on, DependencyOn::InCall(_));
        if !is_in_call {
            let known = cluster.job(job).ok_or(Refusal::UnknownDependency { job })?;
            if let Phase::Ended(outcome) = known.phase
                && !kind.satisfied_by(outcome)
            {
                return Err(Refusal::DependencyNeverSatisfied { job });
            }
        }
        after.push(Dependency { job, kind: *kind });
    }
    one_per_job(after)
}

/// Of several dependencies on one job only the strictest counts; `AfterOk` and `AfterNotOk` exclude each other.
fn one_per_job(mut after: Vec<Dependency>) -> Result<Box<[Dependency]>, Refusal> {
    after.sort_unstable_by_key(|dependency| {
        (dependency.job, dependency.kind == DependencyKind::AfterAny, dependency.kind)
    });
    let excludes = |pair: &&[Dependency]| {
        let both = [DependencyKind::AfterOk, DependencyKind::AfterNotOk];
        pair[0].job == pair[1].job && [pair[0].kind, pair[1].kind] == both
    };
    if let Some(pair) = after.windows(2).find(excludes) {
        return Err(Refusal::DependencyNeverSatisfied { job: pair[0].job });
    }
    after.dedup_by_key(|dependency| dependency.job);
    Ok(after.into_boxed_slice())
}

fn resolve_request(
    cluster: &Cluster,
    draft: &JobDraft,
    tenant: TenantIndex,
    booking: Option<BookingId>,
    call: &mut InCall,
) -> Result<Arc<Request>, Refusal> {
    check_shape(cluster, &draft.shape)?;
    if let (Some(required), Some(preferred)) = (draft.required, draft.preferred)
        && preferred > required
    {
        return Err(Refusal::PreferredAboveRequired);
    }
    let named = resolve_pools(cluster, &draft.gpu_models)?;
    let (part, pools) = part::resolve(cluster, draft, named)?;
    let mut shape = normal(&draft.shape);
    if draft.only.exclusive {
        shape = constraints::whole_nodes(cluster, shape, &pools)?;
    }
    let request = Request {
        only: constraints::resolve(cluster, draft, &shape)?,
        shape,
        part,
        pools,
        cpu: draft.cpu,
        memory: draft.memory,
        required: draft.required,
        preferred: draft.preferred.filter(|level| draft.required != Some(*level)),
        distinct_nodes: draft.distinct_nodes && draft.shape.members() > 1,
    };
    let grace = draft.grace.unwrap_or(cluster.policy.default_grace);
    let key = ClassKey { request: Arc::new(request), preemptible: draft.preemptible, grace, booking };
    check_limits(cluster, &key, tenant)?;
    if let Some(class) = cluster.classes.find(&key) {
        // Jobs like this one wait already: that they fit somewhere was checked.
        return Ok(cluster.classes.get(class).key.request.clone());
    }
    if let Some(known) = call.checked.get(&key) {
        return Ok(known.clone());
    }
    let limit = cluster.policy.max_classes;
    if cluster.classes.len() + call.checked.len() >= limit as usize {
        return Err(Refusal::TooManyClasses { limit });
    }
    fits::check_somewhere(cluster, &key.request)?;
    booking::check_room(cluster, &key)?;
    let request = key.request.clone();
    call.checked.insert(key, request.clone());
    Ok(request)
}

/// Unequal members that are all alike are equal members.
fn normal(shape: &Shape) -> Shape {
    match shape {
        Shape::Unequal(list) if list.iter().all(|gpus| *gpus == list[0]) => {
            Shape::Equal { members: list.len() as u32, gpus: list[0] }
        }
        other => other.clone(),
    }
}

fn check_shape(cluster: &Cluster, shape: &Shape) -> Result<(), Refusal> {
    let limit = cluster.policy.max_members;
    match shape.members() {
        0 => return Err(Refusal::NoMembers),
        members if members > limit => return Err(Refusal::TooManyMembers { members, limit }),
        _ => {}
    }
    match shape {
        Shape::Equal { gpus: 0, .. } => Err(Refusal::NoGpus { member: 0 }),
        Shape::Equal { .. } => Ok(()),
        Shape::Unequal(list) => match list.iter().position(|gpus| *gpus == 0) {
            Some(member) => Err(Refusal::NoGpus { member: member as u32 }),
            None => Ok(()),
        },
    }
}

fn resolve_pools(cluster: &Cluster, names: &[Box<str>]) -> Result<Box<[PoolIndex]>, Refusal> {
    if cluster.pools.is_empty() {
        return Err(Refusal::NoPool);
    }
    if names.is_empty() {
        return Ok((0..cluster.pools.len()).map(PoolIndex::of).collect());
    }
    let mut pools = Vec::with_capacity(names.len());
    for name in names {
        let matches = |pool: &&crate::pools::Pool| pool.name == *name || pool.model == *name;
        let found = cluster.pools.iter().enumerate().filter(|(_, pool)| matches(pool)).map(|(at, _)| PoolIndex::of(at));
        let before = pools.len();
        pools.extend(found);
        if pools.len() == before {
            let known = cluster.pools.iter().map(|pool| pool.name.clone()).collect();
            return Err(Refusal::UnknownModel { name: name.clone(), known });
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    pools.retain(|pool| seen.insert(*pool));
    Ok(pools.into_boxed_slice())
}

/// Refuses what passes a ceiling all by itself.
fn check_limits(cluster: &Cluster, key: &ClassKey, tenant: TenantIndex) -> Result<(), Refusal> {
    let want = key.request.least_gpus();
    let mut worst = None;
    for pool in &key.request.pools {
        match quota::could_ever(cluster, tenant, *pool, want, key.preemptible) {
            Ok(()) => return Ok(()),
            Err(why) => worst = worst.or(Some(why)),
        }
    }
    worst.map_or(Ok(()), Err)
}
