//! What has been, and who did it; what becomes of those who ask too much.

use std::time::Duration;

use dure_proto::v1::{AuditRequest, ListJobsRequest, NodeState, PastRequest, PastUsageRequest};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::script;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until_some;
use tonic::Code;
use tonic_types::StatusExt as _;

/// Everything that ended, as the API tells it.
async fn told(cluster: &Cluster, jobs: usize) -> Vec<String> {
    let client = cluster.caller(Who::Op).history();
    until_some("the history holds all that ended", || async {
        let found = client.clone().jobs(PastRequest::default()).await.ok()?.into_inner();
        let audit = client.clone().audit(AuditRequest::default()).await.ok()?.into_inner();
        let usage = PastUsageRequest { by_day: true, by_user: true, ..PastUsageRequest::default() };
        let usage = client.clone().usage(usage).await.ok()?.into_inner();
        let done = audit.rows.iter().filter(|row| row.refused.is_empty());
        (found.rows.len() == jobs).then(|| {
            let lines = found.rows.iter().map(|row| format!("{row:?}"));
            let lines = lines.chain(done.map(|row| format!("{row:?}")));
            lines.chain(usage.rows.iter().map(|row| format!("{row:?}"))).collect()
        })
    })
    .await
}

#[tokio::test]
async fn history_and_audit_outlive_crashes_and_are_made_anew_from_the_journal() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let ana = cluster.caller(Who::Ana);
    for _ in 0..3 {
        ana.ended(ana.submit(script("fusion", 1, 2, "true")).await).await;
    }
    let held = dure_proto::v1::JobSpec { hold: true, ..script("solar", 1, 1, "true") };
    let held = ana.submit(held).await;
    let said = cluster.dure(Who::Ana, &["cancel", &held.to_string()]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = cluster.dure(Who::Bo, &["submit", "-A", "nowhere", "--", "true"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let before = told(&cluster, 4).await;

    let refused = cluster.dure(Who::Op, &["audit", "--refused", "--output", "csv"]).await;
    let line = refused.out.lines().find(|line| line.contains("Jobs/Submit")).unwrap_or_default().to_owned();
    assert!(
        line.contains("bo,") && line.contains(",PERMISSION_DENIED,1,") && line.contains("127.0.0.1"),
        "{refused:?}"
    );
    let audit = cluster.dure(Who::Op, &["audit", "--job", &held.to_string(), "--output", "json"]).await;
    assert!(audit.out.contains("\"method\":\"Jobs/Cancel\"") && audit.out.contains("\"user\":\"ana\""), "{audit:?}");
    let own = cluster.dure(Who::Bo, &["audit"]).await;
    assert!(own.code == 1 && own.err.contains("may not see the audit"), "{own:?}");
    let usage = cluster.dure(Who::Ana, &["usage", "--since", "1d", "--by-user", "--output", "csv"]).await;
    assert!(usage.out.starts_with("tenant,user,own,borrowed\nfusion,ana,"), "{usage:?}");

    cluster.kill_scheduler();
    cluster.start_scheduler();
    cluster.serving().await;
    assert_eq!(told(&cluster, 4).await, before, "after a crash");
    cluster.kill_scheduler();
    std::fs::remove_dir_all(cluster.data_dir().join("history")).expect("it is there");
    cluster.start_scheduler();
    cluster.serving().await;
    assert_eq!(told(&cluster, 4).await, before, "from nothing");
    cluster.kill_scheduler();
    let data_dir = cluster.data_dir().display().to_string();
    let said = cluster.dure(Who::Op, &["history", "rebuild", "--data-dir", &data_dir]).await;
    assert!(said.code == 0 && said.out.contains("made anew up to position"), "{said:?}");
    cluster.start_scheduler();
    cluster.serving().await;
    assert_eq!(told(&cluster, 4).await, before, "made anew by hand");
    let other = cluster.path("other").display().to_string();
    let said = cluster.dure(Who::Op, &["history", "fetch", "--data-dir", &other]).await;
    assert!(said.code == 0 && cluster.path("other").join("history/history.sqlite").exists(), "{said:?}");
}

#[tokio::test]
async fn after_a_restore_the_history_is_that_of_the_restored_journal() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    let ana = cluster.caller(Who::Ana);
    for _ in 0..2 {
        ana.ended(ana.submit(script("fusion", 1, 2, "true")).await).await;
    }
    let before = told(&cluster, 2).await;
    let (backup, data_dir) = (cluster.path("backup").display().to_string(), cluster.data_dir().display().to_string());
    let said = cluster.dure(Who::Op, &["backup", "--data-dir", &data_dir, &backup]).await;
    assert_eq!(said.code, 0, "{said:?}");
    // What comes after the backup is lost with the journal, and its rows are in the history.
    let lost = [ana.submit(script("solar", 1, 2, "true")).await, ana.submit(script("solar", 1, 2, "true")).await];
    for id in lost {
        ana.ended(id).await;
    }
    told(&cluster, 4).await;
    until_some("the history has caught up", || async {
        cluster.metrics().await.lines().any(|line| line == "dure_history_lag_events 0").then_some(())
    })
    .await;
    cluster.kill_scheduler();
    let said = cluster.dure(Who::Op, &["restore", "--force", "--data-dir", &data_dir, &backup]).await;
    assert_eq!(said.code, 0, "{said:?}");
    cluster.start_scheduler();
    cluster.serving().await;
    let mut now = told(&cluster, 2).await;
    now.retain(|row| !row.contains("method: \"restore\""));
    assert_eq!(now, before, "as it was at the backup");
    assert!(cluster.scheduler().log().contains("the history is not the journal's"), "and the log says so");
    // What happens from now on is in it, although the journal was longer before.
    let id = ana.submit(script("fusion", 1, 2, "true")).await;
    ana.ended(id).await;
    let after = told(&cluster, 3).await;
    assert!(after.iter().any(|row| row.contains(&format!("job_id: {id}"))), "{after:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_too_much_is_turned_away_and_nobody_else_notices() {
    let more = "[limits]\ncalls_per_second = 20\nburst = 40\n";
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 2, more, ..Setup::default() }).await;
    let (ana, op) = (cluster.caller(Who::Ana), cluster.caller(Who::Op));
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let client = ana.jobs();
            tokio::spawn(async move {
                let mut refused = Vec::new();
                for _ in 0..250 {
                    refused.extend(client.clone().list(ListJobsRequest::default()).await.err());
                }
                refused
            })
        })
        .collect();
    // Meanwhile others submit and run, and agents are heard.
    let bo = cluster.caller(Who::Bo);
    bo.ended(bo.submit(script("fusion", 1, 2, "true")).await).await;
    let mut refused = Vec::new();
    for flood in flood {
        refused.extend(flood.await.expect("it floods"));
    }
    assert!(refused.len() > 1_000, "{} of 2,000 were turned away", refused.len());
    for status in &refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let hint = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("when to come back");
        assert!(hint > Duration::ZERO && hint <= Duration::from_secs(2), "{hint:?}");
    }
    for node in cluster.nodes().await.expect("the operator is not turned away") {
        assert!(node.connected && node.state() == NodeState::Ready, "{node:?}");
    }
    let audit = AuditRequest { refused: true, ..AuditRequest::default() };
    let rows = until_some("the refusals are counted", || async {
        let rows = op.history().audit(audit.clone()).await.ok()?.into_inner().rows;
        let flood = rows.iter().filter(|row| row.user == "ana" && row.refused == "RESOURCE_EXHAUSTED");
        (flood.map(|row| row.count).sum::<u64>() == refused.len() as u64).then_some(rows)
    })
    .await;
    assert!(rows.len() <= 4, "a flood is a row a minute: {rows:#?}");
    assert!(cluster.scheduler().ended().is_none());
}
