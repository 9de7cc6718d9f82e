//! A leadership that is held, as far as this process can know: everybody who lets something out asks it first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A leadership. Cheap to clone; all clones end together.
#[derive(Clone, Debug)]
pub struct Tenure {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    /// Until so long after `began`, in microseconds.
    until: AtomicU64,
    lost: OnceLock<String>,
}

impl Tenure {
    /// For as long as the process lives: where a lock is held that dies with it.
    pub fn unbounded() -> Self {
        let shared = Shared { began: Instant::now(), until: AtomicU64::new(u64::MAX), lost: OnceLock::new() };
        Self { shared: Arc::new(shared) }
    }

    /// For `span` from `asked` on, and longer when it is extended.
    pub fn leased(asked: Instant, span: Duration) -> Self {
        let tenure =
            Self { shared: Arc::new(Shared { began: asked, until: AtomicU64::new(0), lost: OnceLock::new() }) };
        tenure.extend(asked + span);
        tenure
    }

    /// Whether it is held now. By the monotonic clock, which goes on while the process is paused: a leader that was
    /// asleep for too long knows it at its first look.
    pub fn holds(&self) -> bool {
        self.shared.lost.get().is_none() && self.left() > Duration::ZERO
    }

    /// How long it is held without being extended.
    pub fn left(&self) -> Duration {
        let until = Duration::from_micros(self.shared.until.load(Ordering::Acquire));
        until.saturating_sub(self.shared.began.elapsed())
    }

    /// It is held until then, unless it has ended: what has run out is not taken up again.
    pub(crate) fn extend(&self, until: Instant) {
        let span = until.saturating_duration_since(self.shared.began).as_micros();
        self.shared.until.fetch_max(u64::try_from(span).unwrap_or(u64::MAX - 1), Ordering::AcqRel);
    }

    /// It is over, for all clones.
    pub fn end(&self, why: impl Into<String>) {
        self.shared.lost.get_or_init(|| why.into());
    }

    /// Why it is over.
    pub fn why_lost(&self) -> String {
        let silent = || "etcd has not renewed the lease in time".to_owned();
        self.shared.lost.get().cloned().unwrap_or_else(silent)
    }
}
