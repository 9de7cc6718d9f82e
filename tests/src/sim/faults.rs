//! What may go wrong in a world, chosen by its seed, and the mistakes that may be planted in it.
//!
//! Swarm testing (Groce et al., ISSTA 2012): each seed has only some of the faults, at rates of its own, so that no fault
//! hides another.

use dure_core::policy::Flaw;

use super::clock::{Dice, Ms};

/// A mistake that the world makes on purpose, to prove that it would be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// Answers and orders leave when a batch is handed to the disk, not when it is there.
    AckBeforeCommit,
    /// Agents and leader let every epoch through.
    NoEpochCheck,
    /// An agent removes a lease when it has reported the end, not when the report is recorded.
    LeaseRemovedEarly,
    /// What was freed wakes nobody who waits for room.
    LostWakeUp,
    /// A gang's barrier opens when all members but one are prepared.
    GangCountOffByOne,
    /// A lost node is taken for a dead one.
    NoProofOfDeath,
}

impl Plant {
    /// All of them, by name.
    pub const ALL: [(&'static str, Plant); 6] = [
        ("ack-before-commit", Plant::AckBeforeCommit),
        ("no-epoch-check", Plant::NoEpochCheck),
        ("lease-removed-early", Plant::LeaseRemovedEarly),
        ("lost-wake-up", Plant::LostWakeUp),
        ("gang-count-off-by-one", Plant::GangCountOffByOne),
        ("no-proof-of-death", Plant::NoProofOfDeath),
    ];

    /// The mistake of the core that its policy carries, when it is one.
    pub(super) fn in_the_core(self) -> Option<Flaw> {
        match self {
            Plant::LostWakeUp => Some(Flaw::LostWakeUp),
            Plant::GangCountOffByOne => Some(Flaw::GangCountOffByOne),
            Plant::NoProofOfDeath => Some(Flaw::NoProofOfDeath),
            Plant::AckBeforeCommit | Plant::NoEpochCheck | Plant::LeaseRemovedEarly => None,
        }
    }
}

/// The faults of one world. Rates are in a thousand of the tries.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Nodes.
    pub nodes: u64,
    /// GPUs of each node.
    pub gpus: u64,
    /// Jobs that clients ask for.
    pub jobs: u64,
    /// How long faults go on, in milliseconds.
    pub safety_ms: Ms,
    /// Mean time between two faults, in milliseconds.
    pub fault_every_ms: Ms,
    /// The kinds of faults that happen.
    pub kinds: Vec<Kind>,
    /// Longest delay of a message, in milliseconds.
    pub delay_ms: Ms,
    /// Requests and answers of clients that are lost.
    pub lost: u64,
    /// Requests that arrive twice.
    pub repeated: u64,
    /// Messages between agents and schedulers that arrive twice, one behind the other.
    pub doubled: u64,
    /// Longest time that a commit takes, in milliseconds.
    pub commit_ms: Ms,
    /// Agents' writes that fail or whose outcome is in doubt.
    pub agent_disk: u64,
    /// Launches that fail.
    pub launch_fails: u64,
    /// Processes that end badly.
    pub exits_badly: u64,
    /// Hellos that name leases which are long over.
    pub old_leases: u64,
    /// A crash may lose what the disk said was durable.
    pub lying_disk: bool,
    /// Events between two snapshots.
    pub snapshot_events: u64,
    /// What clients ask for beside whole GPUs anywhere.
    pub wishes: Wishes,
    /// Now and then a mission is promised whole nodes.
    pub whole: bool,
    /// So many in a thousand of the jobs name a booking that is for such, while there is one.
    pub invited: u64,
}

/// What clients ask for, each in a thousand of the jobs, and what missions have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wishes {
    /// Part of a GPU.
    pub shares: u64,
    /// A gang that may start with fewer members.
    pub elastic: u64,
    /// Not on one of the nodes.
    pub excluded: u64,
    /// Whole nodes.
    pub exclusive: u64,
    /// Never evicted.
    pub fixed: u64,
    /// A script on the first member, which has the others at its hand.
    pub scripts: u64,
    /// A MIG instance; each node has one GPU more, which is cut.
    pub instances: u64,
    /// An image that is brought to the node first.
    pub images: u64,
    /// Not before a time.
    pub later: u64,
    /// Missions have budgets, which their jobs exceed.
    pub budgets: bool,
    /// Missions wait for a while before they take back what they lent.
    pub patience: bool,
    /// Attempts are left alone at first.
    pub min_run: bool,
    /// Limits may be lowered.
    pub lowered: u64,
}

impl Wishes {
    /// Drawn from dice of its own, so that a new wish changes nothing of what older seeds do.
    fn roll(dice: &mut Dice) -> Self {
        let mut some = |rate: u64| if dice.chance(300) { rate } else { 0 };
        let (shares, elastic, excluded) = (some(400), some(500), some(300));
        let (exclusive, fixed) = (some(150), some(200));
        let (budgets, patience, min_run) = (dice.chance(250), dice.chance(250), dice.chance(250));
        let mut some = |rate: u64| if dice.chance(300) { rate } else { 0 };
        let (scripts, images, later) = (some(400), some(400), some(200));
        let instances = if dice.chance(300) { 250 } else { 0 };
        let exclusive = if instances > 0 { 0 } else { exclusive };
        let lowered = if dice.chance(300) { 500 } else { 0 };
        Self {
            shares,
            elastic,
            excluded,
            exclusive,
            fixed,
            scripts,
            instances,
            images,
            later,
            budgets,
            patience,
            min_run,
            lowered,
        }
    }
}

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The scheduler is killed.
    Crash,
    /// Another scheduler leads, while the old one still runs.
    Depose,
    /// The scheduler alone is cut off from its store, for shorter or longer than its lease.
    StoreCut,
    /// The scheduler stands still for a while.
    Pause,
    /// A commit fails: without a trace, after half of it was written, or after all of it was.
    FailedWrite,
    /// Commits take long for a while.
    SlowDisk,
    /// A node is cut off, both ways or one way.
    Partition,
    /// A stream breaks.
    Break,
    /// An agent is killed.
    AgentCrash,
    /// A node loses its power, for a short or a long time.
    Reboot,
    /// An agent stands still for a while.
    Lag,
    /// A GPU is bad for a while.
    BadGpu,
    /// The wall clock of the next scheduler stands elsewhere.
    ClockJump,
    /// An operator closes or empties a node, or opens it; or pauses a mission.
    Operator,
}

impl Kind {
    const ALL: [Kind; 14] = [
        Kind::Crash,
        Kind::Depose,
        Kind::StoreCut,
        Kind::Pause,
        Kind::FailedWrite,
        Kind::SlowDisk,
        Kind::Partition,
        Kind::Break,
        Kind::AgentCrash,
        Kind::Reboot,
        Kind::Lag,
        Kind::BadGpu,
        Kind::ClockJump,
        Kind::Operator,
    ];
}

impl Swarm {
    /// The faults of the world with these dice.
    pub(super) fn roll(dice: &mut Dice, shapes: &mut Dice) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|_| dice.chance(500)).collect();
        let mut some = |in_thousand: u64, rate: u64| if dice.chance(in_thousand) { 1 + dice.below(rate) } else { 0 };
        let (lost, repeated) = (some(500, 200), some(500, 200));
        let (agent_disk, launch_fails) = (some(300, 40), some(300, 60));
        let (exits_badly, old_leases) = (some(500, 200), some(300, 300));
        Self {
            nodes: dice.between(2, 5),
            gpus: *dice.pick(&[1, 2, 4, 4, 8]).unwrap_or(&4),
            jobs: dice.between(5, 40),
            safety_ms: dice.between(30_000, 240_000),
            fault_every_ms: *dice.pick(&[1_000, 4_000, 4_000, 15_000]).unwrap_or(&4_000),
            kinds,
            delay_ms: *dice.pick(&[2, 20, 20, 400, 3_000]).unwrap_or(&20),
            lost,
            repeated,
            commit_ms: *dice.pick(&[1, 5, 5, 50, 500]).unwrap_or(&5),
            agent_disk,
            launch_fails,
            exits_badly,
            old_leases,
            lying_disk: dice.chance(60),
            snapshot_events: *dice.pick(&[20, 100, 1_000, 1_000_000]).unwrap_or(&100),
            wishes: Wishes::roll(shapes),
            doubled: if shapes.chance(300) { 1 + shapes.below(200) } else { 0 },
            whole: shapes.chance(300),
            // Older seeds draw on as before.
            invited: if shapes.clone().chance(300) { 500 } else { 0 },
        }
    }
}
