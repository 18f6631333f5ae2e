//! What arrived: once, twice, out of order, broken, or never.

use crate::latency::Latencies;
use crate::message::{Message, Received};

/// Sorts received payloads of one run.
pub struct Arrivals {
    run: u32,
    flows: u32,
    pattern: Vec<u8>,
    /// A bit per packet of the run.
    seen: Vec<u64>,
    packets: u64,
    /// By flow: the packet after the latest one that came.
    next_of_flow: Vec<u64>,
    by_sink: Vec<u64>,
    counts: Counts,
    first_ns: u64,
    last_ns: u64,
    /// From the intended time of sending.
    pub latency: Latencies,
    /// From the actual time of sending: without the generator's own delays.
    pub transit: Latencies,
}

/// Numbers of received packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different packets of the run that came whole.
    pub received: u64,
    /// Further copies of such.
    pub duplicates: u64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
    /// With other bytes than were sent.
    pub corrupted: u64,
    /// Not of this run.
    pub foreign: u64,
}

/// Holes in the sequence of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Runs of missing packets, counted in each flow by itself.
    pub gaps: u64,
    /// Flows with at least one.
    pub flows: u64,
    /// The most consecutive packets that are missing, over all flows: how long nothing got through.
    pub longest: u64,
}

impl Arrivals {
    /// Expects `packets` packets of `run`, spread over `flows` in turn, with `pattern` behind each
    /// message, at `sinks` places.
    pub fn new(run: u32, packets: u64, flows: u32, pattern: &[u8], sinks: usize) -> Arrivals {
        Arrivals {
            run,
            flows,
            pattern: pattern.to_vec(),
            seen: vec![0; packets.div_ceil(64) as usize],
            packets,
            next_of_flow: vec![0; flows as usize],
            by_sink: vec![0; sinks],
            counts: Counts::default(),
            first_ns: 0,
            last_ns: 0,
            latency: Latencies::new(),
            transit: Latencies::new(),
        }
    }

    /// Takes a payload that came to `sink` at `now_ns`.
    pub fn take(&mut self, sink: usize, payload: &[u8], now_ns: u64) {
        match Message::read(payload, &self.pattern) {
            Received::Whole(message) if self.is_of_this_run(&message) => {
                self.take_message(sink, &message, now_ns);
            }
            Received::Corrupted => self.counts.corrupted += 1,
            Received::Whole(_) | Received::Foreign => self.counts.foreign += 1,
        }
    }

    /// Counts a packet of ours that a checksum gave away.
    pub fn take_corrupted(&mut self) {
        self.counts.corrupted += 1;
    }

    /// Counts a packet that is none of ours.
    pub fn take_foreign(&mut self) {
        self.counts.foreign += 1;
    }

    /// Numbers so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Packets that came first to each sink.
    pub fn by_sink(&self) -> &[u64] {
        &self.by_sink
    }

    /// When the last whole packet came; 0 if none did.
    pub fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// From the first to the last whole packet.
    pub fn span_ns(&self) -> u64 {
        self.last_ns - self.first_ns
    }

    /// Holes among the first `sent` packets.
    pub fn gaps(&self, sent: u64) -> Gaps {
        let mut gaps = Gaps::default();
        let mut in_gap = vec![false; self.flows as usize];
        let mut had_gap = vec![false; self.flows as usize];
        let mut consecutive = 0;
        for seq in 0..sent.min(self.packets) {
            let flow = (seq % u64::from(self.flows)) as usize;
            let is_missing = self.seen[(seq / 64) as usize] & (1 << (seq % 64)) == 0;
            consecutive = if is_missing { consecutive + 1 } else { 0 };
            gaps.longest = gaps.longest.max(consecutive);
            gaps.gaps += u64::from(is_missing && !in_gap[flow]);
            in_gap[flow] = is_missing;
            had_gap[flow] |= is_missing;
        }
        gaps.flows = had_gap.iter().filter(|had| **had).count() as u64;
        gaps
    }

    fn is_of_this_run(&self, message: &Message) -> bool {
        message.run == self.run
            && message.seq < self.packets
            && u64::from(message.flow) == message.seq % u64::from(self.flows)
    }

    fn take_message(&mut self, sink: usize, message: &Message, now_ns: u64) {
        let (word, bit) = ((message.seq / 64) as usize, 1 << (message.seq % 64));
        if self.seen[word] & bit != 0 {
            self.counts.duplicates += 1;
            return;
        }
        self.seen[word] |= bit;
        self.counts.received += 1;
        self.by_sink[sink] += 1;
        let next = &mut self.next_of_flow[message.flow as usize];
        self.counts.reordered += u64::from(message.seq < *next);
        *next = (*next).max(message.seq + 1);
        self.latency.record(now_ns.saturating_sub(message.intended_ns));
        self.transit.record(now_ns.saturating_sub(message.sent_ns));
        self.last_ns = now_ns;
        if self.counts.received == 1 {
            self.first_ns = now_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::pattern;

    const RUN: u32 = 9;

    fn message(seq: u64) -> Message {
        Message {
            run: RUN,
            flow: (seq % 3) as u32,
            seq,
            intended_ns: 1000 + seq,
            sent_ns: 1500 + seq,
        }
    }

    fn take(arrivals: &mut Arrivals, seq: u64) {
        let payload = [&message(seq).to_bytes()[..], &pattern(5)].concat();
        arrivals.take(0, &payload, 2000 + seq);
    }

    fn arrivals() -> Arrivals {
        Arrivals::new(RUN, 100, 3, &pattern(5), 2)
    }

    #[test]
    fn all_in_order_is_nothing_to_report() {
        let mut arrivals = arrivals();
        (0..100).for_each(|seq| take(&mut arrivals, seq));
        assert_eq!(arrivals.counts(), Counts { received: 100, ..Counts::default() });
        assert_eq!(arrivals.gaps(100), Gaps::default());
        assert_eq!((arrivals.by_sink(), arrivals.span_ns()), (&[100, 0][..], 99));
        let summary = (arrivals.latency.summary(), arrivals.transit.summary());
        assert_eq!((summary.0.p50, summary.1.p50), (1000, 500));
    }

    #[test]
    fn order_is_judged_by_flow() {
        let mut arrivals = arrivals();
        // Flows 0, 1 and 2 are each in order; between flows order means nothing.
        [3, 1, 2, 6, 0].into_iter().for_each(|seq| take(&mut arrivals, seq));
        assert_eq!(arrivals.counts(), Counts { received: 5, reordered: 1, ..Counts::default() });
    }

    #[test]
    fn copies_foreigners_and_broken_ones_are_told_apart() {
        let mut arrivals = arrivals();
        [4, 4, 4].into_iter().for_each(|seq| take(&mut arrivals, seq));
        take(&mut arrivals, 100);
        arrivals.take(1, b"hello", 5);
        let other = Message { run: RUN + 1, ..message(5) };
        arrivals.take(1, &[&other.to_bytes()[..], &pattern(5)].concat(), 5);
        arrivals.take(1, &[&message(5).to_bytes()[..], b"other"].concat(), 5);
        let expected =
            Counts { received: 1, duplicates: 2, reordered: 0, corrupted: 1, foreign: 3 };
        assert_eq!(arrivals.counts(), expected);
    }

    #[test]
    fn gaps_are_counted_by_flow_and_the_longest_over_all() {
        let mut arrivals = arrivals();
        // 30..40 are a gap in each of three flows, and 51 and 57 two of flow 0.
        let lost = |seq: &u64| (30..40).contains(seq) || [51, 57].contains(seq);
        (0..90).filter(|seq| !lost(seq)).for_each(|seq| take(&mut arrivals, seq));
        assert_eq!(arrivals.gaps(90), Gaps { gaps: 5, flows: 3, longest: 10 });
        assert_eq!(arrivals.gaps(30), Gaps::default(), "what was not sent is not missing");
    }
}
