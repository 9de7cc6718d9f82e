//! Parts of GPUs with real agents: MIG instances that the node's operator has made, shares beside whole GPUs.

use dure_proto::v1::{GetNodeRequest, JobPhase, JobSpec, Shape};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, script};
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until_some;
use tonic::Code;

/// GPU 7 is cut into a half, two small instances and one that Dure has no name for.
const FAKE: &str = "gpu 7 mig=1\nmig 7 1g.18gb 0 1 MIG-low\nmig 7 1g.18gb 1 1 MIG-high\nmig 7 1g.18gb+me 2 1\n\
                    mig 7 3g.71gb 4 4 MIG-half\ngpu 0 uuid=GPU-zero";

fn sees(text: &str) -> String {
    format!("echo \"$DURE_JOB_ID $RANK $CUDA_VISIBLE_DEVICES ${{DURE_GPU_MIG:-whole}}\" >> {text}\n")
}

fn on_mig(job: JobSpec, members: u32, profile: &str) -> JobSpec {
    let shape = Shape { members, gpus_per_member: 1, mig_profile: profile.to_owned(), ..Shape::default() };
    JobSpec { shape: Some(shape), ..job }
}

#[tokio::test]
async fn members_get_the_instances_that_are_there() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, fake: FAKE, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, finish) = (cluster.path("notes"), cluster.path("finish"));
    let text = format!("{}{}", sees(&notes.display().to_string()), await_file(&finish));
    let plain = script("fusion", 1, 1, &text);
    let pair = caller.submit(on_mig(plain.clone(), 2, "1g.18gb")).await;
    let half = caller.submit(on_mig(plain.clone(), 1, "3g.71gb")).await;
    let more = caller.submit(on_mig(plain.clone(), 1, "1g.18gb")).await;
    let whole = caller.submit(script("fusion", 1, 7, &text)).await;
    let noted = |line: String| {
        let text = std::fs::read_to_string(&notes).unwrap_or_default();
        text.lines().any(|said| said == line).then_some(())
    };
    for line in [
        format!("{pair} 0 MIG-low 1g.18gb"),
        format!("{pair} 1 MIG-high 1g.18gb"),
        format!("{half} 0 MIG-half 3g.71gb"),
    ] {
        until_some(&line, || async { noted(line.clone()) }).await;
    }
    let waits = caller.job_is(more, "refused", |job| job.reason_code == "NO_SHARE").await;
    assert!(waits.reason.contains("1g.18gb"), "{}", waits.reason);
    caller.phase(whole, JobPhase::Running).await;

    let node = caller.nodes().get(GetNodeRequest { name: "n0".into() }).await.expect("is known");
    let listed: Vec<(u32, String, u32)> = node
        .into_inner()
        .mig
        .into_iter()
        .filter_map(|mig| {
            let slice = mig.slice?;
            Some((mig.gpu, slice.profile, slice.first_slice))
        })
        .collect();
    let expected = [(7, "1g.18gb", 0), (7, "1g.18gb", 1), (7, "3g.71gb", 4)];
    assert_eq!(listed, expected.map(|(gpu, profile, first)| (gpu, profile.to_owned(), first)));
    let shown = cluster.dure(Who::Ana, &["nodes", "n0"]).await.out;
    assert!(shown.contains("MIG:        GPU 7: 1g.18gb at 0, 1g.18gb at 1, 3g.71gb at 4 (3 of 3 held)"), "{shown}");
    assert!(shown.contains("7 (3g.71gb at 4)"), "{shown}");

    std::fs::write(&finish, "").expect("writes");
    for job in [pair, half, more, whole] {
        assert_eq!(caller.ended(job).await.phase(), JobPhase::Completed);
    }
    let unknown = caller.try_submit("", vec![on_mig(plain.clone(), 1, "1g.5gb")]).await.expect_err("no H200 has it");
    assert_eq!(unknown.code(), Code::InvalidArgument, "{unknown}");
    assert!(unknown.message().contains("1g.18gb"), "it names those that there are: {unknown}");
    let absent = caller.try_submit("", vec![on_mig(plain, 1, "7g.141gb")]).await.expect_err("no GPU is cut so");
    assert!(absent.message().contains("room for 0"), "{absent}");
    let said =
        cluster.dure(Who::Ana, &["submit", "-A", "fusion", "--gpus-mig", "1g.18gb", "--wait", "--", "true"]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test]
async fn shares_lie_on_one_gpu_and_are_shown() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, fake: FAKE, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, finish) = (cluster.path("notes"), cluster.path("finish"));
    let text = format!("{}{}", sees(&notes.display().to_string()), await_file(&finish));
    let shape = Shape { members: 4, gpus_per_member: 1, gpu_milli: 250, ..Shape::default() };
    let gang = caller.submit(JobSpec { shape: Some(shape), ..script("fusion", 1, 1, &text) }).await;
    let all = |text: String| (0..4).all(|rank| text.contains(&format!("{gang} {rank} GPU-zero whole\n")));
    until_some("four members see one GPU", || async {
        all(std::fs::read_to_string(&notes).unwrap_or_default()).then_some(())
    })
    .await;
    let shown = cluster.dure(Who::Ana, &["job", &gang.to_string()]).await.out;
    assert!(shown.contains("0 (0.250)"), "{shown}");
    std::fs::write(&finish, "").expect("writes");
    assert_eq!(caller.ended(gang).await.phase(), JobPhase::Completed);
}
