//! One agent at a time: the next one waits for a lock that ends with the process that holds it.
//!
//! Who waits is healthy, and may take the lock, as soon as it could do the work. A rolling update
//! ends the agent before it then, and no sooner: one that never reaches the API server leaves that
//! one alone.

use std::path::Path;

use anyhow::bail;
use tokio::sync::watch;
use weir_api::health::Health;
use weir_api::lock::{Attempt, Lock, take};

use super::source::Source;

/// Takes the lock at `path`, if it is free.
///
/// # Errors
/// It is not, and this agent may not wait.
pub(super) fn try_lock(path: &Path, may_wait: bool) -> anyhow::Result<Attempt> {
    let attempt = take(path)?;
    if let Attempt::Held(waiting) = &attempt
        && !may_wait
    {
        bail!(
            "{}: another weir-agent (pid {}) runs with this --run-dir: stop it, or wait for its \
             end with --standby",
            path.display(),
            waiting.holder
        );
    }
    Ok(attempt)
}

/// Waits until the source has been read and another agent has ended; takes what the source sends
/// meanwhile.
///
/// # Errors
/// The source has ended, or the file cannot be locked.
pub(super) async fn wait(
    path: &Path,
    source: &mut Source,
    readiness: &watch::Sender<Health>,
) -> anyhow::Result<Lock> {
    while let Some(reason) = source.explain_wait() {
        readiness.send_replace(Health::NotReady(reason));
        source.gather().await?;
    }
    // Not tried before: the other may fail and start again, and its source works.
    let waiting = match take(path)? {
        Attempt::Taken(lock) => return Ok(lock),
        Attempt::Held(waiting) => waiting,
    };
    let reason = format!("waiting for the end of pid {}", waiting.holder);
    readiness.send_replace(Health::Standby(reason));
    let mut lock = std::pin::pin!(waiting.wait());
    loop {
        tokio::select! {
            lock = &mut lock => return Ok(lock?),
            gathered = source.gather() => gathered?,
        }
    }
}
