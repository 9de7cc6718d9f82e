//! Networks that are really cut: agents and schedulers in network namespaces of their own, a cable that is pulled, and
//! routes that lead nowhere, so that only one way is open. Skipped, with the reason, where namespaces cannot be made.

use std::time::Duration;

use dure_proto::v1::{HandOverRequest, JobPhase, LeaderRequest, NodeState, PastRequest};
use dure_scheduler::etcd::local::{LocalError, LocalEtcd};
use dure_tests::client::{Bearer, Caller};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, note, noted, script};
use dure_tests::netns::Namespace;
use dure_tests::process::{Process, lives};
use dure_tests::setup::{Setup, Who, join_token};
use dure_tests::wait::{until, until_some};
use tonic::Code;

/// How a scheduler that leads no more, or does not know yet, is absent for its callers: they ask again.
const ABSENCE: [Code; 3] = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];
/// Silence is noticed soon.
const LIVENESS: &str = "heartbeat = \"100ms\"\nsuspect_after = \"1s\"\nlost_after = \"3s\"";

/// Cuts one way or both, and heals it.
type Cut = fn(&Namespace, bool);

/// A cluster that speaks TLS, as it must off loopback; each node has a one-time token of its own.
fn prepare(net: &Namespace, nodes: u32) -> Cluster {
    let address = Some(net.outside());
    let setup = Setup { nodes, liveness: LIVENESS, tls: true, address, ..Setup::default() };
    let mut cluster = Cluster::prepare(crate::DURE, setup);
    for number in 0..nodes as usize {
        let file = cluster.path(&format!("join{number}.token"));
        let token = join_token(&cluster.path("tokens.toml"), &format!("n{number}"));
        std::fs::write(&file, token).expect("writes");
        let authority = cluster.authority();
        let config = cluster.agent(number);
        (config.token_file, config.ca) = (Some(file), Some(authority));
    }
    cluster
}

/// A cluster of one node, which is in the namespace with all that it runs.
async fn node_inside(net: &Namespace) -> Cluster {
    let mut cluster = prepare(net, 1);
    cluster.put_inside(0, net);
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.start_agents();
    cluster.ready().await;
    cluster
}

/// A job that runs until its file is there: its id, its process, its notes, its file.
async fn long_job(cluster: &Cluster, caller: &Caller) -> (u64, u32, std::path::PathBuf, std::path::PathBuf) {
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let id = caller.submit(script("fusion", 1, 8, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
    caller.phase(id, JobPhase::Running).await;
    until("it notes its process", || !noted(&notes).is_empty()).await;
    (id, noted(&notes)[0].pid, notes, end)
}

#[tokio::test]
async fn a_cable_that_is_out_for_less_than_the_deadlines_changes_nothing() {
    let Some(net) = Namespace::create() else { return };
    let cluster = node_inside(&net).await;
    let caller = cluster.caller(Who::Ana);
    let (id, _, notes, end) = long_job(&cluster, &caller).await;
    net.plug(false);
    tokio::time::sleep(Duration::from_millis(600)).await; // the cut itself, shorter than suspect_after
    net.plug(true);
    std::fs::write(&end, "").expect("writes");
    let job = caller.ended(id).await;
    assert_eq!((job.phase(), job.attempts, job.exit_code), (JobPhase::Completed, 1, Some(0)));
    assert_eq!(noted(&notes).len(), 1, "it ran once");
}

#[tokio::test]
async fn a_node_cut_off_for_longer_is_lost_and_its_job_waits_for_it() {
    let cuts: [(&str, Cut); 3] = [
        ("both ways", |net, cut| net.plug(!cut)),
        ("from the node", |net, cut| net.mute(&net.outside(), cut)),
        ("to the node", |net, cut| net.deafen(cut)),
    ];
    for (what, cut) in cuts {
        let Some(net) = Namespace::create() else { return };
        let cluster = node_inside(&net).await;
        let caller = cluster.caller(Who::Ana);
        let (id, pid, notes, end) = long_job(&cluster, &caller).await;
        cut(&net, true);
        cluster.node_is("n0", "is lost", |node| node.state() == NodeState::Lost).await;
        assert!(lives(pid), "{what}: what runs runs on");
        std::fs::write(&end, "").expect("writes");
        until("it ends while its node is cut off", || !lives(pid)).await;
        let job = caller.job(id).await.expect("it is there");
        assert_eq!(
            (job.phase(), job.attempts),
            (JobPhase::Running, 1),
            "{what}: nobody knows, and nothing starts anew"
        );
        cut(&net, false);
        let job = caller.ended(id).await;
        assert_eq!((job.phase(), job.attempts, job.exit_code), (JobPhase::Completed, 1, Some(0)), "{what}");
        assert_eq!(noted(&notes).len(), 1, "{what}: it ran once");
        // What comes after it runs there as before.
        let next = caller.submit(script("fusion", 1, 8, "exit 0")).await;
        assert_eq!(caller.ended(next).await.phase(), JobPhase::Completed, "{what}");
    }
}

/// Two schedulers on a real etcd. The first is in the namespace, and reaches etcd at an address of its own; all else is
/// outside.
struct Two {
    cluster: Cluster,
    _first: Process,
    at_first: String,
    _etcd: LocalEtcd,
}

impl Two {
    /// None where etcd is not installed.
    async fn start(net: &Namespace) -> Option<Self> {
        let cluster = prepare(net, 2);
        let members = cluster.path("etcd");
        std::fs::create_dir_all(&members).expect("a folder");
        let etcd = match LocalEtcd::start_on(&net.outside_too(), &members, 3) {
            Ok(etcd) => etcd,
            Err(LocalError::NotInstalled) => {
                println!("skipped: {}", LocalError::NotInstalled);
                return None;
            }
            Err(err) => panic!("{err}"),
        };
        let text = std::fs::read_to_string(cluster.path("scheduler.toml")).expect("it was written");
        let several = format!("[etcd]\nlease = \"2s\"\nendpoints = {:?}\n[liveness]", etcd.endpoints());
        let text = text.replacen("[liveness]", &several, 1);
        let of = |address: &str, dir: &str| {
            let data_dir = cluster.path(dir);
            let text = text.replace(&net.outside(), address);
            let text = text.replace(&format!("{:?}", cluster.data_dir()), &format!("{data_dir:?}"));
            format!("advertise = \"https://{address}:7070\"\n{text}")
        };
        std::fs::write(cluster.path("first.toml"), of(&net.inside(), "first")).expect("writes");
        std::fs::write(cluster.path("scheduler.toml"), of(&net.outside(), "scheduler")).expect("writes");
        let config = cluster.path("first.toml").display().to_string();
        let args = ["scheduler", "--config", &config];
        let first = Process::start_in(&net.enter(), cluster.binary(), &args, &cluster.path("first.log"));
        let at_first = format!("https://{}:7070", net.inside());
        let mut two = Self { cluster, _first: first, at_first, _etcd: etcd };
        // Both speak for one authority, which the first has made.
        let (made, copied) = (two.cluster.path("first/ca"), two.cluster.data_dir().join("ca"));
        until("the first has made its authority", || made.join("ca.crt").is_file()).await;
        until_some("the first leads", || async {
            std::fs::create_dir_all(&copied).expect("a folder");
            for file in std::fs::read_dir(&made).expect("it is there") {
                let file = file.expect("it is there");
                std::fs::copy(file.path(), copied.join(file.file_name())).expect("copies");
            }
            two.leads(&two.first(Who::Op)).await.then_some(())
        })
        .await;
        two.cluster.start_scheduler();
        for number in 0..2 {
            two.cluster.agent(number).scheduler = vec![two.at_first.clone(), two.cluster.server()];
        }
        two.cluster.start_agents();
        let op = two.first(Who::Op);
        until_some("both nodes have joined", || async {
            let nodes = op.nodes().list(dure_proto::v1::ListNodesRequest::default()).await.ok()?.into_inner().nodes;
            (nodes.iter().filter(|node| node.connected).count() == 2).then_some(())
        })
        .await;
        let second = two.cluster.caller(Who::Op);
        until_some("the second stands by", || async {
            let said = second.schedulers().leader(LeaderRequest {}).await.ok()?.into_inner();
            (said.address == two.at_first && !said.here).then_some(())
        })
        .await;
        Some(two)
    }

    fn first(&self, who: Who) -> Caller {
        let endpoint = self.cluster.endpoint_of(&self.at_first, None);
        let endpoint = endpoint.connect_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(1));
        Caller { channel: endpoint.connect_lazy(), bearer: Bearer::of(self.cluster.token(who)) }
    }

    async fn leads(&self, at: &Caller) -> bool {
        at.schedulers().leader(LeaderRequest {}).await.is_ok_and(|said| said.into_inner().here)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_etcd_alone_starts_nothing_and_after_it_nothing_runs_twice() {
    let Some(net) = Namespace::create() else { return };
    let Some(two) = Two::start(&net).await else { return };
    let (first, second) = (two.first(Who::Ana), two.cluster.caller(Who::Ana));
    let notes = two.cluster.path("notes");
    let runs = |end: &str| format!("{}\n{}", note(&notes), await_file(&two.cluster.path(end)));
    let long = first.submit(script("solar", 1, 8, &runs("long"))).await;
    let short = first.submit(script("fusion", 1, 8, &runs("short"))).await;
    until("both nodes are taken", || noted(&notes).len() == 2).await;
    let next = first.submit(script("fusion", 1, 8, &note(&notes))).await;

    net.mute(&net.outside_too(), true);
    // Room for the next one: the leader hears of it, and may not start it any more.
    std::fs::write(two.cluster.path("short"), "").expect("writes");
    let during = || vec![script("fusion", 1, 1, &note(&notes))];
    let op = two.cluster.caller(Who::Op);
    until_some("another one leads", || async {
        let answer = first.try_submit("during", during()).await;
        let is_absence = answer.as_ref().is_err_and(|status| ABSENCE.contains(&status.code()));
        assert!(is_absence, "nothing is acknowledged that etcd does not hold: {answer:?}");
        two.leads(&op).await.then_some(())
    })
    .await;
    assert!(!two.leads(&two.first(Who::Op)).await, "the first knows by its own clock that it leads no more");
    let new = until_some("it is accepted by the second", || async { second.try_submit("during", during()).await.ok() });
    let new = new.await[0];
    for id in [short, next, new] {
        let job = second.ended(id).await;
        assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 1), "{job:#?}");
    }
    assert_eq!(second.job(long).await.expect("it is there").phase(), JobPhase::Running);

    net.mute(&net.outside_too(), false);
    let op = two.first(Who::Op);
    until_some("the first stands by", || async {
        let said = op.schedulers().leader(LeaderRequest {}).await.ok()?.into_inner();
        (said.address == two.cluster.server() && !said.here).then_some(())
    })
    .await;
    std::fs::write(two.cluster.path("long"), "").expect("writes");
    let job = second.ended(long).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 1), "{job:#?}");
    assert_eq!(noted(&notes).len(), 4, "each ran once: {:?}", noted(&notes));
    // The history of the second has no gap, though it ended none of the jobs before it led: it followed the journal.
    let history = second.history();
    let past = until_some("the history holds all that ended", || async {
        let found = history.clone().jobs(PastRequest::default()).await.ok()?.into_inner();
        (found.rows.len() == 4).then_some(found)
    })
    .await;
    assert!(past.reach.as_ref().is_some_and(|reach| reach.gaps.is_empty()), "{past:#?}");
    // And it can lead again.
    two.cluster.caller(Who::Op).schedulers().hand_over(HandOverRequest {}).await.expect("the second leads");
    until_some("the first leads again", || async { two.leads(&two.first(Who::Op)).await.then_some(()) }).await;
    assert_eq!(first.job(new).await.expect("it is known").phase(), JobPhase::Completed);
}
