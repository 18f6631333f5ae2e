//! What a worker counts. One writer, any reader, no locked instruction: a count is a load and a
//! store.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use weir_packet::Malformed;

use crate::clock::Instant;
use crate::drops::Drop;

const DROPS: usize = Drop::ALL.len();
const MALFORMED: usize = Malformed::ALL.len();

/// Counters and gauges of one worker. Counters only rise.
#[derive(Debug, Default)]
pub struct Counters {
    received: AtomicU64,
    handed_in: AtomicU64,
    transmitted: AtomicU64,
    handed_out: AtomicU64,
    originated: AtomicU64,
    punted: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
    turns: AtomicU64,
    drops: [AtomicU64; DROPS],
    malformed: [AtomicU64; MALFORMED],
    revision: AtomicU32,
    flows: AtomicU32,
    frames_free: AtomicU32,
    last_turn_ns: AtomicU64,
}

/// One reading of [`Counters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterValues {
    /// Packets that devices delivered.
    pub received: u64,
    /// Packets from other workers.
    pub handed_in: u64,
    /// Packets that devices accepted.
    pub transmitted: u64,
    /// Packets to other workers.
    pub handed_out: u64,
    /// Packets of our own making: answers to packets that were dropped.
    pub originated: u64,
    /// Of the transmitted: given to the kernel because nobody here knew them.
    pub punted: u64,
    /// Flow directions that timed out.
    pub expired: u64,
    /// Unanswered connections that made room for new flows in a full table.
    pub evicted: u64,
    /// Breaths.
    pub turns: u64,
    /// By [`Drop`], in order of `Drop::ALL`.
    pub drops: Vec<u64>,
    /// Of the malformed: by reason, in order of `Malformed::ALL`.
    pub malformed: Vec<u64>,
    /// Revision of the snapshot that the worker runs.
    pub revision: u32,
    /// Flow directions held.
    pub flows: u32,
    /// Free frames in the pool.
    pub frames_free: u32,
    /// Monotonic time of the last breath.
    pub last_turn_ns: u64,
}

/// Gauges as of the end of a turn.
pub(crate) struct Report {
    pub revision: u32,
    pub expired: u32,
    pub flows: u32,
    pub frames_free: u32,
    pub now: Instant,
}

#[inline]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn count_received(&self, packets: usize) {
        add(&self.received, packets as u64);
    }

    pub(crate) fn count_handed_in(&self, packets: usize) {
        add(&self.handed_in, packets as u64);
    }

    #[inline]
    pub(crate) fn count_transmitted(&self) {
        add(&self.transmitted, 1);
    }

    pub(crate) fn count_handed_out(&self) {
        add(&self.handed_out, 1);
    }

    pub(crate) fn count_punted(&self) {
        add(&self.punted, 1);
    }

    pub(crate) fn count_evicted(&self, connections: u32) {
        add(&self.evicted, connections.into());
    }

    /// Counts a packet of our own making.
    pub fn count_originated(&self) {
        add(&self.originated, 1);
    }

    /// Counts a packet that ended here.
    pub fn count_drop(&self, reason: Drop) {
        add(&self.drops[reason as usize], 1);
    }

    /// Counts why a packet was malformed, beside its drop.
    pub fn count_malformed(&self, reason: Malformed) {
        let at = Malformed::ALL.iter().position(|other| *other == reason);
        if let Some(at) = at {
            add(&self.malformed[at], 1);
        }
    }

    pub(crate) fn report(&self, report: Report) {
        add(&self.turns, 1);
        add(&self.expired, u64::from(report.expired));
        self.flows.store(report.flows, Ordering::Relaxed);
        self.frames_free.store(report.frames_free, Ordering::Relaxed);
        self.last_turn_ns.store(report.now.0, Ordering::Relaxed);
        // Released last: who reads this revision sees everything that happened under earlier ones.
        self.revision.store(report.revision, Ordering::Release);
    }

    /// The revision of the last finished turn.
    pub fn revision(&self) -> u32 {
        self.revision.load(Ordering::Acquire)
    }

    /// Reads everything. Taken while the worker runs, single values may be a packet apart.
    pub fn read(&self) -> CounterValues {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterValues {
            received: get(&self.received),
            handed_in: get(&self.handed_in),
            transmitted: get(&self.transmitted),
            handed_out: get(&self.handed_out),
            originated: get(&self.originated),
            evicted: self.evicted.load(Ordering::Relaxed),
            punted: get(&self.punted),
            expired: get(&self.expired),
            turns: get(&self.turns),
            drops: self.drops.iter().map(get).collect(),
            malformed: self.malformed.iter().map(get).collect(),
            revision: self.revision(),
            flows: self.flows.load(Ordering::Relaxed),
            frames_free: self.frames_free.load(Ordering::Relaxed),
            last_turn_ns: get(&self.last_turn_ns),
        }
    }
}

impl CounterValues {
    /// Packets dropped for `reason`.
    pub fn drop_of(&self, reason: Drop) -> u64 {
        self.drops[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// In + originated = out + drops: what must hold between turns, with nothing held.
    pub fn is_balanced(&self) -> bool {
        self.received + self.handed_in + self.originated
            == self.transmitted + self.handed_out + self.dropped()
    }
}
