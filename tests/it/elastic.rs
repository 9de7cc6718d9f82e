//! Elastic gangs with real agents: one gives a member up for who is inside its quota, starts again where it was, and grows
//! when nobody waits any more.

use dure_proto::v1::{Constraints, JobPhase};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, script};
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until_some;

const POLICY: &str = "default_grace = \"2s\"\nbackoff = \"100ms\"\nreclaim_patience = \"0s\"\nrestart_cost = \"0s\"\n\
                      grow_after = \"1s\"";

#[tokio::test]
async fn a_gang_shrinks_for_its_lender_and_grows_again() {
    let cluster = Cluster::start(crate::DURE, Setup { policy: POLICY, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, finish, go) = (cluster.path("notes"), cluster.path("finish"), cluster.path("go"));
    let text = format!("echo \"$DURE_ATTEMPT $RANK $WORLD_SIZE\" >> {}\n{}", notes.display(), await_file(&finish));
    let mut elastic = script("solar", 4, 8, &text);
    elastic.constraints = Some(Constraints { min_members: 1, ..Constraints::default() });
    let gang = caller.submit(elastic).await;
    let noted = |attempt: u32, world: usize| {
        let text = std::fs::read_to_string(&notes).unwrap_or_default();
        let mut all = (0..world).map(|rank| format!("{attempt} {rank} {world}"));
        all.all(|line| text.lines().any(|said| said == line)).then_some(())
    };
    until_some("four members run", || async { noted(1, 4) }).await;
    // All that solar borrows is fusion's or space's; one node is enough.
    let claim = caller.submit(script("fusion", 1, 8, &await_file(&go))).await;
    until_some("three members run", || async { noted(2, 3) }).await;
    let (job, other) = (caller.phase(gang, JobPhase::Running).await, caller.phase(claim, JobPhase::Running).await);
    let nodes = |job: &dure_proto::v1::Job| -> Vec<String> {
        job.attempt.iter().flat_map(|attempt| &attempt.members).map(|member| member.node.clone()).collect()
    };
    assert_eq!(nodes(&job), ["n0", "n1", "n2"], "it starts again where it was");
    assert_eq!(nodes(&other), ["n3"]);
    std::fs::write(&go, "").expect("writes");
    assert_eq!(caller.ended(claim).await.phase(), JobPhase::Completed);
    until_some("four members run again", || async { noted(3, 4) }).await;
    std::fs::write(&finish, "").expect("writes");
    let job = caller.ended(gang).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 3), "{job:#?}");
}
