//! The lab's only clock: real time, because real processes and the kernel run in it.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How often a condition without an event is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Measures elapsed time from its making.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[allow(clippy::disallowed_methods, reason = "the lab watches real processes")]
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Nanoseconds since the start; saturates after 584 years.
    #[must_use]
    pub fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Blocks this thread. For what has no event to wait for: prefer [`wait_until`].
#[allow(clippy::disallowed_methods, reason = "the lab waits for real processes")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Waits until `ready` gives a value, looking every 5 ms.
///
/// # Errors
/// [`Error::Timeout`], naming `what`, after `timeout`.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if watch.elapsed() >= timeout {
            return Err(Error::Timeout {
                what: what.into(),
                waited_ms: timeout.as_millis(),
                output: String::new(),
            });
        }
        pause(POLL_INTERVAL);
    }
}
