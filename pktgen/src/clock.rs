//! The generator's clock: `CLOCK_MONOTONIC`, the same in all network namespaces, so that one
//! process that sends in one and receives in another measures one-way latency without
//! synchronisation.

use std::num::NonZeroU64;
use std::time::Duration;

use rustix::thread::{ClockId, clock_nanosleep_absolute, set_current_timer_slack};
use rustix::time::Timespec;
use weir_dataplane::clock::{Clock, MonotonicClock};

/// Now, in nanoseconds.
#[inline]
pub fn now_ns() -> u64 {
    MonotonicClock.now().0
}

/// Sleeps until `at_ns`, or less if a signal comes.
pub fn sleep_until(at_ns: u64) {
    // An interrupted sleep is as good as a short one: callers look at the clock.
    let _ = clock_nanosleep_absolute(ClockId::Monotonic, &timespec(at_ns));
}

/// Sleeps for `duration`, or less if a signal comes.
pub fn pause(duration: Duration) {
    sleep_until(now_ns() + nanoseconds(duration));
}

/// Lets the kernel wake this thread when it asked, not up to 50 us later.
pub fn sharpen_timers() {
    // Refused only to real-time threads, whose timers are sharp anyway.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
}

/// A duration in nanoseconds; 584 years at most.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds in the kernel's form.
pub fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}
