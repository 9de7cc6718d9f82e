//! Every metric: its name, its unit, what it means. Nothing is labelled by job or user: the number of series is bounded
//! by tenants, pools, methods and fixed words.
//!
//! In: what the pump and the layer tell, and every few seconds the state. Out: the text at `/metrics`.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use dure_core::Cluster;
use dure_core::ids::{JobId, PoolIndex};
use dure_core::node::{Contact, Node};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

use crate::follower::HistoryLag;
use crate::grpc::text;
use crate::journal::Durable;
use crate::live::Live;

/// Buckets of queued jobs (alike in tenant, priority, user and request) whose reason is worked out in one look; the jobs
/// of the others count as `OTHER`. Bounds the time that a look takes from the turns.
const MAX_SAMPLED_BUCKETS: usize = 2000;
/// The jobs that wait outside the queue: held, not yet due, waiting for others, or capped.
const GATED: &str = "GATED";
/// The jobs beyond `MAX_SAMPLED_BUCKETS`.
const OTHER: &str = "OTHER";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantGpus {
    tenant: String,
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolGpus {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rpc {
    method: String,
    code: String,
}

/// What is measured.
pub struct Metrics {
    registry: Registry,
    pending: Family<Reason, Gauge>,
    tenant_gpus: Family<TenantGpus, Gauge>,
    pool_gpus: Family<PoolGpus, Gauge>,
    nodes: Family<State, Gauge>,
    jobs: Family<State, Gauge>,
    agents: Gauge,
    turn: Histogram,
    commit: Histogram,
    events: Counter,
    written: Counter,
    head: Gauge<u64, AtomicU64>,
    history_events: Gauge<u64, AtomicU64>,
    history_seconds: Gauge<f64, AtomicU64>,
    rpcs: Family<Rpc, Counter>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From 50 microseconds to 1.6 seconds, doubling.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 16))
}

impl Metrics {
    /// Nothing was measured yet.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("dure"),
            pending: Family::default(),
            tenant_gpus: Family::default(),
            pool_gpus: Family::default(),
            nodes: Family::default(),
            jobs: Family::default(),
            agents: Gauge::default(),
            turn: seconds(),
            commit: seconds(),
            events: Counter::default(),
            written: Counter::default(),
            head: Gauge::default(),
            history_events: Gauge::default(),
            history_seconds: Gauge::default(),
            rpcs: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "pending_jobs",
            "Waiting jobs by the first reason, arrays counted once",
            self.pending.clone(),
        );
        registry.register(
            "tenant_gpus",
            "GPUs of missions by pool: quota, own (held inside it) and borrowed (held above it)",
            self.tenant_gpus.clone(),
        );
        registry.register(
            "pool_gpus",
            "GPUs by pool: free, taken, bad (fenced), closed (idle on a node that takes nothing new), lost",
            self.pool_gpus.clone(),
        );
        registry.register("nodes", "Nodes: ready, cordoned, draining, suspect, lost, spare", self.nodes.clone());
        registry.register("jobs", "Jobs in memory: waiting, running (they hold GPUs), ended", self.jobs.clone());
        registry.register("agents_connected", "Agents that hold a session", self.agents.clone());
        registry.register_with_unit("turn", "Time a turn of the scheduler takes", Unit::Seconds, self.turn.clone());
        registry.register_with_unit(
            "journal_commit",
            "Time from the start of a commit until it is durable",
            Unit::Seconds,
            self.commit.clone(),
        );
        registry.register("journal_events", "Events made durable since the start", self.events.clone());
        registry.register_with_unit(
            "journal_written",
            "Payloads and blobs made durable since the start",
            Unit::Bytes,
            self.written.clone(),
        );
        registry.register("journal_head", "Position of the last durable event", self.head.clone());
        let events = "Durable events that are not in the history yet";
        registry.register("history_lag_events", events, self.history_events.clone());
        let seconds = "Time between the last turn in the history and the last of the journal";
        registry.register_with_unit("history_lag", seconds, Unit::Seconds, self.history_seconds.clone());
        registry.register("rpcs", "Calls by method and the code that their answer began with", self.rpcs.clone());
    }

    /// A turn took this long.
    pub fn turn(&self, took: Duration) {
        self.turn.observe(took.as_secs_f64());
    }

    /// A commit is durable.
    pub fn committed(&self, durable: &Durable) {
        self.commit.observe(Duration::from_micros(durable.commit_micros).as_secs_f64());
        self.events.inc_by(durable.events);
        self.written.inc_by(durable.bytes);
        self.head.set(durable.head.seq);
    }

    /// The history is so far behind the journal.
    pub fn history(&self, lag: HistoryLag) {
        self.history_events.set(lag.events);
        self.history_seconds.set(lag.span.0 as f64 / 1000.0);
    }

    /// A call was answered, or began to be.
    pub fn called(&self, method: &str, code: tonic::Code) {
        self.rpcs.get_or_create(&Rpc { method: method.to_owned(), code: format!("{code:?}") }).inc();
    }

    /// Brings everything that is a state up to date. O(nodes + tenants + sampled buckets).
    pub fn observe(&self, cluster: &Cluster, live: &Live) {
        self.observe_tenants(cluster);
        self.observe_nodes(cluster);
        self.observe_jobs(cluster);
        self.agents.set(count(live.nodes.values().filter(|node| node.connected).count()));
    }

    fn observe_tenants(&self, cluster: &Cluster) {
        for tenant in cluster.tenants().iter().filter(|tenant| tenant.depth == 1) {
            for (at, pool) in cluster.pools().iter().enumerate() {
                let (quota, held) = (tenant.quota_in(PoolIndex::of(at)), tenant.held_in(PoolIndex::of(at)));
                let own = held.used.less(held.promised).less(held.borrowed);
                let quota = quota.quota.unwrap_or_default();
                for (state, gpus) in [("quota", quota), ("own", own), ("borrowed", held.borrowed)] {
                    let labels = TenantGpus { tenant: tenant.name.to_string(), pool: pool.name.to_string(), state };
                    self.tenant_gpus.get_or_create(&labels).set(i64::from(gpus.rounded_up()));
                }
            }
        }
    }

    fn observe_nodes(&self, cluster: &Cluster) {
        const STATES: [&str; 6] = ["free", "taken", "bad", "closed", "lost", "spare"];
        let mut gpus = vec![[0i64; STATES.len()]; cluster.pools().len()];
        const NODES: [&str; 6] = ["ready", "cordoned", "draining", "suspect", "lost", "spare"];
        let mut nodes = [0i64; NODES.len()];
        for node in cluster.nodes() {
            for (sum, part) in gpus[node.pool.at()].iter_mut().zip(gpus_by_state(node)) {
                *sum += part;
            }
            nodes[node_state(node)] += 1;
        }
        for (pool, sums) in cluster.pools().iter().zip(gpus) {
            for (state, sum) in STATES.into_iter().zip(sums) {
                self.pool_gpus.get_or_create(&PoolGpus { pool: pool.name.to_string(), state }).set(sum);
            }
        }
        for (state, sum) in NODES.into_iter().zip(nodes) {
            self.nodes.get_or_create(&State { state }).set(sum);
        }
    }

    fn observe_jobs(&self, cluster: &Cluster) {
        let root = &cluster.tenants()[0];
        let waiting = i64::from(cluster.waiting());
        let states = [("waiting", waiting), ("running", i64::from(root.running)), ("ended", count(cluster.ended()))];
        for (state, sum) in states {
            self.jobs.get_or_create(&State { state }).set(sum);
        }
        let mut left = MAX_SAMPLED_BUCKETS;
        let mut sums: Vec<(&'static str, i64)> =
            text::CODES.iter().chain([&GATED, &OTHER]).map(|code| (*code, 0)).collect();
        let mut add = |code: &'static str, jobs: i64| {
            if let Some((_, sum)) = sums.iter_mut().find(|(known, _)| *known == code) {
                *sum += jobs;
            }
        };
        add(GATED, waiting - count(root.queued));
        for (first, jobs) in buckets(cluster) {
            let blocker = if left == 0 { None } else { cluster.first_blocker(first) };
            left = left.saturating_sub(1);
            add(blocker.map_or(OTHER, |blocker| text::code(&blocker)), count(jobs));
        }
        for (reason, sum) in sums {
            self.pending.get_or_create(&Reason { reason }).set(sum);
        }
    }

    /// All of it as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(err) = encode(&mut text, &self.registry) {
            tracing::error!(error = %err, "metrics cannot be written");
            text.clear();
            let _ = writeln!(text, "# EOF");
        }
        text
    }
}

/// The first job of each bucket of queued jobs, and how many are in it.
fn buckets(cluster: &Cluster) -> impl Iterator<Item = (JobId, usize)> {
    let queues = cluster.tenants().iter().map(|tenant| &tenant.queue);
    let users = queues.flat_map(|queue| queue.levels.values()).flat_map(|level| level.values());
    let buckets = users.flat_map(|user| &user.buckets);
    buckets.filter_map(|bucket| bucket.keys.first().map(|first| (first.job, bucket.keys.len())))
}

/// In the order free, taken, bad, closed, lost, spare.
fn gpus_by_state(node: &Node) -> [i64; 6] {
    let all = node.capacity.gpus;
    if node.contact == Contact::Lost {
        return [0, 0, 0, 0, i64::from(all.len()), 0];
    }
    let (taken, bad) = (node.taken, node.bad.without(node.taken));
    let idle = all.without(taken).without(bad);
    let none = Default::default();
    let (free, closed, spare) = match (node.is_open(), node.spare) {
        (false, _) => (none, idle, none),
        (true, true) => (none, none, idle),
        (true, false) => (idle, none, none),
    };
    [free, taken, bad, closed, none, spare].map(|gpus: dure_core::gpu::GpuSet| i64::from(gpus.len()))
}

/// The place in ready, cordoned, draining, suspect, lost, spare.
fn node_state(node: &Node) -> usize {
    match node.contact {
        Contact::Lost => 4,
        Contact::Suspect => 3,
        Contact::Ready if node.draining => 2,
        Contact::Ready if node.cordoned => 1,
        Contact::Ready if node.spare => 5,
        Contact::Ready => 0,
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Serves `/metrics` and `/healthz` in plain HTTP until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    metrics: Arc<Metrics>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let scrape = move || {
        let text = metrics.text();
        async move { ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text) }
    };
    let routes = Router::new().route("/metrics", get(scrape)).route("/healthz", get(|| async { "ok\n" }));
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_every_metric() {
        let metrics = Metrics::new();
        metrics.turn(Duration::from_millis(1));
        metrics.called("/dure.v1.Jobs/Get", tonic::Code::NotFound);
        metrics.history(HistoryLag { events: 7, span: dure_core::units::Span(1_500) });
        metrics.observe(&Cluster::new(dure_core::Policy::standard()), &Live::default());
        let text = metrics.text();
        for line in [
            "dure_turn_seconds_count 1",
            "dure_rpcs_total{method=\"/dure.v1.Jobs/Get\",code=\"NotFound\"} 1",
            "dure_pending_jobs{reason=\"NOT_ENOUGH_GPUS\"} 0",
            "dure_nodes{state=\"ready\"} 0",
            "dure_agents_connected 0",
            "dure_journal_written_bytes_total 0",
            "dure_history_lag_events 7",
            "dure_history_lag_seconds 1.5",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_alerts_of_the_deployment_ask_for_what_is_there() {
        let metrics = Metrics::new();
        metrics.called("/dure.v1.Jobs/Submit", tonic::Code::ResourceExhausted);
        let mut cluster = Cluster::new(dure_core::Policy::standard());
        let pool = dure_core::input::Input::DefinePool { name: "h".into(), model: "H200".into(), gpus_per_node: 8 };
        dure_core::decide(&mut cluster, pool, None, dure_core::units::Time(1), &mut Vec::new()).expect("a pool");
        metrics.observe(&cluster, &Live::default());
        let text = metrics.text();
        let rules = include_str!("../../deploy/alerts.yml");
        let name =
            |from: &str| -> String { from.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect() };
        let asked: Vec<String> = rules.match_indices("dure_").map(|(at, _)| name(&rules[at..])).collect();
        assert!(asked.len() > 10, "{asked:?}");
        for metric in asked {
            assert!(text.contains(&metric), "{metric} is not among\n{text}");
        }
    }
}
