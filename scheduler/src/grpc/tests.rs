//! The services against a small owner of a cluster that answers at once, as if everything were durable.

mod forecasts;
mod jobs;
mod logs;
mod others;
mod serve;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dure_core::gpu::GpuSet;
use dure_core::ids::{Epoch, Seq};
use dure_core::input::{Input, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::node::{Capacity, Location};
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Time};
use dure_core::{Cluster, Policy, cycle, decide};
use dure_proto::v1;
use tokio::sync::mpsc;
use tonic::Request;

use super::convert::job_event;
use super::logs::{LogSource, LogStream, Started};
use super::server::{Blobs, Services};
use super::watch::{Past, Recorded, Watchers};
use crate::agents::logs::LogError;
use crate::auth::{Caller, Credential, Identity, NodeName, Role};
use crate::clock::Clock;
use crate::follower::{Copied, FollowerError, News};
use crate::forecast::{Forecasts, Told};
use crate::grpc::seat::Seat;
use crate::handle::{Call, Handle, Mutation, Position};
use crate::journal::{BlobId, JournalError};
use crate::live::Live;

/// What the owner has made durable.
#[derive(Default)]
struct Store {
    events: Mutex<Vec<Recorded>>,
    blobs: Mutex<BTreeMap<BlobId, Vec<u8>>>,
    /// Positions before this one are not kept.
    kept_from: Mutex<u64>,
}

impl Past for Store {
    fn events(&self, after: Seq, limit: usize) -> Result<Vec<Recorded>, JournalError> {
        let kept_from = *self.kept_from.lock().expect("no test panics in here");
        if after.0 + 1 < kept_from {
            return Err(JournalError::Truncated { kept_from });
        }
        let events = self.events.lock().expect("no test panics in here");
        Ok(events.iter().filter(|recorded| recorded.seq > after).take(limit).cloned().collect())
    }
}

impl Blobs for Store {
    fn blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.blobs.lock().expect("no test panics in here").get(&id).cloned())
    }
}

/// Output that tests put in place.
#[derive(Default)]
struct FakeLogs {
    chunks: Mutex<Vec<v1::LogData>>,
    asked: Mutex<Vec<(String, v1::LogRead)>>,
}

impl LogSource for FakeLogs {
    fn exec(&self, node: &str, _order: v1::ExecOrder) -> Result<Started, LogError> {
        Err(LogError::NotConnected(node.to_owned()))
    }

    fn open(&self, node: &str, read: v1::LogRead) -> Result<LogStream, LogError> {
        if node == "n1" {
            return Err(LogError::NotConnected(node.to_owned()));
        }
        self.asked.lock().expect("no test panics in here").push((node.to_owned(), read));
        let chunks = self.chunks.lock().expect("no test panics in here").clone();
        Ok(Box::pin(tokio_stream::iter(chunks)))
    }
}

/// The owner: decides every call in a turn of its own.
struct Owner {
    cluster: Cluster,
    live: Live,
    seq: u64,
    store: Arc<Store>,
    watchers: Watchers,
}

impl Owner {
    fn take(&mut self, call: Call) {
        match call {
            Call::Read(look) => look(&self.cluster, &self.live)(Ok(self.position())),
            Call::Mutate(mutation) => {
                let Mutation { input, key, blobs, then, .. } = *mutation;
                let now = Time(1_000_000 + self.seq);
                let mut events = Vec::new();
                let decided = decide(&mut self.cluster, input, key.as_ref(), now, &mut events);
                if decided.is_ok() {
                    let mut kept = self.store.blobs.lock().expect("no test panics in here");
                    kept.extend(blobs.into_iter().map(|blob| (blob.id(), blob.bytes().to_vec())));
                }
                let answer = then(&self.cluster, decided);
                cycle(&mut self.cluster, now, &mut events);
                let mut shown = Vec::new();
                for event in events {
                    self.seq += 1;
                    shown.extend(job_event(&self.cluster, self.seq, now, &event));
                    let recorded = Recorded { seq: Seq(self.seq), time: now, event };
                    self.store.events.lock().expect("no test panics in here").push(recorded);
                }
                self.watchers.publish(shown);
                answer(Ok(self.position()));
            }
        }
    }

    fn position(&self) -> Position {
        Position { seq: Seq(self.seq), epoch: Epoch(3) }
    }

    async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        while let Some(call) = calls.recv().await {
            self.take(call);
        }
    }
}

/// Forecasts on the owner's own state.
fn forecasts(handle: Handle, clock: Clock) -> Arc<Forecasts> {
    let runtime = tokio::runtime::Handle::current();
    let copies = move |_| {
        let copied = runtime.block_on(handle.read(|cluster, _| cluster.clone()));
        let (cluster, position) = copied.map_err(|_| FollowerError::Stopped)?;
        Ok(Copied { cluster, head: position.seq, time: Time(1_000_000), news: News::default() })
    };
    let told = Told::in_memory().expect("there is memory");
    Arc::new(Forecasts::new(Box::new(copies), Box::new(|| Err(JournalError::Closed)), told, clock, Epoch(3)))
}

/// A cluster behind its services.
struct World {
    services: Services,
    logs: Arc<FakeLogs>,
    store: Arc<Store>,
}

impl World {
    /// Missions fusion (with the team fusion/plasma) and solar, 8 GPUs each; nodes n0 and n1 with 8 GPUs each.
    async fn new() -> Self {
        let (handle, calls) = Handle::new();
        let (store, logs, watchers) = (Arc::new(Store::default()), Arc::new(FakeLogs::default()), Watchers::new());
        let owner = Owner {
            cluster: Cluster::new(Policy::standard()),
            live: Live::default(),
            seq: 0,
            store: store.clone(),
            watchers: watchers.clone(),
        };
        tokio::spawn(owner.run(calls));
        let clock = Clock::start(Time(0));
        let forecasts = forecasts(handle.clone(), clock);
        let services = Services {
            handle,
            clock,
            watchers,
            past: store.clone(),
            history: std::path::PathBuf::new(),
            blobs: store.clone(),
            logs: logs.clone(),
            steps: super::steps::Steps::default(),
            forecasts,
            seat: Seat::Alone { epoch: 1 },
        };
        let world = Self { services, logs, store };
        let pool = Input::DefinePool { name: "h200".into(), model: "NVIDIA H200".into(), gpus_per_node: 8 };
        world.decide(pool).await;
        for (name, quota) in [("fusion", 8), ("fusion/plasma", 8), ("solar", 8)] {
            world.decide(tenant(name, quota)).await;
        }
        for name in ["n0", "n1"] {
            world.decide(Input::NodeHello(node(name))).await;
        }
        world
    }

    async fn decide(&self, input: Input) {
        self.services
            .handle
            .mutate(Caller::default(), input, None, Vec::new(), |_, _| ())
            .await
            .expect("it is accepted");
    }
}

fn tenant(name: &str, quota: u32) -> Input {
    let quota = QuotaDraft {
        pool: "".into(),
        quota: Gpus::whole(quota),
        limit: None,
        lend_limit: None,
        domains: None,
        dates: None,
    };
    Input::SetTenant(TenantDraft { name: name.into(), create: true, quotas: vec![quota], ..Default::default() })
}

fn node(name: &str) -> NodeDraft {
    NodeDraft {
        name: name.into(),
        model: "NVIDIA H200".into(),
        location: Location { leaf: "l0".into(), ..Default::default() },
        capacity: Capacity {
            gpus: GpuSet::first(8),
            islands: vec![GpuSet::first(8); 8].into(),
            layouts: Box::default(),
            cpu: CpuMilli(0),
            memory: MemoryMib(0),
            labels: Default::default(),
        },
        bad: GpuSet::EMPTY,
        boot_id: "boot-1".into(),
    }
}

fn identity(user: &str, role: Role, missions: &[&str]) -> Identity {
    Identity {
        user: user.into(),
        role,
        missions: missions.iter().map(|name| (*name).into()).collect(),
        node: (role == Role::Agent).then(|| NodeName::parse(user)),
        credential: Credential::Local,
    }
}

fn ana() -> Identity {
    identity("ana", Role::Member, &["fusion"])
}

fn operator() -> Identity {
    identity("op", Role::Operator, &[])
}

/// A call by somebody.
fn by<T>(identity: &Identity, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(identity.clone());
    request
}

/// One member with so many GPUs.
fn spec(tenant: &str, gpus: u32) -> v1::JobSpec {
    v1::JobSpec {
        tenant: tenant.into(),
        name: "train".into(),
        shape: Some(v1::Shape { members: 1, gpus_per_member: gpus, ..Default::default() }),
        payload: Some(v1::Payload { script: b"#!/bin/sh\ntrue\n".to_vec(), ..Default::default() }),
        ..Default::default()
    }
}

fn submit(jobs: Vec<v1::JobSpec>) -> v1::SubmitRequest {
    v1::SubmitRequest { request_id: String::new(), jobs }
}
