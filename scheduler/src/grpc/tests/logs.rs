//! Logs: which node is asked what, and how a reading ends.

use dure_proto::v1;
use dure_proto::v1::jobs_server::Jobs as _;
use expect_test::expect;
use tokio_stream::StreamExt as _;
use tonic::Status;

use super::{World, ana, by, spec, submit};

fn data(offset: u64, data: &[u8], end: bool, error: &str) -> v1::LogData {
    v1::LogData { read_id: 1, offset, data: data.to_vec(), end, error: error.into() }
}

async fn read(world: &World, chunks: Vec<v1::LogData>, asked: v1::LogsRequest) -> Vec<Result<v1::LogChunk, String>> {
    *world.logs.chunks.lock().expect("no test panics in here") = chunks;
    let stream = world.services.logs(by(&ana(), asked)).await.expect("it is read").into_inner();
    stream.map(|chunk| chunk.map_err(|status| format!("{:?}: {}", status.code(), status.message()))).collect().await
}

#[tokio::test]
async fn output_is_read_from_the_node_of_the_member() {
    let world = World::new().await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 8)]))).await.expect("accepted");
    let asked = v1::LogsRequest { job_id: 1, stderr: true, follow: true, tail_bytes: 10, ..Default::default() };
    let chunks = vec![data(5, b"hello ", false, ""), data(11, b"", false, ""), data(11, b"world", true, "")];
    let found = read(&world, chunks, asked).await;
    let text: Vec<u8> = found.into_iter().flat_map(|chunk| chunk.expect("no error").data).collect();
    assert_eq!(text, b"hello world");
    let questions = world.logs.asked.lock().expect("no test panics in here").clone();
    let (node, question) = &questions[0];
    assert_eq!((node.as_str(), question.job_id, question.attempt, question.member), ("n0", 1, 1, 0));
    assert!(question.stderr && question.follow && question.tail_bytes == 10);
}

#[tokio::test]
async fn a_reading_that_breaks_off_says_from_where_to_go_on() {
    let world = World::new().await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 8)]))).await.expect("accepted");
    let asked = v1::LogsRequest { job_id: 1, ..Default::default() };
    let broken = read(&world, vec![data(0, b"half", false, "")], asked).await;
    assert_eq!(broken[0], Ok(v1::LogChunk { offset: 0, data: b"half".to_vec(), left_out: 0 }));
    expect!["Aborted: the reading was cut off (a slow reader, or a lost session); go on from offset 4"]
        .assert_eq(broken[1].as_ref().expect_err("it broke off"));
    let gone = read(&world, vec![data(0, b"", true, "no such file")], asked).await;
    expect!["NotFound: the output cannot be read: no such file"].assert_eq(gone[0].as_ref().expect_err("no file"));
}

#[tokio::test]
async fn who_follows_too_slowly_is_told_how_much_was_left_out() {
    let world = World::new().await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 8)]))).await.expect("accepted");
    let asked = v1::LogsRequest { job_id: 1, follow: true, ..Default::default() };
    let chunks = vec![data(0, b"begin", false, ""), data(1_005, b"later", false, ""), data(2_010, b"", true, "")];
    let found: Vec<v1::LogChunk> =
        read(&world, chunks, asked).await.into_iter().map(|chunk| chunk.expect("no error")).collect();
    let left_out: Vec<(u64, u64)> = found.iter().map(|chunk| (chunk.offset, chunk.left_out)).collect();
    assert_eq!(left_out, [(0, 0), (1_005, 1_000), (2_010, 1_000)]);
}

#[tokio::test]
async fn what_has_no_output_is_named() {
    let world = World::new().await;
    let array = v1::JobSpec { array: Some(v1::ArraySpec { size: 2, max_running: 1 }), ..spec("fusion/plasma", 1) };
    let held = v1::JobSpec { hold: true, ..spec("fusion/plasma", 1) };
    let jobs = vec![spec("fusion/plasma", 8), held, array, spec("fusion/plasma", 8)];
    world.services.submit(by(&ana(), submit(jobs))).await.expect("accepted");
    let refused = async |asked: v1::LogsRequest| {
        let status: Status = world.services.logs(by(&ana(), asked)).await.expect_err("refused");
        format!("{:?}: {}", status.code(), status.message())
    };
    let of = |job_id| v1::LogsRequest { job_id, ..Default::default() };
    expect!["FailedPrecondition: job 2 has not been placed yet: it has no output"].assert_eq(&refused(of(2)).await);
    expect!["InvalidArgument: job_id: job 3 is an array; name one of its indices, as in 3_0"]
        .assert_eq(&refused(of(3)).await);
    expect!["InvalidArgument: member: 1; the members are 0 to 0"]
        .assert_eq(&refused(v1::LogsRequest { member: 1, ..of(1) }).await);
    expect!["InvalidArgument: attempt: 2 is not attempt 1, the only one whose place is still known; use 0"]
        .assert_eq(&refused(v1::LogsRequest { attempt: 2, ..of(1) }).await);
    expect!["InvalidArgument: tail_bytes: 1 beside offset 1; use one of the two"]
        .assert_eq(&refused(v1::LogsRequest { offset: 1, tail_bytes: 1, ..of(1) }).await);
    expect!["NotFound: job_id: there is no job 9; check the id: a job that ended long ago is forgotten"]
        .assert_eq(&refused(of(9)).await);
}
