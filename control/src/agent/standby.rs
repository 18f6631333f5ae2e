//! One agent at a time: the next one waits for a lock that ends with the process that holds it.

use std::path::Path;

use anyhow::bail;
use tokio::sync::watch;
use tracing::info;
use weir_api::health::Health;
use weir_api::lock::{Attempt, Lock, take};

/// Takes the lock at `path`, for as long as it is held; `may_wait` until another agent has ended.
pub(super) async fn take_lock(
    path: &Path,
    may_wait: bool,
    readiness: &watch::Sender<Health>,
) -> anyhow::Result<Lock> {
    let waiting = match take(path)? {
        Attempt::Taken(lock) => return Ok(lock),
        Attempt::Held(waiting) => waiting,
    };
    let holder = format!("pid {}", waiting.holder);
    if !may_wait {
        bail!(
            "{}: another weir-agent ({holder}) runs with this --run-dir: stop it, or wait for its \
             end with --standby",
            path.display()
        );
    }
    info!("another weir-agent runs ({holder}): waiting for its end");
    readiness.send_replace(Health::Standby(format!("waiting for the end of {holder}")));
    let lock = waiting.wait().await?;
    info!("the other weir-agent has ended: starting");
    readiness.send_replace(Health::NotReady("starting".into()));
    Ok(lock)
}
