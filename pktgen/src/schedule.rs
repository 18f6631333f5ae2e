//! When each packet is to leave: fixed beforehand, whatever becomes of earlier packets.
//!
//! This is what makes the generator *open loop*: a stall delays packets and shows in their latency,
//! which counts from the intended time; it never thins out the load ("coordinated omission").

use std::time::Duration;

const SECOND_NS: u128 = 1_000_000_000;

/// An even schedule. Times are computed from the packet's number, so they never drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    start_ns: u64,
    rate_pps: u64,
    packets: u64,
}

impl Schedule {
    /// As many packets as fit `duration` at `rate_pps`, the first one at `start_ns`.
    pub fn new(start_ns: u64, rate_pps: u64, duration: Duration) -> Schedule {
        let packets = duration.as_nanos() * u128::from(rate_pps) / SECOND_NS;
        Schedule { start_ns, rate_pps, packets: u64::try_from(packets).unwrap_or(u64::MAX) }
    }

    /// Packets in all.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// When packet `seq` is to leave.
    pub fn due_ns(&self, seq: u64) -> u64 {
        let after = (u128::from(seq) * SECOND_NS).div_ceil(u128::from(self.rate_pps.max(1)));
        self.start_ns.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// How many packets are to have left at `now_ns`.
    pub fn due_count(&self, now_ns: u64) -> u64 {
        let Some(after) = now_ns.checked_sub(self.start_ns) else { return 0 };
        let due = u128::from(after) * u128::from(self.rate_pps) / SECOND_NS + 1;
        u64::try_from(due).unwrap_or(u64::MAX).min(self.packets)
    }

    /// When the schedule is over: one interval after its last packet is due.
    pub fn end_ns(&self) -> u64 {
        self.due_ns(self.packets)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_odd_rate_does_not_drift_in_a_day() {
        let day = Duration::from_secs(86_400);
        for rate in [1, 3, 7, 999_983, 1_234_567] {
            let schedule = Schedule::new(5, rate, day);
            assert_eq!(schedule.packets(), 86_400 * rate);
            assert_eq!(schedule.due_ns(0), 5);
            assert_eq!(schedule.due_ns(3600 * rate), 5 + 3_600_000_000_000);
            assert_eq!(schedule.end_ns(), 5 + 86_400_000_000_000);
        }
    }

    #[test]
    fn nothing_is_due_before_the_start_and_no_more_than_all_after_the_end() {
        let schedule = Schedule::new(1000, 10, Duration::from_millis(250));
        assert_eq!(schedule.packets(), 2);
        assert_eq!([999, 1000, u64::MAX].map(|now| schedule.due_count(now)), [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn a_packet_is_due_exactly_from_its_time_on(
            start in 0..u64::MAX / 4,
            rate in 1..20_000_000_u64,
            seq in 0..1_000_000_000_u64,
        ) {
            let schedule = Schedule { start_ns: start, rate_pps: rate, packets: u64::MAX };
            let due = schedule.due_ns(seq);
            prop_assert!(schedule.due_count(due) > seq);
            prop_assert!(due == start || schedule.due_count(due - 1) <= seq);
        }
    }
}
