//! What of a node survives the death of its agent, and what survives the loss of its power.

use std::collections::BTreeMap;

use dure_agent::leases::Stored;
use dure_agent::model::{EpochMark, Exit, LeaseRecord, MemberId};
use dure_agent::reconcile::{Action, Input};

/// How a write of the agent ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written {
    /// It is on disk.
    Done,
    /// It is not, and the agent knows.
    Refused,
    /// It is on disk, and the agent does not know.
    InDoubtDone,
    /// It is not, and the agent does not know.
    InDoubtNot,
}

/// What a member's folder holds besides the lease: the shim's files, and the process while it lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    /// A shim has begun with it, or it was sealed: no other will.
    pub(super) claimed: bool,
    /// Its process lives.
    pub(super) alive: bool,
    /// It shall end.
    pub(super) stop: bool,
    pub(super) exit: Option<Exit>,
}

/// A node's disk, and the processes that its shims keep.
#[derive(Default)]
pub(super) struct NodeDisk {
    pub(super) mark: EpochMark,
    pub(super) leases: BTreeMap<MemberId, LeaseRecord>,
    pub(super) folders: BTreeMap<MemberId, Folder>,
}

impl NodeDisk {
    pub(super) fn load(&self) -> Stored {
        Stored { mark: self.mark.clone(), leases: self.leases.values().cloned().collect() }
    }

    /// Carries a write out, or not; what the agent is told of it.
    ///
    /// # Errors
    /// What a write must never do, in words.
    pub(super) fn write(&mut self, action: Action, how: Written) -> Result<Option<Input>, String> {
        let done = matches!(how, Written::Done | Written::InDoubtDone);
        match action {
            Action::PersistEpoch(mark) => {
                if done && mark.epoch < self.mark.epoch {
                    return Err(format!("the epoch on disk falls from {:?} to {:?}", self.mark.epoch, mark.epoch));
                }
                if done {
                    self.mark = mark.clone();
                }
                Ok(Some(match how {
                    Written::Done => Input::EpochSynced(mark),
                    _ => Input::EpochFailed("the disk".to_owned()),
                }))
            }
            Action::WriteLease { record, version } => {
                let id = record.id;
                if done {
                    self.leases.insert(id, record);
                    self.folders.entry(id).or_default();
                }
                Ok(Some(match how {
                    Written::Done => Input::LeaseSynced { id, version },
                    _ => {
                        let (error, untouched) = ("the disk".to_owned(), how == Written::Refused);
                        Input::LeaseFailed { id, version, error, untouched }
                    }
                }))
            }
            Action::RemoveLease(id) => {
                if self.folders.get(&id).is_some_and(|folder| folder.alive) {
                    return Err(format!("the lease of {id} is removed while its process lives"));
                }
                self.leases.remove(&id);
                self.folders.remove(&id);
                Ok(None)
            }
            other => Err(format!("{other:?} is no write")),
        }
    }

    /// The power is gone: processes are, files are not.
    pub(super) fn lose_power(&mut self) -> Vec<MemberId> {
        let lived = self.folders.iter_mut().filter(|(_, folder)| folder.alive);
        lived
            .map(|(id, folder)| {
                folder.alive = false;
                *id
            })
            .collect()
    }
}
