//! `dure explain`, `dure job --why-here`.

use clap::Args;
use dure_proto::v1::{ExplainRequest, Explanation, Help, Holder, Rank, TenantRank};

use crate::{
    context::Context,
    estimates,
    failure::Failure,
    jobid::{self, JobRef},
    phase,
    show::Out,
    span, when,
};

/// Which job.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The job: 12, or 12_7 for index 7 of the array 12
    #[arg(value_name = "ID")]
    id: JobRef,
}

/// `dure explain`.
pub(crate) async fn explain(args: ExplainArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let explanation = ask(args.id, context).await?;
    out.answer("Explanation", &explanation, || text(args.id, &explanation))
}

/// `dure job --why-here`.
pub(crate) async fn why_here(id: JobRef, context: &Context, out: Out) -> Result<(), Failure> {
    let explanation = ask(id, context).await?;
    let rank = explanation.rank.clone().unwrap_or_default();
    out.answer("Rank", &rank, || match &explanation.rank {
        Some(rank) => format!("{}{}", place(id, &explanation), rank_text(rank)),
        None => format!("job {id} is {}: it has no place in the order\n", phase::name(explanation.phase())),
    })
}

async fn ask(id: JobRef, context: &Context) -> Result<Explanation, Failure> {
    let mut client = context.jobs().await?;
    let job_id = jobid::resolve(context, &mut client, id).await?;
    let explained = client.explain(ExplainRequest { job_id }).await;
    Ok(explained.map_err(|status| context.refused(status))?.into_inner())
}

fn place(id: JobRef, explanation: &Explanation) -> String {
    let mut text = format!("job {id} is {}", phase::name(explanation.phase()));
    if explanation.position_in_tenant > 0 {
        let (place, of) = (explanation.position_in_tenant, explanation.pending_in_tenant);
        text.push_str(&format!(", place {place} of {of} in its tenant"));
    }
    text.push('\n');
    text
}

pub(crate) fn text(id: JobRef, explanation: &Explanation) -> String {
    let mut text = place(id, explanation);
    for (number, blocker) in explanation.blockers.iter().enumerate() {
        text.push_str(&format!("{}. {} [{}]\n", number + 1, blocker.message, blocker.code));
        if !blocker.remedy.is_empty() {
            text.push_str(&format!("   what would help: {}\n", blocker.remedy));
        }
    }
    if explanation.blockers.is_empty() && !phase::ended(explanation.phase()) {
        text.push_str("nothing is in its way\n");
    }
    if !explanation.holders.is_empty() {
        text.push_str("it waits for the GPUs of\n");
        explanation.holders.iter().for_each(|holder| text.push_str(&format!("  {}\n", holder_text(holder))));
    }
    if explanation.room_by_ms > 0 {
        let by = when::shown(explanation.room_by_ms);
        text.push_str(&format!("by the limits of what runs there is room for it by {by}\n"));
    }
    if let Some(estimate) = &explanation.estimate {
        text.push_str(&format!("it {}\n", estimates::long(estimate)));
    }
    if explanation.not_even_ms > 0 {
        let least = span::human(explanation.not_even_ms);
        text.push_str(&format!("not even with its least time limit of {least} it starts now\n"));
    }
    explanation.helps.iter().for_each(|Help { message, .. }| text.push_str(&format!("it {message}\n")));
    text
}

fn holder_text(holder: &Holder) -> String {
    let who = match holder.job_id {
        0 => holder.tenant.clone(),
        job => format!("job {job} of {}", holder.tenant),
    };
    let how = match holder.how.as_str() {
        "stopping" => ", being stopped for it",
        "reclaimable" => ", which it may take back",
        _ => "",
    };
    let until = match holder.until_ms {
        0 => String::new(),
        until => format!(", until {} at the latest", when::shown(until)),
    };
    format!("{who}: {} GPUs{how}{until}", holder.gpus)
}

fn rank_text(rank: &Rank) -> String {
    let mut lines: Vec<(String, String)> = rank.tenants.iter().map(tenant_text).collect();
    let front = if rank.front { ", before the others: it lost its GPUs through no fault of its own" } else { "" };
    lines.push(("priority".to_owned(), format!("{}{front}", rank.priority)));
    let share = gpus(rank.user_share_milli);
    lines.push(("user".to_owned(), format!("place {} of {}, holds and held {share}", rank.user_place, rank.users)));
    lines.push(("age".to_owned(), span::human(rank.age_ms)));
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    lines.iter().map(|(name, value)| format!("{:<width$}{value}\n", format!("{name}:"))).collect()
}

fn tenant_text(tenant: &TenantRank) -> (String, String) {
    let how = if tenant.under_quota {
        format!("under quota, holds {} of {} GPUs", tenant.used_gpus, tenant.quota_gpus)
    } else {
        let above = gpus(tenant.above_quota_milli);
        format!(
            "holds {} of {} GPUs, took {above} above it, weight {}",
            tenant.used_gpus, tenant.quota_gpus, tenant.weight
        )
    };
    (tenant.tenant.clone(), format!("place {} of {}: {how}", tenant.place, tenant.siblings))
}

/// Thousandths of a GPU, now and decayed.
fn gpus(milli: u64) -> String {
    format!("{}.{:03} GPUs (decayed)", milli / 1000, milli % 1000)
}

#[cfg(test)]
mod tests {
    use dure_proto::v1::{Blocker, JobPhase};
    use expect_test::expect;

    use super::*;

    fn explanation() -> Explanation {
        let tenant = |tenant: &str, under_quota| TenantRank {
            tenant: tenant.into(),
            under_quota,
            used_gpus: 8,
            quota_gpus: 16,
            above_quota_milli: 1_500,
            weight: 2,
            place: 3,
            siblings: 12,
        };
        let holder = |job_id, how: &str| Holder {
            job_id,
            tenant: "solar".into(),
            gpus: 8,
            how: how.into(),
            ..Holder::default()
        };
        Explanation {
            phase: JobPhase::Pending.into(),
            position_in_tenant: 2,
            pending_in_tenant: 9,
            blockers: vec![Blocker {
                code: "OVER_LIMIT".into(),
                message: "tenant fusion holds 16 of its limit of 16".into(),
                remedy: "wait for its other jobs to end".into(),
                ..Blocker::default()
            }],
            rank: Some(Rank {
                tenants: vec![tenant("fusion", true), tenant("fusion/edge", false)],
                priority: "high".into(),
                front: true,
                user_share_milli: 2_250,
                user_place: 1,
                users: 3,
                age_ms: 90_000,
            }),
            holders: vec![holder(7, "reclaimable"), holder(0, "running")],
            helps: vec![Help { message: "starts now with 24 members".into(), ..Help::default() }],
            ..Explanation::default()
        }
    }

    #[test]
    fn an_explanation_says_what_whose_and_how_else() {
        expect![[r#"
            job 12 is pending, place 2 of 9 in its tenant
            1. tenant fusion holds 16 of its limit of 16 [OVER_LIMIT]
               what would help: wait for its other jobs to end
            it waits for the GPUs of
              job 7 of solar: 8 GPUs, which it may take back
              solar: 8 GPUs
            it starts now with 24 members
        "#]]
        .assert_eq(&text("12".parse().expect("an id"), &explanation()));
    }

    #[test]
    fn a_rank_is_told_factor_by_factor() {
        expect![[r#"
            fusion:      place 3 of 12: under quota, holds 8 of 16 GPUs
            fusion/edge: place 3 of 12: holds 8 of 16 GPUs, took 1.500 GPUs (decayed) above it, weight 2
            priority:    high, before the others: it lost its GPUs through no fault of its own
            user:        place 1 of 3, holds and held 2.250 GPUs (decayed)
            age:         1m30s
        "#]]
        .assert_eq(&rank_text(&explanation().rank.expect("it waits")));
    }
}
