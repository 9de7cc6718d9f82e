//! Classes: requests alike in everything that placement and admission can see. One is tried once, whatever waits in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{BookingId, ClassIndex};
use crate::job::JobSpec;
use crate::request::Request;
use crate::units::Span;

/// What makes two jobs alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClassKey {
    /// What is asked of placement.
    pub request: Arc<Request>,
    /// Whether it may run on borrowed GPUs.
    pub preemptible: bool,
    /// How long it takes to go: what is lent must come back in time.
    pub grace: Span,
    /// The booking that it may run in, and nowhere else.
    pub booking: Option<BookingId>,
}

impl ClassKey {
    /// That of a job.
    pub fn of(spec: &JobSpec) -> Self {
        let JobSpec { preemptible, grace, booking, .. } = *spec;
        Self { request: spec.request.clone(), preemptible, grace, booking }
    }
}

/// A class in use.
#[derive(Clone, Debug)]
pub struct Class {
    /// What its jobs have in common.
    pub key: ClassKey,
    /// Jobs that wait in it.
    pub jobs: u32,
}

/// The classes of all queued jobs. Indices are reused; no decision depends on their order.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    slots: Vec<Option<Class>>,
    by_key: BTreeMap<ClassKey, ClassIndex>,
    vacant: Vec<ClassIndex>,
}

impl Classes {
    /// How many are in use.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// All indices in use are below this.
    pub(crate) fn bound(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is in use.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The class of these requests, if a job waits in it.
    pub fn find(&self, key: &ClassKey) -> Option<ClassIndex> {
        self.by_key.get(key).copied()
    }

    /// Whether a job waits in the class with this index.
    pub fn is_in_use(&self, class: ClassIndex) -> bool {
        self.slots.get(class.at()).is_some_and(Option::is_some)
    }

    /// One more job waits in the class of `key`.
    pub fn enter(&mut self, key: ClassKey) -> ClassIndex {
        if let Some(&class) = self.by_key.get(&key) {
            self.get_mut(class).jobs += 1;
            return class;
        }
        let class = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            ClassIndex::of(self.slots.len() - 1)
        });
        self.slots[class.at()] = Some(Class { key: key.clone(), jobs: 1 });
        self.by_key.insert(key, class);
        class
    }

    /// One job less waits in it. True when it was the last, and the class is gone.
    pub fn leave(&mut self, class: ClassIndex) -> bool {
        let slot = &mut self.slots[class.at()];
        let entry = slot.as_mut().expect("a queued job has its class");
        entry.jobs -= 1;
        if entry.jobs > 0 {
            return false;
        }
        self.by_key.remove(&entry.key);
        *slot = None;
        self.vacant.push(class);
        true
    }

    /// A class in use.
    pub fn get(&self, class: ClassIndex) -> &Class {
        self.slots[class.at()].as_ref().expect("a queued job has its class")
    }

    /// A class in use, to be changed.
    pub fn get_mut(&mut self, class: ClassIndex) -> &mut Class {
        self.slots[class.at()].as_mut().expect("a queued job has its class")
    }

    /// All classes in use.
    pub fn iter(&self) -> impl Iterator<Item = (ClassIndex, &Class)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| Some((ClassIndex::of(at), slot.as_ref()?)))
    }
}
