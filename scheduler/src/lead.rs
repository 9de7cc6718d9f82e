//! A leader between its turns and the world: batches to the journal, effects out when the journal has them.
//!
//! In: calls, agents' messages, the time, and the word of the journal that a position is durable. Out: batches to write,
//! durable turns for those who follow, and effects, carried out in order. Synchronous: `run` pumps it with tokio and the
//! writer's thread, the simulator with a clock and a disk of its own. It must never let an effect out early.

use std::collections::VecDeque;
use std::sync::Arc;

use dure_core::ids::{BlobId, Epoch, Seq};
use dure_core::units::Time;

use crate::agents::FromAgent;
use crate::effect::Effect;
use crate::handle::Call;
use crate::journal::{Batch, Blob};
use crate::perform::Performer;
use crate::record;
use crate::source::DurableBatch;
use crate::turn::{Scheduler, TurnBatch};

/// Batches that may be on their way to the disk; then turns wait.
pub const MAX_BATCHES_UNDER_WAY: usize = 64;

/// Effects that may wait for the disk, answers to reads among them; then turns wait, and callers are turned away.
pub const MAX_EFFECTS_WAITING: usize = 65_536;

/// The state, its rules, and what is on its way to the disk.
pub struct Leader {
    scheduler: Scheduler,
    performer: Performer,
    epoch: Epoch,
    under_way: VecDeque<UnderWay>,
    last_turn: Option<Time>,
}

/// A batch on its way to the disk.
struct UnderWay {
    last: Seq,
    batch: DurableBatch,
}

/// What a turn came to.
#[derive(Debug, Default)]
pub struct Led {
    /// To be written, with its blobs; none when nothing happened.
    pub batch: Option<(Batch, Vec<Blob>)>,
    /// Another turn has work at once.
    pub more: bool,
}

impl Leader {
    /// Leads under `epoch`, which the journal has given.
    pub fn new(scheduler: Scheduler, performer: Performer, epoch: Epoch) -> Self {
        Self { scheduler, performer, epoch, under_way: VecDeque::new(), last_turn: None }
    }

    /// The state and its rules.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Whether another turn may be taken before the disk has caught up.
    pub fn has_room(&self) -> bool {
        self.under_way.len() < MAX_BATCHES_UNDER_WAY && self.scheduler.waiting_effects() < MAX_EFFECTS_WAITING
    }

    /// Whether all that was decided is durable.
    pub fn is_settled(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Takes a turn. What it came to is to be written, unless `scheduler().fatal()` says why this leader must stop.
    pub fn turn(&mut self, calls: Vec<Call>, messages: Vec<FromAgent>, now: Time) -> Led {
        let deadline = self.scheduler.suspect_after();
        if self.last_turn.replace(now).is_some_and(|last| now.since(last) >= deadline) {
            self.scheduler.came_back();
        }
        let turned = self.scheduler.turn(calls, messages, now);
        let batch = turned.batch.map(|batch| self.send_off(batch));
        if self.scheduler.fatal().is_none() {
            // What rests on positions that are durable already waits for nothing.
            self.let_out(self.scheduler.position().seq);
        }
        Led { batch, more: turned.more }
    }

    fn send_off(&mut self, batch: TurnBatch) -> (Batch, Vec<Blob>) {
        let TurnBatch { first, time, events, blobs, calls } = batch;
        for blob in &blobs {
            self.performer.payloads.keep(BlobId(blob.id().0), blob.bytes());
        }
        let payload = record::encode_with_calls(time, &events, &calls);
        let count = u32::try_from(events.len()).expect("a turn's limits keep it far below");
        let batch = DurableBatch { first_seq: first.0, epoch: self.epoch, time, events, calls };
        self.under_way.push_back(UnderWay { last: batch.last(), batch });
        (Batch { first_seq: first.0, count, epoch: self.epoch.0, payload }, blobs)
    }

    /// Makes ready for the next turn, when nobody waits for this one.
    pub fn provision(&mut self) {
        self.scheduler.provision();
    }

    /// The journal holds everything up to `seq`: what waited for it leaves. The turns that have become durable.
    pub fn durable(&mut self, seq: Seq) -> Vec<Arc<DurableBatch>> {
        let mut durable = Vec::new();
        while let Some(front) = self.under_way.front()
            && front.last <= seq
        {
            durable.extend(self.under_way.pop_front().map(|under_way| Arc::new(under_way.batch)));
        }
        self.let_out(seq);
        durable
    }

    fn let_out(&mut self, seq: Seq) {
        let effects = self.scheduler.durable(seq);
        let position = self.scheduler.position();
        self.performer.perform(&mut self.scheduler, effects, position);
    }

    /// Nothing can become durable any more: nothing leaves but the word that nothing more leaves.
    pub fn abandon(&mut self, why: &str) {
        for effect in self.scheduler.abandon() {
            if let Effect::Answer(answer) = effect {
                answer(Err(why.to_owned()));
            }
        }
    }
}
