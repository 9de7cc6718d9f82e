//! Why a replay cannot go on.

use dure_core::gpu::MAX_GPUS_PER_NODE;
use dure_core::rejected::Rejected;

use crate::shape::ShapeError;

/// A replay that cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DriveError {
    /// A job that is no gang.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// No node has what a job names.
    #[error("job {job}: no node has a GPU of the models {models:?}: leave the job out, or add nodes")]
    NoNode {
        /// Which job.
        job: String,
        /// The models that it names; none: any.
        models: Vec<String>,
    },
    /// A node that is larger than nodes may be.
    #[error("node {node} has {gpus} GPUs: at most {MAX_GPUS_PER_NODE} are possible; divide it")]
    NodeTooLarge {
        /// Which node.
        node: String,
        /// Its GPUs.
        gpus: u32,
    },
    /// The core refused a node or a tenant of the trace.
    #[error("{what} is refused: {why:?}")]
    Refused {
        /// Which node or tenant.
        what: String,
        /// Why.
        why: Rejected,
    },
    /// Nothing runs and nothing comes, and yet jobs wait.
    #[error("{jobs} jobs wait for ever, among them {first}: {why}")]
    Stuck {
        /// How many.
        jobs: usize,
        /// One of them.
        first: String,
        /// What keeps it.
        why: String,
    },
}
