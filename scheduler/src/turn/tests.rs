//! The turn against a world of values: what leaves, when, and what a Hello comes to.

use std::sync::{Arc, Mutex};

use dure_core::ids::{BlobId, JobId};
use dure_core::input::{JobDraft, QuotaDraft, TenantDraft};
use dure_core::job::Phase;
use dure_core::node::Contact;
use dure_core::request::Shape;
use dure_core::units::{CpuMilli, Gpus, MemoryMib};
use dure_core::{Cluster, Policy};

use dure_core::gpu::GpuSet;
use dure_proto::v1;

use super::*;
use crate::agents::session::SessionStream;

const BOOT: &str = "boot-1";

struct World {
    scheduler: Scheduler,
    now: Time,
    /// Keeps the streams of the agents open.
    streams: Vec<SessionStream>,
}

fn settings() -> Settings {
    Settings {
        epoch: Epoch(7),
        restore_floor: Epoch(0),
        terms: Terms::default(),
        store_id: "store".into(),
        deadlines: Deadlines {
            heartbeat: Span::seconds(1),
            suspect_after: Span::seconds(15),
            lost_after: Span::seconds(60),
        },
        topology: BTreeMap::new(),
    }
}

fn hello(node: &str, leases: Vec<v1::Lease>) -> v1::Hello {
    let gpu = |index| v1::GpuInventory { index, model: "G".into(), health: "ok".into(), ..Default::default() };
    v1::Hello {
        node: node.into(),
        boot_id: BOOT.into(),
        inventory: Some(v1::Inventory { gpus: (0..8).map(gpu).collect(), ..Default::default() }),
        leases,
        ..Default::default()
    }
}

fn lease(job: u64, attempt: u32, phase: v1::LeasePhase) -> v1::Lease {
    let how = Some(v1::exit::How::Code(0));
    let exit = (phase == v1::LeasePhase::Gone).then_some(v1::Exit { how, ..Default::default() });
    v1::Lease { job_id: job, attempt, member: 0, sequence: 1, phase: phase.into(), gpus: vec![0], exit }
}

fn draft(members: u32) -> JobDraft {
    JobDraft {
        part: dure_core::input::PartDraft::Whole,
        tenant: "m".into(),
        user: "u".into(),
        name: "j".into(),
        shape: Shape::Equal { members, gpus: 8 },
        gpu_models: Vec::new(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        required: None,
        preferred: None,
        distinct_nodes: false,
        only: Default::default(),
        priority: "".into(),
        preemptible: true,
        time_limit: Span::seconds(60),
        time_min: None,
        grace: None,
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        max_retries: 0,
        batch: false,
        hold_survivors: dure_core::units::Span::ZERO,
        booking: "".into(),
        payload: BlobId::default(),
    }
}

impl World {
    fn new() -> Self {
        let now = Time(1_000_000);
        let cluster = Cluster::new(Policy::standard());
        let mut world = Self { scheduler: Scheduler::new(cluster, Seq(0), settings(), now), now, streams: Vec::new() };
        let tenant = TenantDraft {
            name: "m".into(),
            create: true,
            quotas: vec![QuotaDraft { quota: Gpus::whole(16), ..Default::default() }],
            ..Default::default()
        };
        world.mutate(Input::DefinePool { name: "g".into(), model: "G".into(), gpus_per_node: 8 });
        world.mutate(Input::SetTenant(tenant));
        world
    }

    /// A turn with one call; its answer is in the cell once it may leave.
    fn call(&mut self, input: Input) -> Arc<Mutex<Option<Result<Position, String>>>> {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        let then: crate::handle::Decided = Box::new(move |_, decided| {
            decided.expect("the core takes it");
            Box::new(move |durable| *slot.lock().expect("one thread") = Some(durable))
        });
        let call = Call::Mutate(Box::new(Mutation {
            by: crate::auth::Caller::default(),
            input,
            key: None,
            blobs: Vec::new(),
            then,
        }));
        self.scheduler.turn(vec![call], Vec::new(), self.now);
        answer
    }

    fn mutate(&mut self, input: Input) {
        self.call(input);
        self.settle();
    }

    /// Everything becomes durable.
    fn settle(&mut self) -> Vec<Effect> {
        self.scheduler.durable(self.scheduler.head())
    }

    fn join(&mut self, session: u64, hello: v1::Hello) -> Vec<Effect> {
        let (outgoing, stream) = Outgoing::new();
        self.streams.push(stream);
        let hello = Box::new(v1::Hello { session, ..hello });
        let opened = FromAgent::Opened { session, hello, outgoing };
        self.scheduler.turn(Vec::new(), vec![opened], self.now);
        self.settle()
    }

    fn report(&mut self, node: &str, job: u64, what: v1::report::What) {
        let report = v1::Report { report_id: 1, job_id: job, attempt: 1, member: 0, what: Some(what) };
        let message = FromAgent::Reported { session: 1, node: node.into(), report: Box::new(report) };
        self.scheduler.turn(Vec::new(), vec![message], self.now);
        self.settle();
    }

    fn phase(&self, job: u64) -> Phase {
        self.scheduler.cluster().job(JobId(job)).expect("it is in memory").phase
    }
}

fn welcome(effects: Vec<Effect>) -> (v1::Welcome, Vec<v1::Order>) {
    let mut found = effects.into_iter().filter_map(|effect| match effect {
        Effect::Welcome(_, _, welcome, wanted) => {
            Some((*welcome, wanted.into_iter().map(|(order, _)| order).collect()))
        }
        _ => None,
    });
    found.next().expect("a Hello is answered with a Welcome")
}

#[test]
fn nothing_leaves_before_its_position_is_durable() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    let before = world.scheduler.head();
    let answer = world.call(Input::Submit(vec![draft(1)]));
    assert!(world.scheduler.head() > before, "the turn has events");
    assert_eq!(world.phase(1), Phase::Launching, "memory runs ahead of the disk");
    assert!(world.scheduler.durable(before).is_empty(), "neither the answer nor the order leaves");
    assert!(world.scheduler.durable(Seq(world.scheduler.head().0 - 1)).is_empty(), "nor a part of the turn");
    let effects = world.settle();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Order(..))), "the order leaves now");
    for effect in effects {
        if let Effect::Answer(answer) = effect {
            answer(Ok(world.scheduler.position()));
        }
    }
    let position = answer.lock().expect("one thread").clone().expect("answered").expect("durable");
    assert_eq!(position.seq, world.scheduler.head());
}

#[test]
fn a_read_waits_for_the_turn_that_it_saw() {
    let mut world = World::new();
    world.call(Input::Submit(vec![draft(1)]));
    let seen = Arc::new(Mutex::new(false));
    let slot = seen.clone();
    let look: crate::handle::InTurn = Box::new(move |cluster, _| {
        assert_eq!(cluster.jobs().len(), 1);
        Box::new(move |_| *slot.lock().expect("one thread") = true)
    });
    world.scheduler.turn(vec![Call::Read(look)], Vec::new(), world.now);
    let durable = world.scheduler.position().seq;
    assert!(world.scheduler.durable(durable).is_empty(), "what it saw is not durable yet");
    for effect in world.settle() {
        if let Effect::Answer(answer) = effect {
            answer(Ok(world.scheduler.position()));
        }
    }
    assert!(*seen.lock().expect("one thread"));
}

/// A write to the agent's disk that was said to have failed was done, and the agent was killed before it could take it back.
#[test]
fn a_lease_whose_end_is_recorded_keeps_no_gpu() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    world.mutate(Input::Submit(vec![JobDraft { max_retries: 3, ..draft(1) }]));
    let failed = v1::Exit { how: Some(v1::exit::How::Code(1)), ..Default::default() };
    world.report("n0", 1, v1::report::What::Gone(failed));
    assert_eq!(world.phase(1), Phase::Waiting);
    let (answer, _) = welcome(world.join(2, hello("n0", vec![lease(1, 1, v1::LeasePhase::Prepared)])));
    assert_eq!(answer.settled, [v1::LeaseKey { job_id: 1, attempt: 1, member: 0 }], "its last attempt");
    world.now = world.now + Span::seconds(10);
    world.scheduler.turn(Vec::new(), Vec::new(), world.now);
    world.settle();
    assert_eq!(world.phase(1), Phase::Launching);
    let leases = [1, 2, 3].map(|attempt| lease(1, attempt, v1::LeasePhase::Prepared)).to_vec();
    let (answer, wanted) = welcome(world.join(3, hello("n0", leases)));
    assert_eq!(answer.settled, [v1::LeaseKey { job_id: 1, attempt: 1, member: 0 }], "an earlier one");
    assert_eq!(wanted.iter().map(|order| order.attempt).collect::<Vec<_>>(), [2]);
    let node = world.scheduler.cluster().find_node("n0").expect("it joined");
    assert_eq!(world.scheduler.live().nodes[&node].unknown_leases, [(1, 3, 0)], "one that was never given");

    // After a restore the first number may have been given twice.
    let skip = Input::SkipIds { next_job: JobId(100), attempts: dure_core::ids::AttemptNumber(5) };
    world.mutate(skip);
    let (answer, _) = welcome(world.join(4, hello("n0", vec![lease(1, 1, v1::LeasePhase::Running)])));
    assert!(answer.settled.is_empty());
    assert!(
        world.scheduler.live().nodes[&node].unknown_leases.contains(&(1, 1, 0)),
        "nobody ends what may be another's"
    );
}

#[test]
fn what_waits_for_the_disk_is_counted_reads_too() {
    let mut world = World::new();
    let set = Input::Pause { tenant: "m".into(), paused: true };
    let _answer = world.call(set);
    let before = world.scheduler.waiting_effects();
    for count in 1..4 {
        let look: crate::handle::InTurn = Box::new(|_, _| Box::new(|_| ()));
        world.scheduler.turn(vec![Call::Read(look)], Vec::new(), world.now);
        assert_eq!(world.scheduler.waiting_effects(), before + count);
    }
    assert_eq!(world.settle().len(), before + 3);
    assert_eq!(world.scheduler.waiting_effects(), 0);
}

#[test]
fn a_hello_meets_what_is_wanted() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    world.mutate(Input::Submit(vec![draft(1)]));
    let (answer, wanted) = welcome(world.join(2, hello("n0", Vec::new())));
    assert_eq!(answer.epoch, 7);
    assert_eq!(wanted.len(), 1, "an order that never arrived is given again");
    assert!(matches!(wanted[0].what, Some(v1::order::What::Launch(_))));
    let leases = vec![lease(1, 1, v1::LeasePhase::Running), lease(99, 1, v1::LeasePhase::Running)];
    let (answer, wanted) = welcome(world.join(3, hello("n0", leases)));
    assert_eq!((wanted.len(), answer.settled.len()), (1, 0), "the unknown lease is neither wanted nor settled");
    assert!(matches!(wanted[0].what, Some(v1::order::What::Keep(_))), "what was obeyed is not sent again: {wanted:?}");
    assert_eq!(world.phase(1), Phase::Running);
    let node = world.scheduler.cluster().find_node("n0").expect("it joined");
    assert_eq!(world.scheduler.live().nodes[&node].unknown_leases, [(99, 1, 0)], "it is shown");
    assert_eq!(world.scheduler.cluster().node(node).bad, GpuSet::single(0), "nothing else starts on its GPU");
    let heartbeat = Box::new(v1::Heartbeat::default());
    let message = FromAgent::Heartbeat { session: 3, node: "n0".into(), heartbeat };
    world.scheduler.turn(Vec::new(), vec![message], world.now);
    assert_eq!(world.scheduler.cluster().node(node).bad, GpuSet::single(0), "nor later");
    let over = v1::Exit { how: Some(v1::exit::How::Code(0)), ..Default::default() };
    let what = Some(v1::report::What::Gone(over));
    let report = Box::new(v1::Report { report_id: 1, job_id: 99, attempt: 1, member: 0, what });
    world.scheduler.turn(Vec::new(), vec![FromAgent::Reported { session: 3, node: "n0".into(), report }], world.now);
    assert!(world.scheduler.cluster().node(node).bad.is_empty(), "the unknown lease is gone, and its GPU is back");
    let (answer, wanted) = welcome(world.join(4, hello("n0", vec![lease(1, 1, v1::LeasePhase::Gone)])));
    assert_eq!((wanted.len(), answer.settled.len()), (0, 1));
    assert_eq!(world.phase(1), Phase::Ended(dure_core::job::Outcome::Completed));
}

#[test]
fn a_running_member_without_a_lease_is_gone() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    world.mutate(Input::Submit(vec![draft(1)]));
    world.report("n0", 1, v1::report::What::StartedPid(4));
    assert_eq!(world.phase(1), Phase::Running);
    world.join(2, hello("n0", Vec::new()));
    let job = world.scheduler.cluster().job(JobId(1)).expect("it is in memory");
    assert_eq!((job.attempts, job.phase), (2, Phase::Launching), "it starts again at once, as after a lost node");
}

#[test]
fn a_report_of_a_replaced_session_counts_no_more() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    world.mutate(Input::Submit(vec![draft(1)]));
    world.join(2, hello("n0", Vec::new()));
    world.report("n0", 1, v1::report::What::StartedPid(4));
    assert_eq!(world.phase(1), Phase::Launching);
}

#[test]
fn silence_makes_suspect_then_lost_and_a_heartbeat_heals() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    let node = world.scheduler.cluster().find_node("n0").expect("it joined");
    let contact = |world: &World| world.scheduler.cluster().node(node).contact;
    for (seconds, expected) in [(14, Contact::Ready), (2, Contact::Suspect), (50, Contact::Lost)] {
        world.now = world.now + Span::seconds(seconds);
        world.scheduler.turn(Vec::new(), Vec::new(), world.now);
        assert_eq!(contact(&world), expected);
    }
    let heartbeat = Box::new(v1::Heartbeat::default());
    let message = FromAgent::Heartbeat { session: 1, node: "n0".into(), heartbeat };
    world.scheduler.turn(Vec::new(), vec![message], world.now);
    assert_eq!(contact(&world), Contact::Ready);
    assert_eq!(world.scheduler.cluster().node(node).free(), GpuSet::first(8));
}

#[test]
fn an_agent_that_obeyed_more_than_the_journal_holds_ends_the_leadership() {
    let mut world = World::new();
    let head = world.scheduler.head().0;
    let ahead =
        v1::Hello { highest_epoch: 7, highest_seq: head + 5, store_id: "store".into(), ..hello("n0", Vec::new()) };
    world.join(1, ahead);
    let lost = Fatal::BehindAgent { node: "n0".into(), obeyed: head + 5, end: head };
    assert_eq!(world.scheduler.fatal(), Some(&lost));
    assert!(world.scheduler.cluster().find_node("n0").is_none(), "it is not let in");
}

/// What a leader lost is not found again in what the next ones have written at the same positions.
#[test]
fn a_lost_position_is_missed_whatever_stands_there_now() {
    let mut world = World::new();
    let (cluster, end) = (world.scheduler.cluster().clone(), world.scheduler.head().0);
    let mut terms = Terms::default();
    terms.wrote(Epoch(7), Seq(1));
    for (epoch, head) in [(8, end), (9, end + 20)] {
        let settings = Settings { epoch: Epoch(epoch), terms: terms.clone(), ..settings() };
        world.scheduler = Scheduler::new(cluster.clone(), Seq(head), settings, world.now);
        world.join(1, v1::Hello { highest_epoch: 7, highest_seq: end, ..hello("n0", Vec::new()) });
        world.mutate(Input::Submit(vec![draft(1); 5]));
        assert!(world.scheduler.fatal().is_none() && world.scheduler.head().0 > end + 3);
        world.join(2, v1::Hello { highest_epoch: 7, highest_seq: end + 3, ..hello("n1", Vec::new()) });
        let lost = Fatal::BehindAgent { node: "n1".into(), obeyed: end + 3, end };
        assert_eq!(world.scheduler.fatal(), Some(&lost), "epoch {epoch}");
        terms.wrote(Epoch(epoch), Seq(head + 1));
    }
}

#[test]
fn an_agent_of_a_later_leader_ends_the_leadership() {
    let mut world = World::new();
    world.join(1, v1::Hello { highest_epoch: 8, ..hello("n0", Vec::new()) });
    assert!(matches!(world.scheduler.fatal(), Some(Fatal::Deposed { theirs: 8, ours: 7, .. })));
}

#[test]
fn after_a_restore_the_agents_may_be_ahead() {
    let mut world = World::new();
    let mut settings = settings();
    settings.epoch = Epoch(1_000_007);
    settings.restore_floor = Epoch(1_000_000);
    world.scheduler = Scheduler::new(Cluster::new(Policy::standard()), Seq(0), settings, world.now);
    let ahead = v1::Hello { highest_epoch: 7, highest_seq: 500, ..hello("n0", Vec::new()) };
    welcome(world.join(1, ahead));
    assert_eq!(world.scheduler.fatal(), None);
}

#[test]
fn a_welcome_is_for_the_session_whose_hello_it_answers() {
    let mut world = World::new();
    let mut opened = |session| {
        let (outgoing, stream) = Outgoing::new();
        world.streams.push(stream);
        FromAgent::Opened { session, hello: Box::new(v1::Hello { session, ..hello("n0", Vec::new()) }), outgoing }
    };
    let both = vec![opened(1), opened(2)];
    world.scheduler.turn(Vec::new(), both, world.now);
    let effects = world.settle();
    let node = world.scheduler.cluster().find_node("n0").expect("it has joined");
    let answers: Vec<u64> = effects
        .iter()
        .filter_map(|effect| if let Effect::Welcome(_, session, ..) = effect { Some(*session) } else { None })
        .collect();
    assert_eq!(
        (answers, world.scheduler.session(node)),
        (vec![1, 2], Some(2)),
        "the first is for a session that is over"
    );
}

#[test]
fn a_hello_that_was_under_way_for_long_is_refused() {
    let mut world = World::new();
    let of_boot = |boot: &str| v1::Hello { boot_id: boot.into(), ..hello("n0", Vec::new()) };
    world.join(2, of_boot(BOOT));
    world.join(1, of_boot(BOOT));
    let node = world.scheduler.cluster().find_node("n0").expect("it has joined");
    assert_eq!(world.scheduler.session(node), Some(2), "an earlier stream takes no place");
    world.join(5, of_boot("boot-2"));
    assert_eq!(world.scheduler.session(node), Some(2), "while one boot is heard no other takes its place");
    world.now = world.now + settings().deadlines.suspect_after;
    world.scheduler.turn(Vec::new(), Vec::new(), world.now);
    world.join(6, of_boot("boot-2"));
    assert_eq!(world.scheduler.session(node), Some(6), "the other has fallen silent");
    world.scheduler.turn(Vec::new(), vec![FromAgent::Closed { session: 6, node: "n0".into() }], world.now);
    world.join(4, of_boot(BOOT));
    assert_eq!(world.scheduler.session(node), None, "a boot that is over opened its stream before");
    assert_eq!(&*world.scheduler.cluster().node(node).boot_id, "boot-2");
}

#[test]
fn a_hello_that_answers_another_challenge_is_refused() {
    let mut world = World::new();
    let (outgoing, mut stream) = Outgoing::new();
    let hello = Box::new(v1::Hello { session: 7, ..hello("n0", Vec::new()) });
    let opened = FromAgent::Opened { session: 8, hello, outgoing };
    world.scheduler.turn(Vec::new(), vec![opened], world.now);
    assert!(world.scheduler.cluster().find_node("n0").is_none());
    let crate::agents::session::Next::Message(message) = stream.try_next() else { panic!("it is told") };
    let Some(v1::scheduler_message::Kind::Refusal(refusal)) = message.kind else { panic!("{message:?}") };
    assert_eq!(refusal.reason, "node n0 answers the challenge 7, and was asked 8");
}

#[test]
fn what_ended_while_nobody_was_there_is_not_taken_for_late() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    world.mutate(Input::Submit(vec![draft(1)]));
    world.report("n0", 1, v1::report::What::StartedPid(4));
    assert_eq!(world.phase(1), Phase::Running);

    // Another scheduler takes over, long after the time limit.
    world.now = world.now + Span::seconds(1_000);
    let (cluster, head) = (world.scheduler.cluster().clone(), world.scheduler.head());
    world.scheduler = Scheduler::new(cluster, head, settings(), world.now);
    world.scheduler.turn(Vec::new(), Vec::new(), world.now);
    assert_eq!(world.phase(1), Phase::Running);
    assert!(world.scheduler.next_timer() > Some(world.now), "no turn is wanted before there is something to do");
    world.join(2, hello("n0", vec![lease(1, 1, v1::LeasePhase::Gone)]));
    assert_eq!(world.phase(1), Phase::Ended(dure_core::job::Outcome::Completed));
}

#[test]
fn who_is_not_heard_after_an_absence_delays_the_others_no_longer_than_a_deadline() {
    let mut world = World::new();
    world.join(1, hello("n0", Vec::new()));
    world.mutate(Input::Submit(vec![draft(1)]));
    world.report("n0", 1, v1::report::What::StartedPid(4));
    let later = JobDraft { not_before: Some(world.now + Span::seconds(500)), ..draft(1) };
    world.mutate(Input::Submit(vec![later]));
    world.now = world.now + Span::seconds(1_000);
    let (cluster, head) = (world.scheduler.cluster().clone(), world.scheduler.head());
    world.scheduler = Scheduler::new(cluster, head, settings(), world.now);
    for (seconds, expected) in [(0, false), (14, false), (1, true)] {
        world.now = world.now + Span::seconds(seconds);
        world.scheduler.turn(Vec::new(), Vec::new(), world.now);
        let job = world.scheduler.cluster().job(JobId(2)).expect("it is in memory");
        assert_eq!(job.not_before.is_none(), expected, "after {seconds} s more");
    }
    // Its time limit counts anew: the shim ends it in time, whatever the clock of this scheduler says.
    assert_eq!(world.phase(1), Phase::Running);
    world.now = world.now + Span::seconds(1_000);
    world.scheduler.turn(Vec::new(), Vec::new(), world.now);
    // Its node is lost meanwhile.
    assert_eq!(world.phase(1), Phase::AwaitingProof(dure_core::job::Outcome::TimedOut));
}
