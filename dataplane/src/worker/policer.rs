//! Limits of pods' bandwidth: a token bucket for each pod and direction, of bytes of IP packets.
//!
//! A pod's packets, both those that it sends and those that it receives, go through its own worker,
//! so buckets are nobody else's business. Which pods have limits, and which, is in the snapshot;
//! how full their buckets are is here, and is forgotten with the process.

use weir_tables::policy::Direction;
use weir_tables::{Bandwidth, Link, PortId, Rate, Snapshot};

use super::Worker;
use crate::batch::Verdict;
use crate::clock::Instant;
use crate::device::Device;
use crate::drops::Drop;
use crate::memory::Frame;

/// Bytes of an Ethernet header, which is not counted.
const ETHERNET_BYTES: usize = 14;
const NS_PER_S: u128 = 1_000_000_000;

/// The buckets of all pods with a limit.
#[derive(Debug, Default)]
pub(super) struct Policer {
    /// By port.
    pods: Vec<Pod>,
}

#[derive(Debug)]
struct Pod {
    port: PortId,
    limits: Bandwidth,
    ingress: Option<Bucket>,
    egress: Option<Bucket>,
}

/// What may go now, and when that was so.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// Bytes times nanoseconds per second: no rate is rounded.
    level: u128,
    at: Instant,
}

impl Policer {
    /// Takes over the limits of a new snapshot. A bucket keeps its level, as far as it still fits.
    pub fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        if self.pods.is_empty() && !snapshot.has_limits() {
            return;
        }
        let mut pods: Vec<Pod> = snapshot
            .limits()
            .map(|(port, limits)| match self.position(port) {
                Some(at) => self.pods[at].with_limits(limits, now),
                None => Pod::new(port, limits, now),
            })
            .collect();
        pods.sort_unstable_by_key(|pod| pod.port);
        self.pods = pods;
    }

    /// What becomes of a frame that may be about to go into a pod.
    #[inline]
    pub fn judge(
        &mut self,
        verdict: Verdict,
        frame: &Frame,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Verdict {
        // Nobody has a limit: almost everywhere.
        if self.pods.is_empty() {
            return verdict;
        }
        let Verdict::Transmit { adjacency } = verdict else { return verdict };
        let Some(row) = snapshot.adjacency(adjacency) else { return verdict };
        let is_pod = row.link == Link::Trunk;
        if !is_pod || self.admits(row.port, Direction::Ingress, frame.len(), now) {
            return verdict;
        }
        Verdict::Drop(Drop::Bandwidth)
    }

    /// Whether a frame may go into or out of a pod; what may not is not counted against it.
    fn admits(
        &mut self,
        port: PortId,
        direction: Direction,
        frame_bytes: usize,
        now: Instant,
    ) -> bool {
        let Some(at) = self.position(port) else { return true };
        let pod = &mut self.pods[at];
        let bucket = match direction {
            Direction::Ingress => &mut pod.ingress,
            Direction::Egress => &mut pod.egress,
        };
        let bytes = frame_bytes.saturating_sub(ETHERNET_BYTES);
        bucket.as_mut().is_none_or(|bucket| bucket.take(bytes, now))
    }

    fn position(&self, port: PortId) -> Option<usize> {
        self.pods.binary_search_by_key(&port, |pod| pod.port).ok()
    }
}

impl<D: Device> Worker<D> {
    /// Drops what pods have just sent beyond their limits.
    #[inline]
    pub(super) fn police_sent(&mut self, now: Instant) {
        if self.policer.pods.is_empty() {
            return;
        }
        let (parts, policer) = (&mut self.parts, &mut self.policer);
        let is_too_much = |port, bytes| !policer.admits(port, Direction::Egress, bytes, now);
        for packet in self.batch.extract(is_too_much) {
            parts.counters.count_drop(Drop::Bandwidth);
            parts.pool.put(packet.frame);
        }
    }
}

impl Pod {
    fn new(port: PortId, limits: Bandwidth, now: Instant) -> Pod {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::full(rate, now));
        let (ingress, egress) = (bucket(limits.ingress), bucket(limits.egress));
        Pod { port, limits, ingress, egress }
    }

    fn with_limits(&self, limits: Bandwidth, now: Instant) -> Pod {
        let fresh = Pod::new(self.port, limits, now);
        let keep = |new: Option<Bucket>, old: Option<Bucket>, is_same: bool| match (new, old) {
            (Some(_), Some(old)) if is_same => Some(old),
            (Some(new), Some(mut old)) => {
                old.fill(now);
                Some(Bucket { level: old.level.min(new.level), ..new })
            }
            (new, _) => new,
        };
        let (is_same_in, is_same_out) =
            (limits.ingress == self.limits.ingress, limits.egress == self.limits.egress);
        Pod {
            ingress: keep(fresh.ingress, self.ingress, is_same_in),
            egress: keep(fresh.egress, self.egress, is_same_out),
            ..fresh
        }
    }
}

impl Bucket {
    fn full(rate: Rate, at: Instant) -> Bucket {
        Bucket { rate, level: u128::from(rate.burst_bytes) * NS_PER_S, at }
    }

    fn fill(&mut self, now: Instant) {
        let passed_ns = now.0.saturating_sub(self.at.0);
        let most = u128::from(self.rate.burst_bytes) * NS_PER_S;
        let more = u128::from(self.rate.bytes_per_s) * u128::from(passed_ns);
        self.level = (self.level + more).min(most);
        self.at = now;
    }

    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        self.fill(now);
        let cost = bytes as u128 * NS_PER_S;
        let is_enough = self.level >= cost;
        if is_enough {
            self.level -= cost;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { bytes_per_s: 1_000_000, burst_bytes: 10_000 };
    const IP_BYTES: usize = 1000;

    fn admitted(bucket: &mut Bucket, packets: usize, now_ms: u64) -> usize {
        let now = Instant(now_ms * 1_000_000);
        (0..packets).filter(|_| bucket.take(IP_BYTES, now)).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::full(RATE, Instant(0));
        assert_eq!(admitted(&mut bucket, 20, 0), 10);
        assert_eq!(admitted(&mut bucket, 20, 5), 5);
        assert_eq!(admitted(&mut bucket, 20, 1000), 10, "never more than the burst");
        let mut total = 0;
        for ms in 1001..=2000 {
            total += admitted(&mut bucket, 3, ms);
        }
        assert_eq!(total, 1000, "a megabyte per second");
    }

    #[test]
    fn a_slow_rate_is_not_rounded_away() {
        let slow = Rate { bytes_per_s: 125, burst_bytes: 2048 };
        let mut bucket = Bucket::full(slow, Instant(0));
        assert_eq!(admitted(&mut bucket, 3, 0), 2);
        // 48 bytes are left; 952 more take 7.616 s.
        for ms in 1..7616 {
            assert_eq!(admitted(&mut bucket, 1, ms), 0, "{ms}");
        }
        assert_eq!(admitted(&mut bucket, 1, 7616), 1);
    }

    #[test]
    fn another_rate_holds_at_once_and_gives_no_new_burst() {
        let limits = |bytes_per_s| Bandwidth {
            egress: Some(Rate { bytes_per_s, ..RATE }),
            ..Bandwidth::default()
        };
        let now = Instant(0);
        let mut pod = Pod::new(PortId(7), limits(1_000_000), now);
        let bucket = pod.egress.as_mut().unwrap();
        assert_eq!(admitted(bucket, 20, 0), 10);
        let mut slower = pod.with_limits(limits(100_000), now);
        assert_eq!(admitted(slower.egress.as_mut().unwrap(), 20, 0), 0);
        assert_eq!(admitted(slower.egress.as_mut().unwrap(), 20, 20), 2);
        assert!(slower.ingress.is_none());
        let same = slower.with_limits(limits(100_000), Instant(1_000_000_000));
        assert_eq!(same.egress.unwrap().at, Instant(20_000_000), "untouched");
        assert!(slower.with_limits(Bandwidth::default(), now).egress.is_none());
    }
}
