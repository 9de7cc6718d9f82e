//! Leases in memory, for simulated nodes: as fast as it goes, gone with the process.

use std::{collections::BTreeMap, sync::Mutex};

use super::{LeaseStore, StoreError, Stored};
use crate::model::{EpochMark, LeaseRecord, MemberId};

/// A store that survives the agent only as long as someone holds it.
#[derive(Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    mark: EpochMark,
    leases: BTreeMap<MemberId, LeaseRecord>,
}

impl MemoryStore {
    fn with<R>(&self, run: impl FnOnce(&mut Inner) -> R) -> R {
        run(&mut self.inner.lock().expect("no thread panics while it holds this lock"))
    }
}

impl LeaseStore for MemoryStore {
    fn load(&self) -> Result<Stored, StoreError> {
        Ok(self.with(|inner| Stored { mark: inner.mark.clone(), leases: inner.leases.values().cloned().collect() }))
    }

    fn write_mark(&self, mark: &EpochMark) -> Result<(), StoreError> {
        self.with(|inner| inner.mark = mark.clone());
        Ok(())
    }

    fn write(&self, record: &LeaseRecord) -> Result<(), StoreError> {
        self.with(|inner| inner.leases.insert(record.id, record.clone()));
        Ok(())
    }

    fn remove(&self, id: MemberId) -> Result<(), StoreError> {
        self.with(|inner| inner.leases.remove(&id));
        Ok(())
    }

    fn is_immediate(&self) -> bool {
        true
    }
}
