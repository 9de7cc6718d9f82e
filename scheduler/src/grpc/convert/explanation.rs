//! An explanation of the core -> the wire.

use dure_core::Cluster;
use dure_core::explain::{Explanation, Factors, Holder, Holds, Standing};
use dure_core::job::Job;
use dure_proto::v1;

use super::{ms, phase, tenant_name};
use crate::grpc::text;

/// Why a job waits. `may_see` says whose jobs the caller may know by their ids. Its position and estimate are for the caller to fill in.
pub fn explanation(
    cluster: &Cluster,
    job: &Job,
    explained: &Explanation,
    may_see: impl Fn(&Job) -> bool,
) -> v1::Explanation {
    v1::Explanation {
        job_id: job.id.0,
        phase: phase(job).into(),
        blockers: explained.blockers.iter().map(|blocker| super::job::blocker_of(cluster, job, blocker)).collect(),
        position_in_tenant: explained.before.map_or(0, |before| count(before + 1)),
        pending_in_tenant: count(explained.queued),
        position: None,
        rank: explained.factors.as_ref().map(|factors| rank(cluster, factors)),
        holders: explained.holders.iter().map(|holder| self::holder(cluster, holder, &may_see)).collect(),
        room_by_ms: ms(explained.room_by),
        helps: explained.helps.iter().map(|help| text::help(cluster, help)).collect(),
        estimate: None,
        not_even_ms: explained.not_even.map_or(0, |least| least.0),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn rank(cluster: &Cluster, factors: &Factors) -> v1::Rank {
    v1::Rank {
        tenants: factors.tenants.iter().map(|standing| tenant_rank(cluster, standing)).collect(),
        priority: text::priority(cluster, factors.priority).to_owned(),
        front: factors.is_front,
        user_share_milli: factors.user_milli,
        user_place: count(factors.user_place),
        users: count(factors.users),
        age_ms: factors.age.0,
    }
}

fn tenant_rank(cluster: &Cluster, standing: &Standing) -> v1::TenantRank {
    v1::TenantRank {
        tenant: tenant_name(cluster, standing.tenant).to_owned(),
        under_quota: standing.is_under_quota,
        used_gpus: standing.used.rounded_up(),
        quota_gpus: standing.quota.rounded_up(),
        above_quota_milli: standing.above_milli,
        weight: standing.weight,
        place: count(standing.place),
        siblings: count(standing.of),
    }
}

fn holder(cluster: &Cluster, holder: &Holder, may_see: impl Fn(&Job) -> bool) -> v1::Holder {
    let is_seen = cluster.job(holder.job).is_some_and(may_see);
    let tenant = if is_seen { Some(holder.tenant) } else { cluster.mission(holder.tenant) };
    let how = match holder.how {
        Holds::Stopping => "stopping",
        Holds::Reclaimable => "reclaimable",
        Holds::ToItsEnd => "running",
    };
    v1::Holder {
        job_id: if is_seen { holder.job.0 } else { 0 },
        tenant: tenant.map_or_else(String::new, |tenant| tenant_name(cluster, tenant).to_owned()),
        gpus: holder.gpus.rounded_up(),
        how: how.to_owned(),
        until_ms: ms(holder.until),
    }
}
