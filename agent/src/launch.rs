//! How a member becomes something that runs.
//!
//! Comes in: what the core wants started, adopted, stopped or forgotten. Goes out: `Input::Started`, `NotStarted` and
//! `Gone`, through the channel that the launcher was made with.
//! This part must never decide whether a member may run; the core has done that.

mod container;
pub mod env;
mod paths;
pub mod process;
pub mod rendezvous;
mod simulated;

use std::sync::Arc;

use tokio::sync::mpsc;

pub use self::{
    container::ContainersConfig,
    process::{ProcessLauncher, ProcessSettings},
    simulated::SimulatedLauncher,
};
use crate::{
    model::{Launch, MemberId, StopRequest},
    reconcile::Input,
};

/// Facts of launchers that wait for the loop.
pub const MAX_FACTS: usize = 1_024;

/// Where a launcher tells its facts.
pub type Facts = mpsc::Sender<Input>;

/// Starts members and follows them to their end. No call waits; what happened comes back as an input.
pub trait Launcher: Send + Sync + 'static {
    /// Brings here what the member needs before its gang starts; `Staged` or `Unstaged` says what became of it.
    fn stage(&self, id: MemberId, launch: Arc<Launch>);
    /// Starts the member; once, however often it is asked.
    fn start(&self, id: MemberId, launch: Arc<Launch>);
    /// Finds out what became of a member that an earlier life of the agent may have started. With `seal` nothing can
    /// start it any more once `Gone` is said.
    fn adopt(&self, id: MemberId, same_boot: bool, seal: bool);
    /// Asks for its end.
    fn stop(&self, id: MemberId, request: StopRequest);
    /// Its lease is removed: keep only what people may still want to read.
    fn forget(&self, id: MemberId);
}
