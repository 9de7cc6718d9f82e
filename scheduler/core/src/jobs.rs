//! The table of all jobs: ids rise, so pages of neighbouring ids in a row make a lookup two steps and an old page cheap
//! to drop. Each restore leaves a wide gap in the ids; what comes after it is a row of its own.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::ids::JobId;
use crate::job::Job;

const PAGE: u64 = 256;
/// Pages that do not exist in a row, each of them a word; beyond so many a new row begins.
const MAX_GAP: u64 = 1024;

/// Jobs by id.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    /// By rising ids, none of them empty.
    rows: SmallVec<[Row; 1]>,
    len: usize,
}

/// Pages one after the other; the first and the last exist.
#[derive(Clone, Debug)]
struct Row {
    /// Number of the first page.
    first: u64,
    pages: VecDeque<Option<Box<Page>>>,
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

    /// The last row that begins at this page or before: no other holds it.
    #[inline]
    fn row_of(&self, page: u64) -> Option<usize> {
        self.rows.iter().rposition(|row| row.first <= page)
    }

    #[inline]
    fn page(&self, number: u64) -> Option<&Page> {
        let row = &self.rows[self.row_of(number)?];
        row.pages.get((number - row.first) as usize)?.as_deref()
    }

    #[inline]
    fn page_mut(&mut self, number: u64) -> Option<&mut Page> {
        let row = self.row_of(number)?;
        let row = &mut self.rows[row];
        row.pages.get_mut((number - row.first) as usize)?.as_deref_mut()
    }

    /// The job with this id.
    #[inline]
    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.page(id.0 / PAGE)?.jobs[slot(id)].as_deref()
    }

    /// The job with this id, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.page_mut(id.0 / PAGE)?.jobs[slot(id)].as_deref_mut()
    }

    /// Adds a job whose id is new.
    pub fn insert(&mut self, job: Job) {
        let number = job.id.0 / PAGE;
        let row = self.row_for(number);
        let page = self.rows[row].hold(number);
        let slot = slot(job.id);
        assert!(page.jobs[slot].is_none(), "a job id is given once");
        page.jobs[slot] = Some(Box::new(job));
        page.len += 1;
        self.len += 1;
    }

    /// The row that holds a page or is to hold it.
    fn row_for(&mut self, page: u64) -> usize {
        let before = self.row_of(page);
        if let Some(at) = before
            && page <= self.rows[at].end() + MAX_GAP
        {
            return at;
        }
        let next = before.map_or(0, |at| at + 1);
        if self.rows.get(next).is_none_or(|row| page + MAX_GAP < row.first) {
            self.rows.insert(next, Row { first: page, pages: VecDeque::new() });
        }
        next
    }

    /// Takes a job out.
    pub fn remove(&mut self, id: JobId) -> Option<Job> {
        let number = id.0 / PAGE;
        let page = self.page_mut(number)?;
        let job = page.jobs[slot(id)].take()?;
        page.len -= 1;
        if page.len == 0 {
            let at = self.row_of(number)?;
            self.rows[at].drop_page(number);
            if self.rows[at].pages.is_empty() {
                self.rows.remove(at);
            }
        }
        self.len -= 1;
        Some(*job)
    }

    /// All jobs by rising id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.rows.iter().flat_map(|row| row.pages.iter()).flatten().flat_map(|page| page.iter())
    }

    /// The jobs from `first` on, by rising id.
    pub fn from(&self, first: JobId) -> impl Iterator<Item = &Job> {
        let number = first.0 / PAGE;
        let rows = &self.rows[self.row_of(number).unwrap_or(0)..];
        let pages = rows.iter().flat_map(move |row| row.pages.range(row.before(number)..)).flatten();
        pages.flat_map(|page| page.iter()).filter(move |job| job.id >= first)
    }
}

fn slot(id: JobId) -> usize {
    (id.0 % PAGE) as usize
}

impl Page {
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.iter().filter_map(|slot| slot.as_deref())
    }
}

impl Row {
    /// The first page behind it.
    fn end(&self) -> u64 {
        self.first + self.pages.len() as u64
    }

    /// So many of its pages lie before this one.
    fn before(&self, page: u64) -> usize {
        page.saturating_sub(self.first).min(self.pages.len() as u64) as usize
    }

    /// The page, which exists from now on.
    fn hold(&mut self, number: u64) -> &mut Page {
        while number < self.first {
            self.pages.push_front(None);
            self.first -= 1;
        }
        let at = (number - self.first) as usize;
        if at >= self.pages.len() {
            self.pages.resize_with(at + 1, || None);
        }
        self.pages[at].get_or_insert_with(|| Box::new(Page { jobs: (0..PAGE).map(|_| None).collect(), len: 0 }))
    }

    /// Drops an empty page, and the pages that do not exist off both ends.
    fn drop_page(&mut self, number: u64) {
        self.pages[(number - self.first) as usize] = None;
        while self.pages.front().is_some_and(Option::is_none) {
            self.pages.pop_front();
            self.first += 1;
        }
        while self.pages.back().is_some_and(Option::is_none) {
            self.pages.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::Fixture;
    use crate::policy::Policy;

    /// A job of a small cluster, whatever its id.
    fn sample() -> Job {
        let mut fixture = Fixture::new(Policy::standard());
        ["node n0 gpus=8", "tenant a quota=8", "submit a/p 1x1"].into_iter().for_each(|line| fixture.line(line));
        fixture.cluster.jobs().iter().next().expect("it was submitted").clone()
    }

    fn same(jobs: &Jobs, known: &BTreeSet<u64>, from: u64) {
        assert_eq!(jobs.len(), known.len());
        assert!(jobs.iter().map(|job| job.id.0).eq(known.iter().copied()));
        assert!(jobs.iter().rev().map(|job| job.id.0).eq(known.iter().rev().copied()));
        assert!(jobs.from(JobId(from)).map(|job| job.id.0).eq(known.range(from..).copied()));
        assert_eq!(jobs.get(JobId(from)).is_some(), known.contains(&from));
        let is_short =
            |row: &Row| row.pages.front().is_some_and(Option::is_some) && row.pages.back().is_some_and(Option::is_some);
        assert!(jobs.rows.iter().all(is_short), "no row ends in nothing");
        assert!(jobs.rows.is_sorted_by(|one, next| one.end() <= next.first));
    }

    fn gap() -> impl Strategy<Value = u64> {
        prop_oneof![1_u64..4, 1_u64..1_000, 1_u64..2_000_000, 1_u64..4_000_000_000]
    }

    proptest! {
        #[test]
        fn a_table_with_gaps_of_any_width_is_a_map_by_id(
            steps in vec((any::<bool>(), gap(), any::<prop::sample::Index>()), 1..60),
        ) {
            let (sample, mut jobs, mut known, mut last) = (sample(), Jobs::default(), BTreeSet::new(), 0);
            for (adds, gap, which) in steps {
                if adds || known.is_empty() {
                    // Mostly behind the last one; a snapshot may come in any order.
                    let id = if gap % 5 == 0 { gap } else { last + gap };
                    last = last.max(id);
                    if known.insert(id) {
                        jobs.insert(Job { id: JobId(id), ..sample.clone() });
                    }
                } else {
                    let id = *known.iter().nth(which.index(known.len())).expect("there is one");
                    known.remove(&id);
                    assert_eq!(jobs.remove(JobId(id)).map(|job| job.id.0), Some(id));
                    assert!(jobs.remove(JobId(id)).is_none());
                }
                same(&jobs, &known, last.saturating_sub(gap));
            }
        }
    }

    #[test]
    fn a_restore_costs_no_memory() {
        let (sample, mut jobs) = (sample(), Jobs::default());
        for id in [7, 1_000_000_000, 9_000_000_000, 9_000_000_001] {
            jobs.insert(Job { id: JobId(id), ..sample.clone() });
        }
        assert_eq!(jobs.rows.iter().map(|row| row.pages.len()).sum::<usize>(), 3);
    }
}
