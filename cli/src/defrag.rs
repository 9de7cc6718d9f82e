//! `dure defrag`: which jobs could move closer together, and what that would free.

use clap::Args;
use dure_proto::v1::{DefragMove, DefragPlan, DefragRequest, PlanDefragRequest, WholeNodes};

use crate::{context::Context, failure::Failure, show::Out};

/// Nodes of one job that a table names.
const NODES_SHOWN: usize = 4;

/// Show which preemptible jobs could move closer together, and what that would free; with --apply, move them
#[derive(Debug, Args)]
pub(crate) struct DefragArgs {
    /// In this pool instead of the first
    #[arg(long, default_value = "", hide_default_value = true)]
    pool: String,
    /// Jobs to move at most
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_moves: u32,
    /// Carry out the plan with this digest; refused if it would be another one by now
    #[arg(long, value_name = "DIGEST")]
    apply: Option<String>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true, requires = "apply")]
    reason: String,
}

/// `dure defrag`.
pub(crate) async fn run(args: DefragArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.nodes().await?;
    let asked = PlanDefragRequest { pool: args.pool, max_moves: args.max_moves };
    if let Some(digest) = args.apply {
        let request = DefragRequest { plan: Some(asked), digest, reason: args.reason };
        let done = client.defrag(request).await.map_err(|status| context.refused(status))?.into_inner();
        return out.answer("DefragPlan", &done, || {
            format!("{} jobs are being stopped; each is queued again, at the front of its mission\n", done.moves.len())
        });
    }
    let plan = client.plan_defrag(asked).await.map_err(|status| context.refused(status))?.into_inner();
    out.answer("DefragPlan", &plan, || text(&plan, out))
}

fn text(plan: &DefragPlan, out: Out) -> String {
    let (before, after) = (plan.before.unwrap_or_default(), plan.after.unwrap_or_default());
    let now = format!("pool {}: {}", plan.pool, room(&before));
    if plan.moves.is_empty() {
        return format!("{now}; no move of jobs that may be stopped would leave more\n");
    }
    let mut rows = out.table(&["job>", "tenant", "user", "name", "gpus>", "from", "to", "lost GPU-h>"]);
    for found in &plan.moves {
        let DefragMove { job_id, name, tenant, user, gpus, from, to, lost_gpu_hours, attempt: _ } = found;
        rows.row([
            job_id.to_string(),
            tenant.clone(),
            user.clone(),
            name.clone(),
            gpus.to_string(),
            nodes(from),
            nodes(to),
            format!("{lost_gpu_hours:.1}"),
        ]);
    }
    let lost: f64 = plan.moves.iter().map(|found| found.lost_gpu_hours).sum();
    let (count, digest) = (plan.moves.len(), &plan.digest);
    format!(
        "{}{now}; with {count} moves, which lose {lost:.1} GPU-hours: {}\nto move them: dure defrag --apply {digest}\n",
        rows.text(),
        room(&after)
    )
}

fn room(of: &WholeNodes) -> String {
    let WholeNodes { nodes, in_nvlink, in_leaf } = of;
    let linked = if *in_nvlink > 0 { format!(", {in_nvlink} in one NVLink domain") } else { String::new() };
    format!("{nodes} whole nodes free, {in_leaf} in one leaf{linked}")
}

/// Names, each once, the first few of them.
fn nodes(names: &[String]) -> String {
    let mut names = names.to_vec();
    names.dedup();
    let rest = names.len().saturating_sub(NODES_SHOWN);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", names[..names.len() - rest].join(","))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_plan_as_text() {
        let found = DefragMove {
            job_id: 7,
            name: "train".into(),
            tenant: "fusion".into(),
            user: "kim".into(),
            attempt: 1,
            gpus: 4,
            from: vec!["n1".into(), "n1".into()],
            to: vec!["n0".into(), "n0".into()],
            lost_gpu_hours: 1.25,
        };
        let mut plan = DefragPlan {
            pool: "h200".into(),
            moves: vec![found],
            before: Some(WholeNodes { nodes: 1, in_nvlink: 0, in_leaf: 1 }),
            after: Some(WholeNodes { nodes: 2, in_nvlink: 0, in_leaf: 2 }),
            digest: "ab12".into(),
            position: None,
        };
        expect![[r#"
            JOB  TENANT  USER  NAME   GPUS  FROM  TO  LOST GPU-H
              7  fusion  kim   train     4  n1    n0         1.2
            pool h200: 1 whole nodes free, 1 in one leaf; with 1 moves, which lose 1.2 GPU-hours: 2 whole nodes free, 2 in one leaf
            to move them: dure defrag --apply ab12
        "#]].assert_eq(&text(&plan, Out::plain()));
        plan.moves.clear();
        expect![[r#"
            pool h200: 1 whole nodes free, 1 in one leaf; no move of jobs that may be stopped would leave more
        "#]]
        .assert_eq(&text(&plan, Out::plain()));
    }
}
