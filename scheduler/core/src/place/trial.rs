//! Changes of the index, and trial changes that go back.
//!
//! In: members that are held or held no more. Out: an index as if the nodes had changed so, and after a rollback one that
//! is bit for bit as before. Every counter of a domain changes once per gang, not once per member.
//! It must never hold on to a change that was rolled back.

use super::ask::clamp;
use super::domains::Change;
use super::pool::{Room, UNCOUNTED};
use super::{Home, PlaceIndex};
use crate::gpu::GpuSet;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::{Node, SetAside};
use crate::parts::Parts;
use crate::placement::Placed;
use crate::request::{Part, Request};

/// A room as it was before a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    home: Home,
    room: Room,
}

/// A point to which the index can go back.
#[must_use = "a checkpoint ends with rollback or commit"]
#[derive(Debug)]
pub struct Mark {
    /// Length of the log then.
    length: usize,
    /// Length of the log of cuts then.
    cuts: usize,
    /// Checkpoints open then.
    open: u32,
}

impl PlaceIndex {
    /// The GPUs, CPU and memory of these members are held now. For trial changes: what is so for good comes by `sync`.
    pub fn take(&mut self, placed: &[Placed], request: &Request) {
        if request.part != Part::Whole {
            return self.take_parts(placed, request);
        }
        self.change(placed, |room, gpus| {
            debug_assert!(room.free.contains(gpus), "GPUs {gpus:?} are taken, but only {:?} are free", room.free);
            room.free = room.free.without(gpus);
            room.change_beside(request, true);
        });
    }

    /// The GPUs, CPU and memory of these members are held no more; GPUs that are fenced or on a closed node do not become
    /// free. For trial changes.
    pub fn release(&mut self, placed: &[Placed], request: &Request) {
        if request.part != Part::Whole {
            return self.release_parts(placed, request);
        }
        self.change(placed, |room, gpus| {
            room.free = room.free.with(gpus.and(room.usable));
            room.change_beside(request, false);
        });
    }

    /// What is free on `node` beside this much of it, whatever is set aside there now. For trial changes.
    pub fn set_aside(&mut self, node: &Node, aside: &SetAside) {
        self.set(self.homes[node.index.at()], Room::beside(node, aside));
    }

    /// The GPUs of a node that are free once nothing runs there.
    pub fn usable(&self, node: NodeIndex) -> GpuSet {
        let home = self.homes[node.at()];
        self.pools[home.pool.at()].rooms[home.at as usize].usable
    }

    /// The GPUs of a node that are free.
    pub fn free_on(&self, node: NodeIndex) -> GpuSet {
        let home = self.homes[node.at()];
        self.pools[home.pool.at()].rooms[home.at as usize].free
    }

    /// Exactly these GPUs are free on `node` at some time to come, `parts` is what is held of others, of which what is left is
    /// left only on usable ones, and there is so much more CPU and memory than now. For trial changes.
    pub(crate) fn foresee(
        &mut self,
        node: NodeIndex,
        free: GpuSet,
        usable: GpuSet,
        parts: &Parts,
        cpu: i64,
        memory: i64,
    ) {
        for gpu in self.parts[node.at()].gpus().with(parts.gpus()).iter() {
            let then = parts.of(gpu);
            if self.parts[node.at()].of(gpu) != then {
                self.set_cut(node, then);
            }
        }
        let home = self.homes[node.at()];
        let now = self.pools[home.pool.at()].rooms[home.at as usize];
        let (cpu, memory) = (given_back(now.cpu, cpu), given_back(now.memory, memory));
        self.set(home, Room { free, usable, cpu, memory });
    }

    /// From here on changes can be taken back. Checkpoints nest; the last is the first to end.
    pub fn checkpoint(&mut self) -> Mark {
        self.open += 1;
        Mark { length: self.log.len(), cuts: self.cut_log.len(), open: self.open }
    }

    /// Takes back all changes since `mark`, also those of checkpoints made after it.
    pub fn rollback(&mut self, mark: Mark) {
        debug_assert!(mark.open <= self.open, "the checkpoint has ended before");
        // What is undone needs no undoing.
        self.open = 0;
        while self.log.len() > mark.length {
            let Some(Undo { home, room }) = self.log.pop() else { break };
            self.set(home, room);
        }
        self.undo_cuts(mark.cuts);
        self.open = mark.open - 1;
    }

    /// Keeps all changes since `mark`; an older checkpoint can still take them back.
    pub fn commit(&mut self, mark: Mark) {
        debug_assert!(mark.open <= self.open, "the checkpoint has ended before");
        self.open = mark.open - 1;
        if self.open == 0 {
            self.log.clear();
            self.cut_log.clear();
        }
    }

    /// Takes over what is free now on the nodes of these members, after a change of their state; each counter of a domain
    /// changes once. Not between checkpoints.
    ///
    /// # Panics
    /// When a node was not there when the index was built.
    pub fn sync_members(&mut self, nodes: &[Node], placed: impl Iterator<Item = NodeIndex>) {
        debug_assert!(self.open == 0, "what is so for good is no trial");
        let mut last = None;
        for node in placed {
            let Home { pool, at } = self.homes[node.at()];
            if last.is_some_and(|last| last != pool) {
                self.flush(last);
            }
            last = Some(pool);
            self.sync_parts(&nodes[node.at()]);
            let room = Room::of(&nodes[node.at()]);
            let old = std::mem::replace(&mut self.pools[pool.at()].rooms[at as usize], room);
            self.judgements.note(Home { pool, at });
            push(&mut self.changes, Change { at, before: old.count() as u8, now: room.count() as u8 });
        }
        self.flush(last);
    }

    /// Counts the changes of a pool that were gathered.
    #[inline]
    fn flush(&mut self, pool: Option<PoolIndex>) {
        if let Some(pool) = pool {
            self.pools[pool.at()].recount(&self.changes);
        }
        self.changes.clear();
    }

    /// Sets what is free on one node.
    pub(super) fn set(&mut self, home: Home, room: Room) {
        let pool = &mut self.pools[home.pool.at()];
        let old = std::mem::replace(&mut pool.rooms[home.at as usize], room);
        self.judgements.note(home);
        if self.open > 0 {
            self.log.push(Undo { home, room: old });
        }
        if old.count() != room.count() {
            pool.recount(&[Change { at: home.at, before: old.count() as u8, now: room.count() as u8 }]);
        }
    }

    /// Changes the rooms of these members, and each counter of a domain once.
    fn change(&mut self, placed: &[Placed], mut edit: impl FnMut(&mut Room, GpuSet)) {
        let mut rest = placed;
        while let Some(first) = rest.first() {
            let index = self.homes[first.node.at()].pool;
            let pool = &mut self.pools[index.at()];
            let same_pool = rest.iter().take_while(|member| self.homes[member.node.at()].pool == index).count();
            for member in &rest[..same_pool] {
                let home = self.homes[member.node.at()];
                let room = &mut pool.rooms[home.at as usize];
                self.judgements.note(home);
                if self.open > 0 {
                    self.log.push(Undo { home, room: *room });
                }
                let before = room.count() as u8;
                edit(room, member.gpus);
                push(&mut self.changes, Change { at: home.at, before, now: room.count() as u8 });
            }
            self.flush(Some(index));
            rest = &rest[same_pool..];
        }
    }
}

/// Adds a change to those of other nodes, or to the last one where that was of the same node.
#[inline]
fn push(changes: &mut Vec<Change>, change: Change) {
    match changes.last_mut() {
        Some(last) if last.at == change.at => last.now = change.now,
        _ if change.before == change.now => {}
        _ => changes.push(change),
    }
}

impl Room {
    /// CPU and memory of one member are held, or held no more.
    #[inline]
    pub(super) fn change_beside(&mut self, request: &Request, is_taken: bool) {
        let signed = |amount: u64| if is_taken { -clamp(amount) } else { clamp(amount) };
        self.cpu = given_back(self.cpu, signed(request.cpu.0));
        self.memory = given_back(self.memory, signed(request.memory.0));
    }
}

/// `left` when `more` of it is given back (taken, when negative). What is not counted stays so.
#[inline]
fn given_back(left: i64, more: i64) -> i64 {
    // Sums of amounts below the mark for uncounted never reach it.
    if left == UNCOUNTED { UNCOUNTED } else { left.saturating_add(more).min(UNCOUNTED - 1) }
}
