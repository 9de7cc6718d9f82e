//! `dure what-if`: what another quota, other nodes or a further job would do: asked of the scheduler, or of a journal.
//!
//! Comes in: the change. Goes out: per mission what it gets before and after, the digest that names this forecast, and for a
//! job when and where it would start. Both ways give the same answer to the same state, and are shown by the same code.

use std::path::PathBuf;

use clap::Args;
use dure_proto::v1;
use dure_scheduler::forecast;

use crate::{context::Context, estimates, failure::Failure, offline, show::Out, span, span::UserSpan, tenants};

/// What another quota, other nodes or a further job would do; nothing is changed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dure what-if --quota fusion=640 --quota solar=320
  dure what-if --remove-node n17 --remove-node n18 --add-nodes 8:n0
  dure what-if --job fusion:16x8:4h
  dure what-if --last 30d --quota fusion=640
  dure what-if --data-dir /var/lib/dure --quota fusion=640

The digest at the end names the forecast: dure quota set fusion --quota 640 --forecast DIGEST records it.")]
pub(crate) struct WhatIfArgs {
    /// Ask a journal instead of the scheduler: its folder, or the configuration of one of several; it may run
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Another quota
    #[arg(long, value_name = "TENANT=GPUS", value_parser = quota)]
    quota: Vec<(String, u32)>,
    /// Other whole domains: a level, how many, and with how many nodes at least
    #[arg(long, value_name = "TENANT:LEVEL=COUNT[xNODES]|none", value_parser = domains)]
    domains: Vec<(String, v1::DomainQuota)>,
    /// Of this pool [default: the first one]
    #[arg(long, default_value = "", hide_default_value = true)]
    pool: String,
    /// A node that is taken away
    #[arg(long, value_name = "NODE")]
    remove_node: Vec<String>,
    /// Further nodes, like one that is there [default: like the first one]
    #[arg(long, value_name = "COUNT[:NODE]", value_parser = more_nodes)]
    add_nodes: Vec<v1::MoreNodes>,
    /// A further job: tenant, members x GPUs, time limit
    #[arg(long, value_name = "TENANT:MxG:SPAN", value_parser = job)]
    job: Vec<v1::JobSpec>,
    /// Replay the history of so long a time instead of looking ahead
    #[arg(long, value_name = "SPAN", conflicts_with = "job")]
    last: Option<UserSpan>,
    /// How far to look ahead [at most: 90d]
    #[arg(long, value_name = "SPAN", default_value = "90d")]
    horizon: UserSpan,
}

fn quota(text: &str) -> Result<(String, u32), String> {
    let wrong = || "expected TENANT=GPUS, as in fusion=640".to_owned();
    let (tenant, gpus) = text.split_once('=').filter(|(tenant, _)| !tenant.is_empty()).ok_or_else(wrong)?;
    Ok((tenant.to_owned(), gpus.parse().map_err(|_| wrong())?))
}

fn domains(text: &str) -> Result<(String, v1::DomainQuota), String> {
    let (tenant, domains) = text.split_once(':').ok_or("expected TENANT:LEVEL=COUNT, as in fusion:leaf=4")?;
    Ok((tenant.to_owned(), tenants::domains::said(domains)?))
}

fn more_nodes(text: &str) -> Result<v1::MoreNodes, String> {
    let (count, like) = text.split_once(':').unwrap_or((text, ""));
    let count = count.parse().map_err(|_| "expected COUNT or COUNT:NODE, as in 8:n0".to_owned())?;
    Ok(v1::MoreNodes { count, like: like.to_owned() })
}

fn job(text: &str) -> Result<v1::JobSpec, String> {
    let wrong = || "expected TENANT:MEMBERSxGPUS:SPAN, as in fusion:16x8:4h".to_owned();
    let mut parts = text.split(':');
    let (Some(tenant), Some(shape), Some(limit), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let (members, gpus) = shape.split_once('x').ok_or_else(wrong)?;
    let limit: UserSpan = limit.parse().map_err(|_| wrong())?;
    let (members, gpus_per_member) = (members.parse().map_err(|_| wrong())?, gpus.parse().map_err(|_| wrong())?);
    Ok(v1::JobSpec {
        tenant: tenant.to_owned(),
        name: "what-if".to_owned(),
        shape: Some(v1::Shape { members, gpus_per_member, ..v1::Shape::default() }),
        time_limit_ms: limit.0,
        // It is never run.
        payload: Some(v1::Payload { args: vec!["true".to_owned()], ..v1::Payload::default() }),
        ..v1::JobSpec::default()
    })
}

impl WhatIfArgs {
    fn request(self) -> v1::WhatIfRequest {
        let pool = self.pool;
        let change = |(tenant, gpus): (String, u32)| v1::QuotaChange {
            tenant,
            pool: pool.clone(),
            quota: Some(gpus),
            ..v1::QuotaChange::default()
        };
        let mut quotas: Vec<v1::QuotaChange> = self.quota.into_iter().map(change).collect();
        for (tenant, domains) in self.domains {
            match quotas.iter_mut().find(|change| change.tenant == tenant) {
                Some(change) => change.domains = Some(domains),
                None => {
                    let pool = pool.clone();
                    quotas.push(v1::QuotaChange { tenant, pool, domains: Some(domains), ..v1::QuotaChange::default() });
                }
            }
        }
        v1::WhatIfRequest {
            quotas,
            remove_nodes: self.remove_node,
            add_nodes: self.add_nodes,
            jobs: self.job,
            horizon_ms: self.horizon.0,
            last_ms: self.last.map_or(0, |last| last.0),
        }
    }
}

/// `dure what-if`, asked of the scheduler.
pub(crate) async fn live(args: WhatIfArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.forecasts().await?;
    let seen = client.what_if(args.request()).await.map_err(|status| context.refused(status))?.into_inner();
    show(&seen, out)
}

/// `dure what-if --data-dir`.
pub(crate) fn journal(args: WhatIfArgs, out: Out) -> Result<(), Failure> {
    let folder = args.data_dir.clone().unwrap_or_default();
    let named = |err: &dyn std::fmt::Display| Failure::Failed(format!("{}: {err}", folder.display()));
    let reader = offline::reader(&folder)?;
    let seen = forecast::offline(&reader, args.request()).map_err(|status| named(&status.message()))?;
    show(&seen, out)
}

fn show(seen: &v1::WhatIfResponse, out: Out) -> Result<(), Failure> {
    out.answer("WhatIfResponse", seen, || text(seen, out))
}

fn text(seen: &v1::WhatIfResponse, out: Out) -> String {
    let mut rows =
        out.table(&["mission", "quota>", "jobs>", "start>", "mean wait>", "p95>", "evictions>", "lost gpu-h>"]);
    let time = |seconds: f64| span::human((seconds * 1_000.0) as u64);
    let both = |a: String, b: String| if a == b { a } else { format!("{a} -> {b}") };
    for of in &seen.missions {
        let (a, b) = (of.before.unwrap_or_default(), of.after.unwrap_or_default());
        rows.row([
            of.tenant.clone(),
            both(a.quota.to_string(), b.quota.to_string()),
            both(a.jobs.to_string(), b.jobs.to_string()),
            both(a.started.to_string(), b.started.to_string()),
            both(time(a.wait_mean_s), time(b.wait_mean_s)),
            both(time(a.wait_p95_s), time(b.wait_p95_s)),
            both(a.evictions.to_string(), b.evictions.to_string()),
            both(format!("{:.1}", a.lost_gpu_hours), format!("{:.1}", b.lost_gpu_hours)),
        ]);
    }
    let mut text = rows.text();
    seen.jobs.iter().for_each(|job| text.push_str(&format!("the job {}\n", estimates::forecast(job))));
    if seen.cut_short {
        text.push_str("the time for an answer was over first: what starts later counts as not started\n");
    }
    text.push_str(&format!("digest {}\n", seen.digest));
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_was_and_what_would_be_stand_side_by_side() {
        let outlook = |quota, started, wait, lost| v1::Outlook {
            quota,
            jobs: 40,
            started,
            wait_mean_s: wait,
            wait_p95_s: 3.0 * wait,
            evictions: 2,
            lost_gpu_hours: lost,
            ..v1::Outlook::default()
        };
        let mission = |tenant: &str, before, after| v1::MissionOutlook {
            tenant: tenant.into(),
            before: Some(before),
            after: Some(after),
        };
        let seen = v1::WhatIfResponse {
            missions: vec![
                mission("fusion", outlook(512, 40, 3_600.0, 0.0), outlook(640, 40, 60.0, 0.0)),
                mission("solar", outlook(320, 40, 10.0, 1.5), outlook(320, 39, 20.0, 7.25)),
            ],
            cut_short: true,
            digest: "ab12".into(),
            ..v1::WhatIfResponse::default()
        };
        expect![[r#"
            MISSION       QUOTA  JOBS     START       MEAN WAIT             P95  EVICTIONS  LOST GPU-H
            fusion   512 -> 640    40        40  1h00m -> 1m00s  3h00m -> 3m00s          2         0.0
            solar           320    40  40 -> 39      10s -> 20s    30s -> 1m00s          2  1.5 -> 7.2
            the time for an answer was over first: what starts later counts as not started
            digest ab12
        "#]]
        .assert_eq(&text(&seen, Out::plain()));
    }

    #[test]
    fn what_cannot_be_read_says_how_it_is_written() {
        assert_eq!(quota("fusion=640"), Ok(("fusion".to_owned(), 640)));
        for wrong in ["fusion", "=8", "fusion=many", "fusion=-1"] {
            assert!(quota(wrong).expect_err(wrong).contains("fusion=640"));
        }
        assert_eq!(more_nodes("8"), Ok(v1::MoreNodes { count: 8, like: String::new() }));
        assert_eq!(more_nodes("8:n0").expect("reads").like, "n0");
        assert!(more_nodes("n0").expect_err("no count").contains("8:n0"));
        let read = job("fusion:16x8:4h").expect("reads");
        assert_eq!((read.shape.expect("it has one").members, read.time_limit_ms), (16, 4 * 3_600_000));
        for wrong in ["fusion", "fusion:16:4h", "fusion:16x8:long", "fusion:16x8:4h:x", "fusion:ax8:4h"] {
            assert!(job(wrong).expect_err(wrong).contains("fusion:16x8:4h"));
        }
    }
}
