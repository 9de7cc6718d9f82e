//! All state. Fields are private to the crate: from outside it is read, and changed only by `apply`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use petgraph::graphmap::DiGraphMap;

use crate::blanks::Blanks;
use crate::booking::Bookings;
use crate::calendar::Calendar;
use crate::classes::{ClassKey, Classes};
use crate::ids::{AttemptNumber, ClassIndex, JobId, MemberIndex, NodeIndex, PoolIndex, TenantIndex, UserIndex};
use crate::job::{Attempt, DependencyKind, Job, MemberPhase};
use crate::jobs::Jobs;
use crate::news::News;
use crate::node::Node;
use crate::order::Order;
use crate::place::{PlaceIndex, STEPS_PER_HALF_LIFE, Scratch};
use crate::plan::{Plans, Reach};
use crate::policy::Policy;
use crate::pools::{Counted, Pool, Widest};
use crate::promise::Promise;
use crate::queue::{QueueKey, Queued};
use crate::refused::Refused;
use crate::reply::Reply;
use crate::reserve::Reserved;
use crate::resize::Looked;
use crate::tenant::Tenant;
use crate::timers::Timers;
use crate::topology::Topology;
use crate::units::Time;
use crate::wanted::Wanted;
use crate::whole::Whole;

/// A remembered answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) digest: u64,
    pub(crate) reply: Reply,
}

/// The state of the whole cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) policy: Policy,
    pub(crate) next_job: JobId,
    pub(crate) next_start: u64,
    /// Numbers of attempts up to here may have been given in a journal that a restore gave up.
    pub(crate) skipped_attempts: AttemptNumber,
    /// Launch deadlines and time limits of what was placed before are counted from here: the scheduler was away until then.
    pub(crate) counted_from: Time,
    pub(crate) pools: Vec<Pool>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) tenant_names: BTreeMap<Box<str>, TenantIndex>,
    pub(crate) users: Vec<Box<str>>,
    pub(crate) user_names: BTreeMap<Box<str>, UserIndex>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) node_names: BTreeMap<Box<str>, NodeIndex>,
    pub(crate) jobs: Jobs,
    /// Edges run from a job to those that wait for it.
    pub(crate) dependents: DiGraphMap<JobId, DependencyKind>,
    pub(crate) timers: Timers,
    pub(crate) ended: VecDeque<JobId>,
    pub(crate) requests: BTreeMap<(Box<str>, Box<str>), Answer>,
    pub(crate) request_order: VecDeque<(Box<str>, Box<str>)>,
    /// Waiting jobs, arrays counted once.
    pub(crate) waiting: u32,
    /// GPUs held for waiting jobs.
    pub(crate) promises: BTreeMap<JobId, Promise>,
    /// What tenants want back of what is lent, and since when.
    pub(crate) wanted: BTreeMap<Wanted, Time>,
    /// Quotas that hold from a date on.
    pub(crate) calendar: Calendar,
    /// Nodes that are kept for periods to come.
    pub(crate) bookings: Bookings,

    // What follows is derived: it is rebuilt from the above, is in no event, and no fact depends on its history.
    pub(crate) classes: Classes,
    pub(crate) index: PlaceIndex,
    /// By pool; as old as the index. Pools that have no node yet may be missing.
    pub(crate) widest: Vec<Widest>,
    /// Nodes were added or moved: the index is built anew before it is used.
    pub(crate) index_is_stale: bool,
    /// For each node what it adds to the counters of its pool.
    pub(crate) counted: Vec<Counted>,
    /// What evictions could free at most.
    pub(crate) reach: Reach,
    /// Jobs whose attempts are being stopped.
    pub(crate) leaving: BTreeSet<JobId>,
    /// Elastic gangs that run with fewer members than they may have.
    pub(crate) short_gangs: BTreeSet<JobId>,
    /// When they were looked at in vain. Derived.
    pub(crate) looked_at_size: Option<Looked>,
    /// Nodes that are kept free for gangs that lost one.
    pub(crate) spare_nodes: u32,
    /// Some mission has a deadline by which what it lent is to be back.
    pub(crate) has_deadlines: bool,
    /// Some tenant has caps.
    pub(crate) has_caps: bool,
    /// Some tenant has a budget.
    pub(crate) has_budgets: bool,
    /// Domains that are kept whole for those who are promised them.
    pub(crate) whole: Whole,
    /// What could let a refused class be admitted or placed.
    pub(crate) news: News,
    /// Counts jobs that came into a queue.
    pub(crate) queue_version: u64,
    pub(crate) refused: Refused,
    pub(crate) plans: Plans,
    pub(crate) reserved: Reserved,
    pub(crate) scratch: Scratch,
    /// Records of attempts made ahead.
    pub(crate) blank_attempts: Blanks<Box<Attempt>>,
    /// Memory of the order, kept from cycle to cycle.
    pub(crate) order: Order,
}

impl Cluster {
    /// An empty cluster: the root tenant and nothing else.
    pub fn new(policy: Policy) -> Self {
        let topology = Topology::compile(&[]).expect("nothing contradicts nothing");
        Self {
            policy,
            next_job: JobId(1),
            next_start: 0,
            skipped_attempts: AttemptNumber(0),
            counted_from: Time(0),
            pools: Vec::new(),
            tenants: vec![Tenant::new(TenantIndex::ROOT, "".into(), None, 0, 0)],
            tenant_names: BTreeMap::from([("".into(), TenantIndex::ROOT)]),
            users: Vec::new(),
            user_names: BTreeMap::new(),
            nodes: Vec::new(),
            node_names: BTreeMap::new(),
            jobs: Jobs::default(),
            dependents: DiGraphMap::new(),
            timers: Timers::default(),
            ended: VecDeque::new(),
            requests: BTreeMap::new(),
            request_order: VecDeque::new(),
            waiting: 0,
            promises: BTreeMap::new(),
            wanted: BTreeMap::new(),
            calendar: Calendar::default(),
            bookings: Bookings::default(),
            classes: Classes::default(),
            index: PlaceIndex::build(&topology, &[]),
            widest: Vec::new(),
            index_is_stale: false,
            counted: Vec::new(),
            reach: Reach::default(),
            leaving: BTreeSet::new(),
            short_gangs: BTreeSet::new(),
            looked_at_size: None,
            spare_nodes: 0,
            has_deadlines: false,
            has_caps: false,
            has_budgets: false,
            whole: Whole::default(),
            news: News::default(),
            queue_version: 0,
            refused: Refused::default(),
            plans: Plans::default(),
            reserved: Reserved::default(),
            scratch: Scratch::default(),
            blank_attempts: Blanks::default(),
            order: Order::default(),
        }
    }

    /// The number of a job's next attempt. One number means one attempt for ever, or agents take an order for another.
    pub(crate) fn next_attempt(&self, job: JobId) -> AttemptNumber {
        let last = self.job(job).and_then(|job| job.attempt.as_deref()).map_or(AttemptNumber(0), |last| last.number);
        AttemptNumber(last.max(self.skipped_attempts).0 + 1)
    }

    /// For a copy that is run far ahead: nothing is set aside in it any more. A plan for every minute of weeks, and what fits
    /// beside it, would cost twenty times what all starts cost.
    pub fn set_nothing_aside(&mut self) {
        self.policy.plan_in_time = false;
        self.set_reservations(Vec::new());
    }

    /// The rules and limits.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// All pools, by index.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// A pool.
    pub fn pool(&self, pool: PoolIndex) -> &Pool {
        &self.pools[pool.at()]
    }

    /// The pool with this name or of this GPU model.
    pub fn find_pool(&self, name: &str) -> Option<PoolIndex> {
        let by = |matches: &dyn Fn(&Pool) -> bool| self.pools.iter().position(matches).map(PoolIndex::of);
        by(&|pool| &*pool.name == name).or_else(|| by(&|pool| &*pool.model == name))
    }

    /// All tenants, by index; the first is the root.
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// A tenant.
    pub fn tenant(&self, tenant: TenantIndex) -> &Tenant {
        &self.tenants[tenant.at()]
    }

    /// The tenant with this path; the empty path is the root.
    pub fn find_tenant(&self, name: &str) -> Option<TenantIndex> {
        self.tenant_names.get(name).copied()
    }

    /// The tenant and all above it, the root last.
    pub fn chain(&self, tenant: TenantIndex) -> impl Iterator<Item = &Tenant> {
        std::iter::successors(Some(self.tenant(tenant)), |t| t.parent.map(|parent| self.tenant(parent)))
    }

    /// All missions, in order of definition.
    pub fn missions(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants[0].children.iter().map(|mission| self.tenant(*mission))
    }

    /// The mission of a tenant: the one right below the root. The root itself has none.
    pub fn mission(&self, tenant: TenantIndex) -> Option<TenantIndex> {
        self.chain(tenant).find(|tenant| tenant.depth == 1).map(|tenant| tenant.index)
    }

    /// Whether `tenant` is `above` or lies below it.
    pub fn is_within(&self, tenant: TenantIndex, above: TenantIndex) -> bool {
        self.chain(tenant).any(|tenant| tenant.index == above)
    }

    /// The name of a user.
    pub fn user(&self, user: UserIndex) -> &str {
        &self.users[user.at()]
    }

    /// All users seen so far, by index.
    pub fn users(&self) -> &[Box<str>] {
        &self.users
    }

    /// The user with this name, if one was seen.
    pub fn find_user(&self, name: &str) -> Option<UserIndex> {
        self.user_names.get(name).copied()
    }

    /// All nodes, by index.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, node: NodeIndex) -> &Node {
        &self.nodes[node.at()]
    }

    /// The node with this name.
    pub fn find_node(&self, name: &str) -> Option<NodeIndex> {
        self.node_names.get(name).copied()
    }

    /// All jobs in memory.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// A job in memory.
    pub fn job(&self, job: JobId) -> Option<&Job> {
        self.jobs.get(job)
    }

    /// The phase of a member of a current attempt, if it lies on this node.
    pub fn member_phase(
        &self,
        node: NodeIndex,
        job: JobId,
        attempt: AttemptNumber,
        member: MemberIndex,
    ) -> Option<MemberPhase> {
        let current = self.job(job)?.live_attempt().filter(|current| current.number == attempt)?;
        current.members.get(member.at()).filter(|member| member.placed.node == node).map(|member| member.phase)
    }

    /// Whether the history of this state has seen the end of this member: of an attempt of a job in memory that is over. Numbers
    /// from before a restore may also have been given to attempts that it does not know; of them nothing is said.
    pub fn has_seen_end_of(&self, job: JobId, attempt: AttemptNumber, member: MemberIndex) -> bool {
        let Some(last) = self.job(job).and_then(|job| job.attempt.as_deref()) else { return false };
        if attempt == last.number {
            return last.members.get(member.at()).is_some_and(|member| member.phase == MemberPhase::Gone);
        }
        // The next one begins when all of the last are proven gone.
        self.skipped_attempts < attempt && attempt < last.number
    }

    /// Waiting jobs, arrays counted once.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Ended jobs in memory.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }

    /// The classes of the queued jobs.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The index of free GPUs as of the last cycle or later.
    pub fn place_index(&self) -> &PlaceIndex {
        &self.index
    }

    /// When the next timer is due: then a `Tick` is wanted.
    pub fn next_timer(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(time, _)| time);
        timer.into_iter().chain(self.plans.wake).chain(self.reserved.wake()).min()
    }

    /// Whether a cycle could place something: jobs are queued, or wait for what is promised.
    pub fn has_queued(&self) -> bool {
        self.tenants[0].queued > 0 || !self.promises.is_empty()
    }

    pub(crate) fn job_mut(&mut self, job: JobId) -> &mut Job {
        self.jobs.get_mut(job).expect("an event names a job that exists")
    }

    /// Puts a job into its queue if it may be tried now, and it is not there.
    pub(crate) fn enqueue_if_eligible(&mut self, id: JobId) {
        let job = self.jobs.get_mut(id).expect("only jobs that exist are queued");
        if !job.is_eligible() || job.queued.is_some() || self.promises.contains_key(&id) {
            return;
        }
        let key = ClassKey::of(&job.spec);
        let class = self.classes.enter(key);
        let age = job.index_of.map_or(id, |(array, _)| array);
        let queued = Queued { key: QueueKey { back: !job.front, age, job: id }, class };
        job.queued = Some(queued);
        let (tenant, priority, user) = (job.spec.tenant, job.spec.priority, job.spec.user);
        if let Some(booking) = job.spec.booking {
            self.bookings.note_invited(booking, (std::cmp::Reverse(priority), queued.key), true);
        }
        self.tenants[tenant.at()].queue.insert(priority, user, queued);
        self.queue_version += 1;
        self.reserved.vain.came(job, class);
        self.count_queued(tenant, 1);
        self.plan_for_first(id);
    }

    /// Takes a job out of its queue if it is there.
    pub(crate) fn dequeue(&mut self, id: JobId) {
        let job = self.jobs.get_mut(id).expect("only jobs that exist are queued");
        let Some(queued) = job.queued.take() else { return };
        self.drop_reservation(id);
        let job = self.jobs.get_mut(id).expect("it was there above");
        let (tenant, priority, user) = (job.spec.tenant, job.spec.priority, job.spec.user);
        if let Some(booking) = job.spec.booking {
            self.bookings.note_invited(booking, (std::cmp::Reverse(priority), queued.key), false);
        }
        self.tenants[tenant.at()].queue.remove(priority, user, queued);
        self.count_queued(tenant, -1);
        if self.classes.leave(queued.class) {
            self.refused.forget_class(queued.class);
            self.plans.forget_class(queued.class);
            self.reserved.vain.forget_class(queued.class);
        }
    }

    fn count_queued(&mut self, tenant: TenantIndex, by: isize) {
        let mut next = Some(tenant);
        while let Some(tenant) = next {
            let tenant = &mut self.tenants[tenant.at()];
            tenant.queued = tenant.queued.checked_add_signed(by).expect("a job leaves the queue once");
            next = tenant.parent;
        }
    }

    /// After a node changed: brings the counters of its pool and the index up to date.
    pub(crate) fn node_changed(&mut self, node: NodeIndex) {
        self.counted[node.at()].follow(&self.nodes[node.at()], &mut self.pools);
        self.reach.touch(node);
        if !self.index_is_stale {
            self.index.sync(&self.nodes[node.at()]);
        }
        self.recount_domain(node);
    }

    /// A copy of the index as it stands now.
    pub(crate) fn fresh_index(&self) -> PlaceIndex {
        if self.index_is_stale { PlaceIndex::build(&self.topology(), &self.nodes) } else { self.index.clone() }
    }

    fn topology(&self) -> Topology {
        Topology::compile(&self.nodes).expect("names were checked when the nodes joined")
    }

    /// Builds the index anew if nodes were added or moved.
    pub(crate) fn refresh_index(&mut self) {
        if self.index_is_stale {
            let topology = self.topology();
            let learned = std::mem::take(&mut self.index.workload);
            self.index = PlaceIndex::build(&topology, &self.nodes);
            self.index.workload.take_over(learned);
            self.widest =
                (0..topology.pools()).map(|pool| Widest::of(&topology, PoolIndex::of(pool), &self.nodes)).collect();
            self.index_is_stale = false;
            self.count_domains();
        }
    }

    /// The step in which what is asked for is remembered, and by which it has faded.
    pub(crate) fn learning_step(&self, now: Time) -> u64 {
        now.0 / (self.policy.learn_half_life.0 / STEPS_PER_HALF_LIFE).max(1)
    }

    /// The class that a queued job waits in.
    pub fn class_of(&self, job: &Job) -> Option<ClassIndex> {
        job.queued.map(|queued| queued.class)
    }
}
