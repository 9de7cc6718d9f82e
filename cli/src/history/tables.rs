//! What has been, as tables.

use dure_proto::v1::{
    AuditResponse, GpuTime, PastAttemptsResponse, PastEvictionsResponse, PastJobsResponse, PastQuotasResponse,
    PastUsageRequest, PastUsageResponse, Reach,
};

use crate::{show::Out, span, when};

fn or_cluster(tenant: &str) -> String {
    if tenant.is_empty() { "(cluster)".to_owned() } else { tenant.to_owned() }
}

fn gpu_time(total: Option<GpuTime>) -> [String; 2] {
    let total = total.unwrap_or_default();
    [span::gpu_time(total.own_gpu_ms), span::gpu_time(total.borrowed_gpu_ms)]
}

fn gpus(milli: u64) -> String {
    let (whole, part) = (milli / 1000, milli % 1000);
    if part == 0 { whole.to_string() } else { format!("{whole}.{part:03}").trim_end_matches('0').to_owned() }
}

fn id(id: u64) -> String {
    if id == 0 { String::new() } else { id.to_string() }
}

/// What a reader of the table must know of its ends.
fn foot(next_page_token: &str, reach: Option<&Reach>) {
    if !next_page_token.is_empty() {
        eprintln!("and more: see --limit");
    }
    for gap in reach.map_or(&[][..], |reach| &reach.gaps) {
        let (from, to) = (when::shown(gap.from_ms), when::shown(gap.to_ms));
        eprintln!("the history has a gap from {from} to {to}: the journal did not hold that time any more");
    }
}

pub(super) fn usage(all: &PastUsageResponse, asked: &PastUsageRequest, out: Out) -> String {
    let mut head = Vec::new();
    head.extend(asked.by_day.then_some("day"));
    head.push("tenant");
    head.extend(asked.by_user.then_some("user"));
    head.extend(["own>", "borrowed>"]);
    let mut rows = out.table(&head);
    for row in &all.rows {
        let mut cells: Vec<String> = Vec::new();
        let day = || when::shown_utc_day(row.day_ms);
        cells.extend(asked.by_day.then(day));
        cells.push(or_cluster(&row.tenant));
        cells.extend(asked.by_user.then(|| row.user.clone()));
        cells.extend(gpu_time(row.total));
        rows.row(cells);
    }
    foot("", all.reach.as_ref());
    rows.text()
}

pub(super) fn audit(all: &AuditResponse, out: Out) -> String {
    let head =
        ["when", "user", "role", "from", "method", "tenant", "job>", "events>", "refused", "times>", "reason", "what"];
    let mut rows = out.table(&head);
    for row in &all.rows {
        rows.row([
            when::shown(row.time_ms),
            row.user.clone(),
            row.role.clone(),
            row.origin.clone(),
            row.method.clone(),
            row.tenant.clone(),
            id(row.job_id),
            if row.refused.is_empty() { row.events.to_string() } else { String::new() },
            row.refused.clone(),
            row.count.to_string(),
            row.reason.clone(),
            row.what.clone(),
        ]);
    }
    foot(&all.next_page_token, all.reach.as_ref());
    rows.text()
}

pub(super) fn jobs(all: &PastJobsResponse, out: Out) -> String {
    let head =
        ["id>", "tenant", "user", "name", "gpus>", "members>", "outcome", "ended", "attempts>", "own>", "borrowed>"];
    let mut rows = out.table(&head);
    for row in &all.rows {
        let shown =
            if row.array_id == 0 { row.id.to_string() } else { format!("{}_{}", row.array_id, row.array_index) };
        let [own, borrowed] = gpu_time(row.total);
        rows.row([
            shown,
            row.tenant.clone(),
            row.user.clone(),
            row.name.clone(),
            gpus(row.gpu_milli),
            row.members.to_string(),
            row.outcome.clone(),
            when::shown(row.ended_ms),
            row.attempts.to_string(),
            own,
            borrowed,
        ]);
    }
    foot(&all.next_page_token, all.reach.as_ref());
    rows.text()
}

pub(super) fn attempts(all: &PastAttemptsResponse, out: Out) -> String {
    let head = ["job>", "attempt>", "tenant", "user", "gpus>", "outcome", "placed", "ran>", "ended", "nodes"];
    let mut rows = out.table(&head);
    for row in &all.rows {
        let ran = row.ended_ms.saturating_sub(row.started_ms);
        rows.row([
            row.job_id.to_string(),
            row.attempt.to_string(),
            row.tenant.clone(),
            row.user.clone(),
            gpus(row.gpu_milli),
            row.outcome.clone(),
            when::shown(row.placed_ms),
            if row.started_ms == 0 { "-".to_owned() } else { span::human(ran) },
            when::shown(row.ended_ms),
            row.nodes.join(","),
        ]);
    }
    foot(&all.next_page_token, all.reach.as_ref());
    rows.text()
}

pub(super) fn evictions(all: &PastEvictionsResponse, out: Out) -> String {
    let mut rows = out.table(&["when", "job>", "attempt>", "tenant", "user", "reason", "for job>", "of tenant"]);
    for row in &all.rows {
        rows.row([
            when::shown(row.time_ms),
            row.job_id.to_string(),
            row.attempt.to_string(),
            row.tenant.clone(),
            row.user.clone(),
            row.reason.clone(),
            id(row.beneficiary),
            row.beneficiary_tenant.clone(),
        ]);
    }
    foot(&all.next_page_token, all.reach.as_ref());
    rows.text()
}

pub(super) fn quotas(all: &PastQuotasResponse, out: Out) -> String {
    let mut rows = out.table(&["when", "tenant", "by", "what", "forecast"]);
    for row in &all.rows {
        let (tenant, forecast) = (or_cluster(&row.tenant), row.forecast.clone());
        rows.row([when::shown(row.time_ms), tenant, row.user.clone(), row.what.clone(), forecast]);
    }
    foot(&all.next_page_token, all.reach.as_ref());
    rows.text()
}
