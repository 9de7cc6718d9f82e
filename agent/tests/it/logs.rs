//! Reading what members write, while they write it and after.

use std::fs;

use dure_proto::v1::{LogRead, LogStop, scheduler_message};

use crate::harness::{Node, Scheduler, launch, script, until};

fn read(read_id: u64, job_id: u64) -> LogRead {
    LogRead { read_id, job_id, attempt: 1, ..LogRead::default() }
}

#[tokio::test]
async fn a_followed_log_comes_as_it_is_written_and_ends_with_the_member() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let go = node.dir.path().join("go");
    let text = format!("echo one; while ! test -e {}; do sleep 0.01; done; echo two", go.display());
    session.order(launch(1, script(&text))).await;
    session.started().await;
    let follow = LogRead { follow: true, ..read(1, 1) };
    session.send(scheduler_message::Kind::LogRead(follow)).await;
    let first = session.log_data(1).await;
    assert_eq!((first.data.as_slice(), first.offset, first.end), (&b"one\n"[..], 0, false));
    fs::write(&go, "").expect("writes");
    let mut rest = Vec::new();
    loop {
        let data = session.log_data(1).await;
        rest.extend_from_slice(&data.data);
        if data.end {
            break;
        }
    }
    assert_eq!(rest, b"two\n");
    let (tail, end) = session.log(LogRead { tail_bytes: 2, ..read(2, 1) }).await;
    assert_eq!((tail.as_str(), end.offset, end.error.as_str()), ("o\n", 8, ""));
    let (middle, _) = session.log(LogRead { offset: 4, ..read(3, 1) }).await;
    assert_eq!(middle, "two\n");
    let (_, end) = session.log(read(4, 99)).await;
    assert!(end.error.contains("member 99.1.0 has no log on this node"), "{}", end.error);
}

#[tokio::test]
async fn a_reader_can_stop_and_large_logs_come_in_chunks() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    session.order(launch(1, script("head -c 300000 /dev/zero | tr '\\0' x; sleep 1000"))).await;
    session.started().await;
    let log = node.config.state_dir.join("logs/1.1.0/out.0");
    until("the log is written", || fs::metadata(&log).is_ok_and(|meta| meta.len() == 300_000)).await;
    session.send(scheduler_message::Kind::LogRead(LogRead { follow: true, ..read(1, 1) })).await;
    let mut got = 0;
    while got < 300_000 {
        let data = session.log_data(1).await;
        assert!(data.data.len() <= dure_agent::logs::LOG_CHUNK);
        assert_eq!(data.offset, got);
        got += data.data.len() as u64;
    }
    session.send(scheduler_message::Kind::LogStop(LogStop { read_id: 1 })).await;
    let (whole, _) = session.log(read(2, 1)).await;
    assert_eq!(whole.len(), 300_000);
    session.order(crate::harness::stop(1, 0)).await;
    session.gone().await;
}

#[tokio::test]
async fn the_newest_output_is_kept_and_a_file_of_the_jobs_own_has_all_of_it() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    node.config.log_limit_bytes = Some(40_000);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let chosen = node.dir.path().join("out");
    let mut wanted = script("seq 1 30000; exit 3");
    let payload = wanted.payload.as_mut().expect("a script");
    payload.stdout_path = format!("{}/%x-%j.%r.log", chosen.display());
    session.order(launch(7, wanted)).await;
    let exit = session.gone().await;
    assert_eq!(crate::harness::how(&exit), dure_proto::v1::exit::How::Code(3));
    let all = fs::read_to_string(chosen.join("test-7.0.log")).expect("is there");
    assert!(all.starts_with("1\n2\n") && all.ends_with("30000\n"), "{} bytes", all.len());
    let (kept, end) = session.log(read(1, 7)).await;
    assert!(kept.len() <= 40_000 && kept.len() > 30_000, "{} bytes are kept", kept.len());
    assert!(all.ends_with(&kept), "the newest");
    assert_eq!(end.offset as usize, all.len(), "places are those of the whole stream");
    let (tail, _) = session.log(LogRead { tail_bytes: 6, ..read(2, 7) }).await;
    assert_eq!(tail, "30000\n");
}
