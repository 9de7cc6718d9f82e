//! Waiting for something to be so, with a bound. Nothing here waits for a fixed time in the hope that it is long enough.

use std::future::Future;
use std::time::{Duration, Instant};

/// The longest that any single thing may take, on a loaded node.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something.
///
/// # Panics
/// After `PATIENCE`, naming `what`.
pub async fn until_some<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not so within {PATIENCE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks until it is so.
///
/// # Panics
/// After `PATIENCE`, naming `what`.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    until_some(what, || std::future::ready(so().then_some(()))).await;
}

/// What the future gives, within `PATIENCE`.
///
/// # Panics
/// After `PATIENCE`, naming `what`.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: did not come within {PATIENCE:?}"))
}
