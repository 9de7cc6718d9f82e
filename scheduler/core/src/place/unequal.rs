//! A place for a gang of unequal members.
//!
//! In: the index of a pool, the sizes of the members, a bound on the steps. Out: a node for each member, or a proof that
//! there is none, or that the bound ended the search.
//! Nodes that are alike (as many free GPUs, room beside them for as many members) are one kind, and the search goes over
//! kinds, not nodes. Its first descent, largest member first and tightest kind first, is the greedy placement; that alone
//! is tried level by level, and only where no level has a place for it the widest one is searched.
//! It must never say that there is no place unless it has seen that there is none.

use super::ask::Ask;
use super::bits::BitRows;
use super::gang::Span;
use super::pool::Pool;

/// No node.
const NONE: u32 = u32::MAX;

/// How a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// There is a place; it is in `Search::homes`.
    Found,
    /// There is none.
    Nowhere,
    /// The bound was reached.
    Limit,
}

/// Buffers of the search.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// Members by falling size, then rising rank: (GPUs, rank).
    members: Vec<(usize, u32)>,
    /// Kinds have numbers (free GPUs) * stride + (members that fit beside them, at most as many).
    stride: usize,
    /// For each kind how many nodes are of it now.
    count: Vec<u32>,
    /// The kinds that have any.
    some: BitRows,
    /// For each member placed so far the kind of its node, and the kind from which the next member of its size goes on.
    choices: Vec<(usize, usize)>,
    /// The most members that found a place at once.
    deepest: usize,
    /// For each kind its first node; for each node of the domain the next of its kind.
    heads: Vec<u32>,
    next: Vec<u32>,
    /// (position, rank) of each member.
    pub(super) homes: Vec<(u32, u32)>,
}

impl Search {
    /// Finds a node for each of `sizes` on the levels of `span`.
    pub(super) fn find(&mut self, pool: &Pool, ask: &Ask, sizes: &[u8], span: &Span, steps: u32) -> Outcome {
        self.read(pool, sizes);
        if span.node
            && !ask.distinct
            && let Some(at) = pool.tightest(ask.total as usize, ask.members, ask)
        {
            self.homes.extend((0..ask.members).map(|rank| (at as u32, rank)));
            return Outcome::Found;
        }
        let greedy = self.members.len() as u32;
        for height in span.wide.clone() {
            let found = pool.levels[height].best_fit(1, ask.total, |domain| {
                self.may_hold(pool, ask, height, domain)
                    && self.solve(pool, ask, height, domain, greedy).0 == Outcome::Found
            });
            if let Some(domain) = found {
                self.settle(pool, ask, height, domain, greedy);
                return Outcome::Found;
            }
        }
        match span.wide.clone().last() {
            Some(widest) => self.search(pool, ask, widest, steps),
            None => Outcome::Nowhere,
        }
    }

    /// Searches all domains of one level, `steps` in all.
    fn search(&mut self, pool: &Pool, ask: &Ask, height: usize, steps: u32) -> Outcome {
        let mut left = steps;
        let mut limited = false;
        let mut used = 0;
        let found = pool.levels[height].best_fit(1, ask.total, |domain| {
            if !self.may_hold(pool, ask, height, domain) {
                return false;
            }
            if left == 0 {
                limited = true;
                return false;
            }
            let (outcome, taken) = self.solve(pool, ask, height, domain, left);
            left -= taken;
            used = used.max(taken);
            limited |= outcome == Outcome::Limit;
            outcome == Outcome::Found
        });
        if let Some(domain) = found {
            self.settle(pool, ask, height, domain, used);
            Outcome::Found
        } else if limited {
            Outcome::Limit
        } else {
            Outcome::Nowhere
        }
    }

    /// The most members, largest first, that one domain of a level takes, and the GPUs of the next one.
    pub(super) fn best_of(&mut self, pool: &Pool, ask: &Ask, sizes: &[u8], height: Option<usize>) -> (u32, u8) {
        self.read(pool, sizes);
        let greedy = self.members.len() as u32;
        let best = match height {
            None => (0..pool.rooms.len()).map(|at| self.on_one_node(pool, ask, at)).max().unwrap_or(0),
            Some(height) => (0..pool.levels[height].count())
                .map(|domain| {
                    self.solve(pool, ask, height, domain, greedy);
                    self.deepest
                })
                .max()
                .unwrap_or(0),
        };
        let (gpus, _) = self.members[best.min(self.members.len() - 1)];
        (best as u32, gpus as u8)
    }

    /// How many members, largest first, one node takes.
    fn on_one_node(&self, pool: &Pool, ask: &Ask, at: usize) -> usize {
        let fit = ask.fit(pool, at, 1) as usize;
        let mut left = pool.rooms[at].count() as usize;
        let takes = |(gpus, _): &&(usize, u32)| left.checked_sub(*gpus).map(|rest| left = rest).is_some();
        self.members.iter().take(fit).take_while(takes).count()
    }

    /// Sorts the members and makes the buffers as large as the pool needs.
    fn read(&mut self, pool: &Pool, sizes: &[u8]) {
        self.homes.clear();
        self.members.clear();
        self.members.extend(sizes.iter().enumerate().map(|(rank, gpus)| (*gpus as usize, rank as u32)));
        self.members.sort_unstable_by_key(|(gpus, rank)| (std::cmp::Reverse(*gpus), *rank));
        let stride = pool.width + 1;
        if self.stride != stride {
            self.stride = stride;
            self.count = vec![0; stride * stride];
            self.heads = vec![NONE; stride * stride];
            self.some = BitRows::new(1, stride * stride);
        }
    }

    /// Whether the counters of a domain leave hope: for each size enough places of that size for all members not
    /// smaller.
    fn may_hold(&self, pool: &Pool, ask: &Ask, height: usize, domain: usize) -> bool {
        let level = &pool.levels[height];
        let ends = self.members.iter().enumerate().map(|(place, (gpus, _))| (place + 1, *gpus));
        let mut hope = ends.map(|(count, gpus)| {
            let places = if ask.distinct { level.at_least(domain, gpus) } else { level.slots(domain, gpus) };
            places as usize >= count
        });
        hope.all(|enough| enough)
    }

    /// The kind of a node, unless it can take nothing.
    fn kind(&self, pool: &Pool, ask: &Ask, at: usize) -> Option<usize> {
        let gpus = pool.rooms[at].count() as usize;
        let fit = ask.fit(pool, at, 1) as usize;
        (gpus > 0 && fit > 0).then(|| gpus * self.stride + fit)
    }

    /// The kind of a node after it has taken a member, unless it can take nothing more.
    fn after(&self, kind: usize, gpus: usize) -> Option<usize> {
        let left = kind / self.stride - gpus;
        let fit = (kind % self.stride - 1).min(left);
        (fit > 0).then(|| left * self.stride + fit)
    }

    /// Searches one domain in at most `limit` steps; says how many it took. The choices stay.
    fn solve(&mut self, pool: &Pool, ask: &Ask, height: usize, domain: usize, limit: u32) -> (Outcome, u32) {
        self.empty();
        for at in pool.levels[height].positions(domain) {
            if let Some(kind) = self.kind(pool, ask, at) {
                self.count(kind);
            }
        }
        self.choices.clear();
        self.deepest = 0;
        let mut steps = 0;
        // What was tried last for the member whose turn it is.
        let mut tried = None;
        while self.choices.len() < self.members.len() {
            if let Some((kind, origin)) = self.next_choice(tried) {
                if steps == limit {
                    return (Outcome::Limit, steps);
                }
                steps += 1;
                self.choose(kind, origin);
                tried = None;
            } else if let Some(kind) = self.unchoose() {
                tried = Some(kind);
            } else {
                return (Outcome::Nowhere, steps);
            }
        }
        (Outcome::Found, steps)
    }

    /// The next kind of node for the member whose turn it is.
    ///
    /// Members of one size are interchangeable, so only one order of their choices is tried: all that go to one node
    /// follow each other, and the nodes come by rising kind. A node that has just taken one is therefore the first choice
    /// for the next, and after it the kinds from that node's own on.
    fn next_choice(&self, tried: Option<usize>) -> Option<(usize, usize)> {
        let depth = self.choices.len();
        let (gpus, _) = self.members[depth];
        let alike = depth > 0 && self.members[depth - 1].0 == gpus;
        let mut from = gpus * self.stride;
        if alike {
            let (last, origin) = self.choices[depth - 1];
            let same_node = self.after(last, gpus).filter(|kind| *kind >= from);
            if tried.is_none()
                && let Some(kind) = same_node
            {
                return Some((kind, origin));
            }
            from = origin;
        }
        if let Some(tried) = tried {
            from = from.max(tried + 1);
        }
        let kind = self.some.next_in(0, from, self.stride * self.stride)?;
        Some((kind, kind))
    }

    fn choose(&mut self, kind: usize, origin: usize) {
        let (gpus, _) = self.members[self.choices.len()];
        self.uncount(kind);
        if let Some(after) = self.after(kind, gpus) {
            self.count(after);
        }
        self.choices.push((kind, origin));
        self.deepest = self.deepest.max(self.choices.len());
    }

    /// Takes the last choice back and says which kind it was.
    fn unchoose(&mut self) -> Option<usize> {
        let (kind, _) = self.choices.pop()?;
        let (gpus, _) = self.members[self.choices.len()];
        if let Some(after) = self.after(kind, gpus) {
            self.uncount(after);
        }
        self.count(kind);
        Some(kind)
    }

    fn empty(&mut self) {
        while let Some(kind) = self.some.next_in(0, 0, self.stride * self.stride) {
            self.count[kind] = 0;
            self.some.remove(0, kind);
        }
    }

    fn count(&mut self, kind: usize) {
        self.count[kind] += 1;
        self.some.insert(0, kind);
    }

    fn uncount(&mut self, kind: usize) {
        self.count[kind] -= 1;
        if self.count[kind] == 0 {
            self.some.remove(0, kind);
        }
    }

    /// Solves a domain again, in which a place was found in `steps`, and turns the choices of kinds into nodes. Members
    /// of one size get theirs in the order of the topology.
    fn settle(&mut self, pool: &Pool, ask: &Ask, height: usize, domain: usize, steps: u32) {
        let (outcome, _) = self.solve(pool, ask, height, domain, steps);
        assert!(outcome == Outcome::Found, "the same search of the same domain ends in the same way");
        let positions = pool.levels[height].positions(domain);
        let start = positions.start;
        self.heads.fill(NONE);
        self.next.clear();
        self.next.resize(positions.len(), NONE);
        for at in positions.rev() {
            if let Some(kind) = self.kind(pool, ask, at) {
                self.put(kind, (at - start) as u32);
            }
        }
        for depth in 0..self.members.len() {
            let (gpus, rank) = self.members[depth];
            let (kind, _) = self.choices[depth];
            let node = self.heads[kind];
            self.heads[kind] = self.next[node as usize];
            if let Some(after) = self.after(kind, gpus) {
                self.put(after, node);
            }
            self.homes.push((start as u32 + node, rank));
        }
        let members = &self.members;
        for group in members.chunk_by(|one, other| one.0 == other.0) {
            let first = members.partition_point(|(gpus, _)| *gpus > group[0].0);
            let homes = &mut self.homes[first..first + group.len()];
            homes.sort_unstable_by_key(|(at, _)| *at);
            for (home, (_, rank)) in homes.iter_mut().zip(group) {
                home.1 = *rank;
            }
        }
    }

    /// Puts a node in front of those of its kind.
    fn put(&mut self, kind: usize, node: u32) {
        self.next[node as usize] = self.heads[kind];
        self.heads[kind] = node;
    }
}
