//! The owner of the cluster: begun on what was opened, on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use dure_core::ids::Epoch;
use dure_core::input::Input;
use tokio::sync::{mpsc, oneshot, watch};

use super::restored::skip_ids;
use super::{Ground, Opened, StartError};
use crate::agents::FromAgent;
use crate::auth::Caller;
use crate::clock::Clock;
use crate::follower::Follower;
use crate::grpc::watch::Watchers;
use crate::handle::{CallError, Handle};
use crate::journal::{JournalWriter, Reader};
use crate::lead::Leader;
use crate::perform::{Payloads, Performer};
use crate::recover::Recovered;
use crate::run::{Pump, Stopped};
use crate::standby::took::Took;
use crate::turn::{Scheduler, Settings};

/// Messages of agents that wait for a turn; then their sessions wait.
const MAX_WAITING_MESSAGES: usize = 16_384;

/// A leadership that is over keeps its state for so long.
const LET_GO_AFTER: Duration = Duration::from_secs(1);

/// The owner of the cluster, which runs, with what the servers around it need.
pub(super) struct Owner {
    pub(super) handle: Handle,
    pub(super) clock: Clock,
    pub(super) epoch: Epoch,
    pub(super) watchers: Watchers,
    /// For what agents say.
    pub(super) messages: mpsc::Sender<FromAgent>,
    /// Of the journal that it writes.
    pub(super) reader: Box<dyn Reader>,
    /// The word to stop.
    pub(super) stop: watch::Sender<bool>,
    pub(super) ended: oneshot::Receiver<Stopped>,
    pub(super) follower: Follower,
    pub(super) writer: Arc<JournalWriter>,
}

impl Owner {
    /// Begins, and knows the configuration when this returns.
    pub(super) async fn begin(ground: &Ground, opened: Opened, took: &mut Took) -> Result<Self, StartError> {
        let (stop, stopping) = watch::channel(false);
        let (handle, calls) = Handle::new();
        let (messages, taken) = mpsc::channel(MAX_WAITING_MESSAGES);
        let watchers = Watchers::new();
        let Opened {
            recovered,
            restored,
            restore_floor,
            clock,
            epoch,
            store_id,
            tenure,
            writer,
            reports,
            follower,
            reader,
        } = opened;
        let (deadlines, topology) = (ground.config.deadlines(), ground.topology.clone());
        let Recovered { cluster, head, terms, .. } = recovered;
        let settings = Settings { epoch, restore_floor, terms, store_id, deadlines, topology };
        let unknown = ground.config.inputs(&cluster);
        let blobs = reader.reopen()?;
        let payloads = Payloads::new(Box::new(move |id| blobs.read_blob(id)));
        let performer = Performer { payloads, watchers: watchers.clone() };
        let mut scheduler = Scheduler::new(cluster, head, settings, clock.now());
        scheduler.set_fence_percent(ground.config.liveness.fence_percent);
        let pump = Pump {
            leader: Leader::new(scheduler, performer, epoch),
            clock,
            writer: writer.clone(),
            reports,
            calls,
            messages: taken,
            follower: follower.feed(),
            tenure,
            metrics: ground.metrics.clone(),
            stop: stopping,
        };
        // Before the first turn: what that starts has a number that nobody knows.
        let skipped = restored.then(|| skip_ids(&handle, restore_floor)).transpose()?;
        let ended = spawn(pump)?;
        if let Some(skipped) = skipped {
            skipped.await.map_err(|err| StartError::Stopped(err.to_string()))?;
        }
        took.step("owner_started");
        configure(&handle, unknown).await?;
        took.step("configured");
        Ok(Self { handle, clock, epoch, watchers, messages, reader, stop, ended, follower, writer })
    }
}

/// The owner of the cluster runs on a thread of its own: nothing else takes its time.
fn spawn(pump: Pump) -> Result<oneshot::Receiver<Stopped>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StartError::Thread)?;
    let (ended, end) = oneshot::channel();
    let run = move || {
        let (stopped, leader) = runtime.block_on(pump.run());
        if !matches!(stopped, Stopped::Asked) {
            tracing::error!(why = %stopped, "the scheduler has stopped leading");
        }
        drop(ended.send(stopped)); // nobody waits when the process ends
        // To let go of a large state costs time of a processor, which whoever leads next needs first.
        std::thread::sleep(LET_GO_AFTER);
        drop(leader);
    };
    std::thread::Builder::new().name("cluster".to_owned()).spawn(run).map_err(StartError::Thread)?;
    Ok(end)
}

/// Defines the pools and tenants of the configuration that the journal does not know. What it knows stays as it is: the
/// quotas that were set at run time are the truth.
async fn configure(handle: &Handle, unknown: Vec<Input>) -> Result<(), StartError> {
    let stopped = |err: CallError| StartError::Stopped(err.to_string());
    for input in unknown {
        let what = match &input {
            Input::SetTenant(draft) => format!("tenant {:?}", draft.name),
            Input::DefinePool { name, .. } => format!("pool {name:?}"),
            other => format!("{other:?}"),
        };
        match handle.mutate(Caller::scheduler("configuration"), input, None, Vec::new(), |_, _| ()).await {
            Ok(_) => {}
            Err(CallError::Rejected(rejected)) => {
                let why = crate::grpc::status::rejected_text(&rejected);
                return Err(StartError::Refused { what, why });
            }
            Err(other) => return Err(stopped(other)),
        }
    }
    Ok(())
}
