//! What can happen, as raw numbers: they are taken modulo what there is, so that every part of a history can be left out
//! when a failure is made smaller.

use dure_core::units::Span;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A cluster to begin with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// GPUs of each node, which leaf it stands under, and how the last of its GPUs is cut.
    pub(crate) nodes: Vec<(u8, u8, u8)>,
    /// Nodes of the second half are of another model.
    pub(crate) two_models: bool,
    /// For each mission its division, and those of its projects.
    pub(crate) missions: Vec<(Division, Vec<Division>)>,
    /// Placements per cycle.
    pub(crate) placements: u32,
}

/// What a tenant is to have: quota, what the limit is above it, what of it is lent, weight.
/// Caps of users, and GPUs of a budget that lasts a job's default limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Division {
    pub(crate) user_jobs: Option<u8>,
    pub(crate) user_gpus: Option<u8>,
    pub(crate) budget: Option<u8>,
    /// Seconds: minimum run, and how soon what it lent is to be back; 0: none.
    pub(crate) min_run: u8,
    pub(crate) within: u8,
    pub(crate) quota: u8,
    pub(crate) limit_above: Option<u8>,
    pub(crate) lend: Option<u8>,
    pub(crate) weight: u8,
    /// The quota holds from so many seconds on, for so many; for 0 of them for good.
    pub(crate) dates: Option<(u8, u8)>,
    /// So many whole domains of each pool, of a level and size for all: nodes, or leaves with so many nodes.
    pub(crate) domains: Option<u8>,
}

/// A job to submit.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) tenant: u8,
    pub(crate) user: u8,
    pub(crate) sizes: Vec<u8>,
    pub(crate) any_pool: bool,
    pub(crate) inside_leaf: bool,
    pub(crate) priority: u8,
    pub(crate) fixed: bool,
    pub(crate) array: Option<(u8, u8)>,
    pub(crate) after: Vec<(u8, u8)>,
    pub(crate) held: bool,
    pub(crate) begin: Option<u8>,
    pub(crate) retries: u8,
    /// A tenth of a longest run that it may take; 0: the longest.
    pub(crate) limit: u8,
    /// The tenth of that to which it may be lowered.
    pub(crate) least: Option<u8>,
    /// Which of the bookings it names, where there are any.
    pub(crate) booking: Option<u8>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// One call; some carry a request id, which may come again.
    Submit {
        asks: Vec<Ask>,
        request: Option<u8>,
    },
    Cancel {
        job: u8,
        request: Option<u8>,
    },
    Hold(u8),
    Release(u8),
    Cycle,
    Tick(Span),
    /// An agent does something about one of the members on its node.
    Act {
        node: u8,
        member: u8,
        choice: u8,
    },
    /// All agents that are connected do what they are told, at once.
    Obey,
    /// A report that was made before comes again.
    Repeat(u8),
    /// A report that nobody has a right to.
    Foreign {
        node: u8,
        job: u8,
        attempt: u8,
        member: u8,
        gone: bool,
    },
    Silent(u8),
    Lost(u8),
    /// The agent is there again, with its processes.
    Hello(u8),
    /// The node has restarted: its processes are gone.
    Reboot(u8),
    /// Somebody has pulled the plug of a lost node, and says so.
    ConfirmDead(u8),
    Cordon(u8),
    Drain {
        node: u8,
        evict: bool,
    },
    Resume(u8),
    Bad {
        node: u8,
        gpus: u8,
    },
    /// It comes back with fewer GPUs, under another leaf, and with the last of them cut anew.
    Rebuilt {
        node: u8,
        gpus: u8,
        leaf: u8,
        cut: u8,
    },
    Divide {
        tenant: u8,
        division: Division,
    },
    /// One of its dated quotas is cancelled.
    Undate {
        tenant: u8,
        which: u8,
    },
    /// Nodes are booked: from a node on so many, in so many seconds for so many; for whom, and how.
    Book {
        node: u8,
        count: u8,
        from: u16,
        length: u16,
        tenant: u8,
        how: u8,
    },
    CancelBooking(u8),
    Pause {
        tenant: u8,
        paused: bool,
    },
    /// An agent connects so often, with some time in between.
    Flap {
        node: u8,
        times: u8,
    },
    /// The scheduler stood still for a while.
    Away(Span),
    /// The scheduler crashes: its follower takes over, and a core restored from a snapshot runs beside it.
    Restore,
}

fn division() -> impl Strategy<Value = Division> {
    let spans = prop_oneof![2 => Just((0, 0)), 1 => (0..60u8, 0..250u8)];
    let rare = |most: u8| option::weighted(0.15, 1..most);
    let quota = (0..10u8, option::weighted(0.4, 0..6u8), option::weighted(0.3, 0..6u8), 1..4u8);
    let dates = option::weighted(0.2, (0..100u8, prop_oneof![1 => Just(0), 3 => 1..100u8]));
    let domains = option::weighted(0.3, 1..3u8);
    let all = (quota, (rare(4), rare(9), rare(20)), spans, dates, domains);
    all.prop_map(|(quota, ledgers, (min_run, within), dates, domains)| {
        let ((quota, limit_above, lend, weight), (user_jobs, user_gpus, budget)) = (quota, ledgers);
        Division { quota, limit_above, lend, weight, user_jobs, user_gpus, budget, min_run, within, dates, domains }
    })
}

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let mission = (division(), vec(division(), 0..3));
    (vec((1..9u8, 0..2u8, cut()), 1..6), any::<bool>(), vec(mission, 1..4), prop_oneof![Just(1000u32), 1..4u32])
        .prop_map(|(nodes, two_models, missions, placements)| Setup { nodes, two_models, missions, placements })
}

/// Three nodes of four have no GPU that is cut.
fn cut() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 1 => 1..5u8]
}

fn ask() -> impl Strategy<Value = Ask> {
    let size = prop_oneof![3 => Just(1u8), 2 => 1..5u8, 1 => 1..9u8];
    let sizes = prop_oneof![
        4 => size.clone().prop_map(|size| vec![size]),
        3 => (size, 2..4usize).prop_map(|(size, members)| vec![size; members]),
        1 => vec(1..5u8, 2..4),
    ];
    let who = (any::<u8>(), 0..3u8, 0..4u8, prop::bool::weighted(0.2));
    let what = (sizes, prop::bool::weighted(0.6), prop::bool::weighted(0.15), option::weighted(0.15, (1..5u8, 0..3u8)));
    let when = (
        prop_oneof![3 => Just(Vec::new()), 1 => vec((0..3u8, any::<u8>()), 1..3)],
        prop::bool::weighted(0.1),
        option::weighted(0.1, 0..30u8),
        0..3u8,
        (
            prop_oneof![2 => Just(0u8), 1 => 1..10u8],
            option::weighted(0.4, 1..11u8),
            option::weighted(0.15, any::<u8>()),
        ),
    );
    (who, what, when).prop_map(|((tenant, user, priority, fixed), (sizes, any_pool, inside_leaf, array), when)| {
        let (after, held, begin, retries, (limit, least, booking)) = when;
        Ask {
            tenant,
            user,
            sizes,
            any_pool,
            inside_leaf,
            priority,
            fixed,
            array,
            after,
            held,
            begin,
            retries,
            limit,
            least,
            booking,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let n = any::<u8>;
    let request = || option::weighted(0.2, 0..4u8);
    prop_oneof![
        12 => (vec(ask(), 1..4), request()).prop_map(|(asks, request)| Step::Submit { asks, request }),
        3 => (n(), request()).prop_map(|(job, request)| Step::Cancel { job, request }),
        1 => n().prop_map(Step::Hold),
        2 => n().prop_map(Step::Release),
        16 => Just(Step::Cycle),
        5 => (0..40_000u64).prop_map(|ms| Step::Tick(Span(ms))),
        35 => (n(), n(), n()).prop_map(|(node, member, choice)| Step::Act { node, member, choice }),
        2 => Just(Step::Obey),
        3 => n().prop_map(Step::Repeat),
        1 => (n(), n(), 0..4u8, 0..4u8, any::<bool>())
            .prop_map(|(node, job, attempt, member, gone)| Step::Foreign { node, job, attempt, member, gone }),
        1 => n().prop_map(Step::Silent),
        2 => n().prop_map(Step::Lost),
        3 => n().prop_map(Step::Hello),
        2 => n().prop_map(Step::Reboot),
        1 => n().prop_map(Step::ConfirmDead),
        1 => n().prop_map(Step::Cordon),
        1 => (n(), any::<bool>()).prop_map(|(node, evict)| Step::Drain { node, evict }),
        2 => n().prop_map(Step::Resume),
        2 => (n(), prop_oneof![Just(0u8), n()]).prop_map(|(node, gpus)| Step::Bad { node, gpus }),
        1 => (n(), 0..9u8, 0..2u8, cut()).prop_map(|(node, gpus, leaf, cut)| Step::Rebuilt { node, gpus, leaf, cut }),
        3 => (n(), division()).prop_map(|(tenant, division)| Step::Divide { tenant, division }),
        1 => (n(), n()).prop_map(|(tenant, which)| Step::Undate { tenant, which }),
        3 => (n(), 0..3u8, 0..500u16, 1..300u16, n(), n())
            .prop_map(|(node, count, from, length, tenant, how)| Step::Book { node, count, from, length, tenant, how }),
        1 => n().prop_map(Step::CancelBooking),
        2 => (n(), any::<bool>()).prop_map(|(tenant, paused)| Step::Pause { tenant, paused }),
        1 => (n(), 2..12u8).prop_map(|(node, times)| Step::Flap { node, times }),
        1 => (0..200_000u64).prop_map(|ms| Step::Away(Span(ms))),
        2 => Just(Step::Restore),
    ]
}

/// What happens, in order.
pub(crate) fn history() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..300)
}
