//! The pump between the loop and the store of leases.
//!
//! Comes in: the core's writes, in order. Goes out: what became of each, in the same order; at once when the store never
//! waits, else from the thread that waits for the disk. This part must never let a later write overtake an earlier one.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use tokio::sync::mpsc;
use tracing::error;

use crate::{leases::LeaseStore, reconcile::Action, reconcile::Input};

/// Writes that wait for the disk.
const MAX_WRITES: usize = 8_192;

pub(super) struct Writer {
    to: To,
}

enum To {
    Store(Arc<dyn LeaseStore>),
    Thread(SyncSender<Action>),
}

impl Writer {
    /// The second half gives what became of writes that had to wait. The thread ends with the writer.
    pub(super) fn start(store: Arc<dyn LeaseStore>) -> io::Result<(Self, mpsc::Receiver<Input>)> {
        let (done, written) = mpsc::channel(MAX_WRITES);
        if store.is_immediate() {
            return Ok((Self { to: To::Store(store) }, written));
        }
        let (writes, queue) = sync_channel(MAX_WRITES);
        let run = move || write_for_ever(&*store, &queue, &done);
        thread::Builder::new().name("dure-leases".to_owned()).spawn(run)?;
        Ok((Self { to: To::Thread(writes) }, written))
    }

    /// Takes a write; the outcome, when it is known at once.
    pub(super) fn write(&self, action: Action) -> Option<Input> {
        match &self.to {
            To::Store(store) => write(&**store, action),
            To::Thread(queue) => match queue.try_send(action) {
                Ok(()) => None,
                Err(TrySendError::Full(action)) => failed(action, "too many writes wait for the disk", true),
                Err(TrySendError::Disconnected(action)) => {
                    failed(action, "the thread that writes leases has ended", true)
                }
            },
        }
    }
}

fn write_for_ever(store: &dyn LeaseStore, queue: &Receiver<Action>, done: &mpsc::Sender<Input>) {
    while let Ok(action) = queue.recv() {
        if let Some(outcome) = write(store, action)
            && done.blocking_send(outcome).is_err()
        {
            return;
        }
    }
}

fn write(store: &dyn LeaseStore, action: Action) -> Option<Input> {
    let written = match &action {
        Action::PersistEpoch(mark) => store.write_mark(mark),
        Action::WriteLease { record, .. } => store.write(record),
        Action::RemoveLease(id) => store.remove(*id),
        other => unreachable!("the loop gives only writes to the writer, not {other:?}"),
    };
    if let Err(err) = written {
        return failed(action, &err.to_string(), err.is_untouched());
    }
    match action {
        Action::PersistEpoch(mark) => Some(Input::EpochSynced(mark)),
        Action::WriteLease { record, version } => Some(Input::LeaseSynced { id: record.id, version }),
        _ => None,
    }
}

fn failed(action: Action, error: &str, untouched: bool) -> Option<Input> {
    match action {
        Action::PersistEpoch(_) => Some(Input::EpochFailed(error.to_owned())),
        Action::WriteLease { record, version } => {
            Some(Input::LeaseFailed { id: record.id, version, error: error.to_owned(), untouched })
        }
        Action::RemoveLease(id) => {
            // It is reported once more after a restart, and removed then.
            error!(member = %id, error, "a lease could not be removed");
            None
        }
        _ => None,
    }
}
