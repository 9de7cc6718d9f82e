//! What happens that start estimates are made of, and judged by: runs that end by themselves, and first starts.

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::ids::JobId;
use dure_core::units::Time;
use dure_replay::forecast::run_of;
use dure_replay::learned::Run;

/// Of each kind so many are kept until they are fetched; what comes after them is not missed: estimates are then made of less.
const MAX_KEPT: usize = 100_000;

/// What has happened since it was last fetched, in its order.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Runs that ended by themselves.
    pub runs: Vec<Run>,
    /// First starts; an index of an array starts for its array.
    pub starts: Vec<(JobId, Time)>,
}

impl News {
    /// Reads an event whose turn has just been applied.
    pub(crate) fn read(&mut self, cluster: &Cluster, now: Time, event: &Event) {
        if let Event::JobPlaced { job, .. } = event
            && self.starts.len() < MAX_KEPT
            && let Some(entry) = cluster.job(*job).filter(|entry| entry.attempts == 1)
        {
            self.starts.push((entry.index_of.map_or(*job, |(array, _)| array), now));
        }
        if self.runs.len() < MAX_KEPT {
            self.runs.extend(run_of(cluster, event).map(|(kind, took)| Run::new(kind, took)));
        }
    }
}
