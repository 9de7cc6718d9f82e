//! How much room the journal's disk has left: calls are refused before it is full, and taken again when there is room.
//!
//! A write that fails for want of room ends this scheduler's leadership; so nothing new is taken while less than the reserve
//! is left, and what is left serves what must go on: reports of agents, ends of jobs, cancellations.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether there is room. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Room {
    is_low: Arc<AtomicBool>,
}

impl Room {
    /// Whether less than the reserve is left.
    pub fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    fn set(&self, is_low: bool) {
        if self.is_low.swap(is_low, Ordering::Relaxed) == is_low {
            return;
        }
        if is_low {
            tracing::error!(
                "the journal's disk is nearly full: only cancellations are taken until there is room again"
            );
        } else {
            tracing::warn!("the journal's disk has room again: calls are taken");
        }
    }

    /// Looks at the disk of `dir` again and again.
    pub async fn watch(self, dir: PathBuf, reserve_bytes: u64, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let path = dir.clone();
            let looked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path)).await;
            // A disk that does not answer is the journal's to notice.
            if let Ok(Ok(disk)) = looked {
                self.set(disk.f_bavail.saturating_mul(disk.f_frsize) < reserve_bytes);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = &mut stop => return,
            }
        }
    }
}
