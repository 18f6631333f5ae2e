//! What policy decided, per worker: counted by endpoint and rule, and the last verdicts themselves.
//!
//! One worker writes, anybody reads. All memory is there from the start; a verdict costs a look-up
//! in a table of atomics and a push into a ring, without a lock and without an allocation.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use weir_packet::FlowKey;
use weir_tables::PortId;
use weir_tables::policy::{Direction, IdentityId, L4, RuleId};

/// Rows of the table of counts, a power of two: 250 pods with 16 deciding rules each take half.
pub const ROWS: usize = 8192;
/// Verdicts that are kept: so many that let a packet through, and as many that did not; apart,
/// because people look for the latter, which may be few.
pub const RECENT: usize = 1024;
/// How far from its place a row may lie.
const PROBES: usize = 64;

/// A row that holds nothing, and never did.
const EMPTY: u64 = 0;
/// A row whose endpoint has gone. No endpoint has the port 0.
const GONE: u64 = 1;

/// One verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictEvent {
    /// The worker's clock, in milliseconds that wrap.
    pub at_ms: u32,
    /// Snapshot that it was made by.
    pub revision: u32,
    /// Whose rules were asked.
    pub endpoint: PortId,
    pub direction: Direction,
    pub kind: VerdictKind,
    pub rule: RuleId,
    /// As it was judged: after translation.
    pub key: FlowKey,
    /// The other end.
    pub peer: IdentityId,
    pub l4: L4,
}

/// What became of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VerdictKind {
    Allowed,
    Denied,
    /// Denied, but let through: the endpoint is audited.
    Audited,
    /// The L7 proxy should decide. There is none, so the packet is dropped.
    Redirected,
}

impl VerdictKind {
    pub const ALL: [VerdictKind; 4] =
        [VerdictKind::Allowed, VerdictKind::Denied, VerdictKind::Audited, VerdictKind::Redirected];

    /// Whether the packet went no further.
    pub fn is_stopped(self) -> bool {
        matches!(self, VerdictKind::Denied | VerdictKind::Redirected)
    }

    /// Stable name: the label of the metric.
    pub fn name(self) -> &'static str {
        match self {
            VerdictKind::Allowed => "allowed",
            VerdictKind::Denied => "denied",
            VerdictKind::Audited => "audited",
            VerdictKind::Redirected => "redirected",
        }
    }
}

/// How often a rule decided in one way at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerdictCount {
    pub endpoint: PortId,
    pub direction: Direction,
    pub kind: VerdictKind,
    pub rule: RuleId,
    pub count: u64,
}

/// The verdicts of one worker, who alone may record and does so from one thread.
#[derive(Debug)]
pub struct VerdictLog {
    rows: Box<[Row]>,
    /// By direction and kind: these outlive the endpoints.
    totals: [[AtomicU64; 4]; 2],
    uncounted: AtomicU64,
    passed: ArrayQueue<VerdictEvent>,
    stopped: ArrayQueue<VerdictEvent>,
}

/// Counts of one endpoint, direction and rule.
#[derive(Debug, Default)]
struct Row {
    /// [`EMPTY`], [`GONE`], or a [`key`]. The worker fills rows, whoever forgets an endpoint
    /// empties them, and a row is filled again only after its counts were cleared.
    key: AtomicU64,
    /// By kind.
    counts: [AtomicU64; 4],
}

impl Default for VerdictLog {
    fn default() -> Self {
        VerdictLog::new()
    }
}

impl VerdictLog {
    /// An empty log.
    pub fn new() -> VerdictLog {
        VerdictLog {
            rows: (0..ROWS).map(|_| Row::default()).collect(),
            totals: Default::default(),
            uncounted: AtomicU64::new(0),
            passed: ArrayQueue::new(RECENT),
            stopped: ArrayQueue::new(RECENT),
        }
    }

    /// Counts a verdict and keeps it among the last ones.
    pub fn record(&self, event: &VerdictEvent) {
        add(&self.totals[side(event.direction)][event.kind as usize]);
        match self.row(key(event.endpoint, event.direction, event.rule)) {
            Some(row) => add(&row.counts[event.kind as usize]),
            None => add(&self.uncounted),
        }
        let ring = if event.kind.is_stopped() { &self.stopped } else { &self.passed };
        ring.force_push(*event);
    }

    /// The row of a key, taken if there is none yet; `None` where all near its place are in use.
    fn row(&self, key: u64) -> Option<&Row> {
        let mut free = None;
        for at in 0..PROBES {
            let row = &self.rows[(place(key) + at) % ROWS];
            match row.key.load(Ordering::Relaxed) {
                found if found == key => return Some(row),
                GONE => free = free.or(Some(row)),
                EMPTY => {
                    free = free.or(Some(row));
                    break;
                }
                _ => {}
            }
        }
        let row = free?;
        for count in &row.counts {
            count.store(0, Ordering::Relaxed);
        }
        // Released last: who reads this key sees the cleared counts.
        row.key.store(key, Ordering::Release);
        Some(row)
    }

    /// All counts of endpoints that were not forgotten, in no order.
    pub fn counts(&self) -> Vec<VerdictCount> {
        let mut counts = Vec::new();
        for row in &self.rows {
            let key = row.key.load(Ordering::Acquire);
            if matches!(key, EMPTY | GONE) {
                continue;
            }
            let (endpoint, direction, rule) = parts(key);
            for kind in VerdictKind::ALL {
                let count = row.counts[kind as usize].load(Ordering::Relaxed);
                if count > 0 {
                    counts.push(VerdictCount { endpoint, direction, kind, rule, count });
                }
            }
        }
        counts
    }

    /// Takes the last verdicts out, oldest first: who calls keeps them.
    pub fn drain_recent(&self) -> Vec<VerdictEvent> {
        let mut recent = Vec::new();
        for ring in [&self.passed, &self.stopped] {
            // Bounded: the worker goes on while this reads.
            recent.extend((0..RECENT).map_while(|_| ring.pop()));
        }
        if let Some(newest) = recent.iter().map(|event| event.at_ms).reduce(later) {
            recent.sort_by_key(|event| std::cmp::Reverse(newest.wrapping_sub(event.at_ms)));
        }
        recent
    }

    /// Forgets the counts of an endpoint that has gone. Any thread may call it; what the worker
    /// still counts by a snapshot that has the endpoint is forgotten with it, or shows up anew.
    pub fn forget(&self, endpoint: PortId) {
        for row in &self.rows {
            let key = row.key.load(Ordering::Relaxed);
            if !matches!(key, EMPTY | GONE) && parts(key).0 == endpoint {
                // The worker replaces no key that is in use, so this fails only against another
                // call of this kind.
                let _ = row.key.compare_exchange(key, GONE, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Verdicts by direction and kind since the start.
    pub fn totals(&self) -> impl Iterator<Item = (Direction, VerdictKind, u64)> + '_ {
        [Direction::Ingress, Direction::Egress].into_iter().flat_map(move |direction| {
            VerdictKind::ALL.into_iter().map(move |kind| {
                let total = &self.totals[side(direction)][kind as usize];
                (direction, kind, total.load(Ordering::Relaxed))
            })
        })
    }

    /// Verdicts for which the table of counts had no row left.
    pub fn uncounted(&self) -> u64 {
        self.uncounted.load(Ordering::Relaxed)
    }

    /// Rows of the table of counts that are in use.
    pub fn rows_used(&self) -> usize {
        let is_used = |row: &&Row| !matches!(row.key.load(Ordering::Relaxed), EMPTY | GONE);
        self.rows.iter().filter(is_used).count()
    }
}

/// One writer: a load and a store, no locked instruction.
#[inline]
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

fn later(a: u32, b: u32) -> u32 {
    if b.wrapping_sub(a) < u32::MAX / 2 { b } else { a }
}

fn side(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

/// Port (31 bits: the kernel's interface indices are positive and signed), direction and rule.
fn key(endpoint: PortId, direction: Direction, rule: RuleId) -> u64 {
    debug_assert!(endpoint.0 > 0 && endpoint.0 >> 31 == 0, "{endpoint:?}");
    u64::from(endpoint.0) << 33 | (side(direction) as u64) << 32 | u64::from(rule.0)
}

fn parts(key: u64) -> (PortId, Direction, RuleId) {
    let direction = if key >> 32 & 1 == 0 { Direction::Ingress } else { Direction::Egress };
    (PortId((key >> 33) as u32), direction, RuleId(key as u32))
}

/// Fibonacci hashing: ports and rules are small numbers in a row.
fn place(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ROWS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests;
