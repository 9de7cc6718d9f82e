//! The table of all jobs: ids rise, so pages of neighbouring ids in a row make a lookup two steps and an old page cheap
//! to drop.

use std::collections::VecDeque;

use crate::ids::JobId;
use crate::job::Job;

const PAGE: u64 = 256;

/// Jobs by id.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    /// Number of the first page.
    first: u64,
    /// One after the other; the first and the last exist. Restores leave gaps in the ids, of which a page that does not
    /// exist costs one word.
    pages: VecDeque<Option<Box<Page>>>,
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

    #[inline]
    fn place(&self, id: JobId) -> (usize, usize) {
        // Before the first page is beyond the last.
        ((id.0 / PAGE).wrapping_sub(self.first) as usize, (id.0 % PAGE) as usize)
    }

    /// The job with this id.
    #[inline]
    pub fn get(&self, id: JobId) -> Option<&Job> {
        let (page, at) = self.place(id);
        self.pages.get(page)?.as_ref()?.jobs[at].as_deref()
    }

    /// The job with this id, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: JobId) -> Option<&mut Job> {
        let (page, at) = self.place(id);
        self.pages.get_mut(page)?.as_mut()?.jobs[at].as_deref_mut()
    }

    /// Adds a job whose id is new.
    pub fn insert(&mut self, job: Job) {
        let number = job.id.0 / PAGE;
        if self.pages.is_empty() {
            self.first = number;
        }
        while number < self.first {
            self.pages.push_front(None);
            self.first -= 1;
        }
        let (page, at) = self.place(job.id);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let page =
            self.pages[page].get_or_insert_with(|| Box::new(Page { jobs: (0..PAGE).map(|_| None).collect(), len: 0 }));
        assert!(page.jobs[at].is_none(), "a job id is given once");
        page.jobs[at] = Some(Box::new(job));
        page.len += 1;
        self.len += 1;
    }

    /// Takes a job out.
    pub fn remove(&mut self, id: JobId) -> Option<Job> {
        let (number, at) = self.place(id);
        let page = self.pages.get_mut(number)?.as_mut()?;
        let job = page.jobs[at].take()?;
        page.len -= 1;
        self.len -= 1;
        if page.len == 0 {
            self.pages[number] = None;
            self.trim();
        }
        Some(*job)
    }

    /// Takes the pages that do not exist off both ends.
    fn trim(&mut self) {
        while self.pages.front().is_some_and(Option::is_none) {
            self.pages.pop_front();
            self.first += 1;
        }
        while self.pages.back().is_some_and(Option::is_none) {
            self.pages.pop_back();
        }
    }

    /// All jobs by rising id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.pages.iter().flatten().flat_map(|page| page.jobs.iter().filter_map(|slot| slot.as_deref()))
    }

    /// The jobs from `first` on, by rising id.
    pub fn from(&self, first: JobId) -> impl Iterator<Item = &Job> {
        let skipped = (first.0 / PAGE).saturating_sub(self.first).min(self.pages.len() as u64) as usize;
        self.pages
            .range(skipped..)
            .flatten()
            .flat_map(|page| page.jobs.iter().filter_map(|slot| slot.as_deref()))
            .filter(move |job| job.id >= first)
    }
}
