//! The table of all jobs: ids rise, so pages of neighbouring ids make a lookup two steps and an old page cheap to drop.

use std::collections::BTreeMap;

use crate::ids::JobId;
use crate::job::Job;

const PAGE: u64 = 256;

/// Jobs by id.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    pages: BTreeMap<u64, Page>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Page {
    jobs: Vec<Option<Box<Job>>>,
    len: u32,
}

impl Jobs {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The job with this id.
    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.pages.get(&(id.0 / PAGE))?.jobs[(id.0 % PAGE) as usize].as_deref()
    }

    /// The job with this id, to be changed.
    pub fn get_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.pages.get_mut(&(id.0 / PAGE))?.jobs[(id.0 % PAGE) as usize].as_deref_mut()
    }

    /// Adds a job whose id is new.
    pub fn insert(&mut self, job: Job) {
        let page = self
            .pages
            .entry(job.id.0 / PAGE)
            .or_insert_with(|| Page { jobs: (0..PAGE).map(|_| None).collect(), len: 0 });
        let slot = &mut page.jobs[(job.id.0 % PAGE) as usize];
        assert!(slot.is_none(), "a job id is given once");
        *slot = Some(Box::new(job));
        page.len += 1;
        self.len += 1;
    }

    /// Takes a job out.
    pub fn remove(&mut self, id: JobId) -> Option<Job> {
        let number = id.0 / PAGE;
        let page = self.pages.get_mut(&number)?;
        let job = page.jobs[(id.0 % PAGE) as usize].take()?;
        page.len -= 1;
        self.len -= 1;
        if page.len == 0 {
            self.pages.remove(&number);
        }
        Some(*job)
    }

    /// All jobs by rising id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.pages.values().flat_map(|page| page.jobs.iter().filter_map(|slot| slot.as_deref()))
    }

    /// The jobs from `first` on, by rising id.
    pub fn from(&self, first: JobId) -> impl Iterator<Item = &Job> {
        self.pages
            .range(first.0 / PAGE..)
            .flat_map(|(_, page)| page.jobs.iter().filter_map(|slot| slot.as_deref()))
            .filter(move |job| job.id >= first)
    }
}
