//! The only place where the dataplane reads time. Workers read it once per turn and pass it on.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` counts too, so a heartbeat stamped
/// here can be judged by the eBPF programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// Milliseconds, wrapping after 49 days: what a flow entry has room for. Differences are taken
    /// with wrapping arithmetic, and no timeout is longer than a day.
    #[inline]
    pub fn as_millis_wrapping(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }
}

/// A source of time.
pub trait Clock {
    /// The time now.
    fn now(&self) -> Instant;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    #[inline]
    fn now(&self) -> Instant {
        let time = clock_gettime(ClockId::Monotonic);
        Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// A clock that stands still until it is moved.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl VirtualClock {
    /// Moves time forward.
    pub fn advance_ns(&self, by_ns: u64) {
        self.0.fetch_add(by_ns, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        Instant(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}
