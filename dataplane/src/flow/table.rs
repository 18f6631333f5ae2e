//! A worker's flow table: fixed capacity, bounded work, no eviction.

use std::ops::{Deref, DerefMut};

use weir_packet::{FlowKey, protocol};
use zerocopy::FromZeros;

use super::index::{Index, prefetch};
use super::{FlowEntry, Fragments, Timeouts, flow_flags, tcp};

/// Entries that a sweep loads in advance: for the next turn, which will not have to wait for them.
const SWEEP_AHEAD: usize = 16;

/// Flows of one worker.
pub struct FlowTable {
    entries: Entries,
    index: Index,
    /// Entries that were used and are free again.
    free: Vec<u32>,
    /// Entries released since the batch began. Packets of the batch may still go by what is in
    /// them, so nothing new is written there until the next one.
    resting: Vec<u32>,
    /// Entries from here on were never used.
    unused: u32,
    live: u32,
    seed: u64,
    timeouts: Timeouts,
    sweep_at: u32,
    /// Of datagrams whose first fragment came by.
    pub fragments: Fragments,
    /// Where the search for a free source port goes on.
    port_cursor: u16,
    /// A flow was refused for want of room, and none has been made since.
    lacks_room: bool,
}

/// No room for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// A new direction of a flow, to be learned.
#[derive(Clone, Copy, Debug)]
pub struct Direction {
    pub entry: FlowEntry,
    /// Hash of its key under the table's seed.
    pub hash: u64,
}

/// Where the entries lie.
pub(super) enum Entries {
    Heap(Box<[FlowEntry]>),
    /// A mapped file, kept for the life of the process.
    Mapped(&'static mut [FlowEntry]),
}

impl Deref for Entries {
    type Target = [FlowEntry];

    #[inline]
    fn deref(&self) -> &[FlowEntry] {
        match self {
            Entries::Heap(entries) => entries,
            Entries::Mapped(entries) => entries,
        }
    }
}

impl DerefMut for Entries {
    #[inline]
    fn deref_mut(&mut self) -> &mut [FlowEntry] {
        match self {
            Entries::Heap(entries) => entries,
            Entries::Mapped(entries) => entries,
        }
    }
}

impl FlowTable {
    /// An empty table in ordinary memory, for worlds that end with their process.
    pub fn in_memory(capacity: u32, seed: u64, timeouts: Timeouts) -> FlowTable {
        let entries = vec![FlowEntry::new_zeroed(); capacity as usize].into_boxed_slice();
        let entries = Entries::Heap(entries);
        FlowTable::over(entries, seed, timeouts)
    }

    /// A table over entries that may hold flows of an earlier process: they are adopted, to be
    /// checked against the first snapshot that their next packet meets.
    pub(super) fn over(entries: Entries, seed: u64, timeouts: Timeouts) -> FlowTable {
        let capacity = entries.len();
        assert!(capacity < u32::MAX as usize, "entry numbers are 32 bits");
        let mut table = FlowTable {
            entries,
            index: Index::new(capacity),
            free: Vec::with_capacity(capacity),
            resting: Vec::with_capacity(capacity),
            unused: 0,
            live: 0,
            seed,
            timeouts,
            sweep_at: 0,
            fragments: Fragments::new(),
            port_cursor: 0,
            lacks_room: false,
        };
        table.adopt();
        table
    }

    /// Flows held, counting each direction.
    pub fn len(&self) -> u32 {
        self.live
    }

    /// Whether no flow is held.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Most flows, counting each direction.
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The hash of a key in this table.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(self.seed)
    }

    /// Starts loading what `find` will read first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// The entry that `find` will most likely return; starts loading it.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        let number = self.index.candidate(hash)?;
        let entry = &self.entries[number as usize];
        prefetch(&entry.key);
        prefetch(&entry.translation);
        Some(number)
    }

    /// The entry of a key, as `find`, but looks at the candidate first.
    #[inline]
    pub fn find_from(&self, candidate: Option<u32>, key: &FlowKey, hash: u64) -> Option<u32> {
        if let Some(number) = candidate {
            let entry = &self.entries[number as usize];
            // It may have been forgotten since.
            if entry.key == *key && entry.live == FlowEntry::LIVE {
                return candidate;
            }
        }
        self.find(key, hash)
    }

    /// The entry of a key.
    #[inline]
    pub fn find(&self, key: &FlowKey, hash: u64) -> Option<u32> {
        self.index.find(hash, |number| self.entries[number as usize].key == *key)
    }

    /// An entry by the number that `find` or `learn` gave.
    #[inline]
    pub fn entry(&self, number: u32) -> &FlowEntry {
        &self.entries[number as usize]
    }

    /// An entry, to change anything but its key.
    #[inline]
    pub fn entry_mut(&mut self, number: u32) -> &mut FlowEntry {
        &mut self.entries[number as usize]
    }

    /// Stores a new flow: one direction, or both, which then name each other. All or nothing.
    ///
    /// The keys must not be in the table.
    pub fn learn(
        &mut self,
        forward: Direction,
        reverse: Option<Direction>,
    ) -> Result<u32, TableFull> {
        let number = self.insert(&forward)?;
        let Some(reverse) = reverse else { return Ok(number) };
        match self.insert(&reverse) {
            Ok(peer) => {
                self.entries[number as usize].peer = peer;
                self.entries[peer as usize].peer = number;
                Ok(number)
            }
            Err(full) => {
                self.release(number);
                Err(full)
            }
        }
    }

    /// Forgets a flow, both directions.
    pub fn remove(&mut self, number: u32) {
        let peer = self.entries[number as usize].peer;
        self.release(number);
        if peer != FlowEntry::NO_PEER {
            self.release(peer);
        }
    }

    /// Notes a packet of `bytes` bytes. Touches only the entry itself, unless TCP changes state.
    #[inline]
    pub fn note_packet(&mut self, number: u32, bytes: usize, tcp_flags: u8, now_ms: u32) {
        let entry = &mut self.entries[number as usize];
        entry.last_seen_ms = now_ms;
        entry.packets += 1;
        entry.bytes += bytes as u64;
        if entry.key.protocol == protocol::TCP {
            let is_alone = entry.peer == FlowEntry::NO_PEER;
            let state = tcp::next(entry.tcp, tcp_flags, entry.has(flow_flags::REPLY), is_alone);
            if state != entry.tcp {
                entry.tcp = state;
                let peer = entry.peer;
                if peer != FlowEntry::NO_PEER {
                    self.entries[peer as usize].tcp = tcp::mirrored(state);
                }
            }
        }
    }

    /// Looks at up to `budget` entries for expired flows; how many directions it forgot.
    pub fn sweep(&mut self, budget: u32, now_ms: u32) -> u32 {
        let before = self.live;
        for _ in 0..budget.min(self.unused) {
            let number = self.sweep_at;
            self.sweep_at = if number + 1 >= self.unused { 0 } else { number + 1 };
            if let Some(ahead) = self.entries.get(number as usize + SWEEP_AHEAD) {
                prefetch(&ahead.key);
            }
            if self.entries[number as usize].live == FlowEntry::LIVE
                && self.is_expired(number, now_ms)
            {
                self.remove(number);
            }
        }
        before - self.live
    }

    /// A number that differs from call to call and cannot be guessed for another remote, for the
    /// choice of source ports (RFC 6056, algorithm 3).
    pub fn next_port_offset(&mut self, to: &FlowKey) -> u32 {
        self.port_cursor = self.port_cursor.wrapping_add(1);
        let remote = FlowKey { sport: 0, ..*to };
        (remote.hash(self.seed) as u32 >> 1).wrapping_add(u32::from(self.port_cursor))
    }

    /// How long until a flow expires without another packet, in milliseconds.
    pub fn timeout_ms(entry: &FlowEntry, timeouts: &Timeouts) -> u32 {
        if let Some(timeout) = entry.pin_timeout_ms() {
            return timeout;
        }
        let is_alone = entry.peer == FlowEntry::NO_PEER;
        match entry.key.protocol {
            protocol::TCP if is_alone && tcp::is_reusable(entry.tcp) => {
                tcp::timeout_ms(entry.tcp, timeouts).min(timeouts.tcp_grace_ms)
            }
            protocol::TCP => tcp::timeout_ms(entry.tcp, timeouts),
            _ => timeouts.any_ms,
        }
    }

    /// All flows, for tests.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &FlowEntry)> {
        let used = self.entries[..self.unused as usize].iter().enumerate();
        used.filter(|(_, entry)| entry.live == FlowEntry::LIVE)
            .map(|(at, entry)| (at as u32, entry))
    }

    /// A flow lives while either of its directions does.
    fn is_expired(&self, number: u32, now_ms: u32) -> bool {
        let idle = |entry: &FlowEntry| {
            now_ms.wrapping_sub(entry.last_seen_ms) >= FlowTable::timeout_ms(entry, &self.timeouts)
        };
        let entry = &self.entries[number as usize];
        idle(entry)
            && (entry.peer == FlowEntry::NO_PEER || idle(&self.entries[entry.peer as usize]))
    }

    fn insert(&mut self, direction: &Direction) -> Result<u32, TableFull> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if (self.unused as usize) < self.entries.len() => {
                self.unused += 1;
                self.unused - 1
            }
            None => {
                self.lacks_room = true;
                return Err(TableFull);
            }
        };
        if !self.index.insert(direction.hash, number) {
            self.free.push(number);
            return Err(TableFull);
        }
        // The mark is written last: a process that dies in between leaves a free entry.
        let entry = &mut self.entries[number as usize];
        *entry = direction.entry;
        entry.live = 0;
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Release);
        entry.live = FlowEntry::LIVE;
        self.live += 1;
        Ok(number)
    }

    fn release(&mut self, number: u32) {
        let entry = &mut self.entries[number as usize];
        assert_eq!(entry.live, FlowEntry::LIVE, "entry {number} is released once");
        entry.live = 0;
        let hash = entry.key.hash(self.seed);
        self.index.remove(hash, number);
        self.resting.push(number);
        self.live -= 1;
    }

    /// Takes over what the entries hold: keeps what is whole, frees the rest.
    fn adopt(&mut self) {
        let capacity = self.entries.len() as u32;
        let is_used = |entry: &FlowEntry| entry.live != 0;
        self.unused = self.entries.iter().rposition(is_used).map_or(0, |at| at as u32 + 1);
        for number in 0..self.unused {
            let entry = self.entries[number as usize];
            let hash = entry.key.hash(self.seed);
            let whole = entry.live == FlowEntry::LIVE
                && matches!(entry.key.family, 4 | 6)
                && entry.action().is_some()
                && self.find(&entry.key, hash).is_none();
            if whole && self.index.insert(hash, number) {
                self.live += 1;
            } else {
                self.entries[number as usize].live = 0;
                self.free.push(number);
            }
        }
        for number in 0..self.unused {
            let peer = self.entries[number as usize].peer;
            let mutual = peer < capacity && {
                let other = &self.entries[peer as usize];
                other.live == FlowEntry::LIVE && other.peer == number && peer != number
            };
            let entry = &mut self.entries[number as usize];
            entry.revision = 0;
            if !mutual {
                entry.peer = FlowEntry::NO_PEER;
            }
        }
    }
}

mod evict;
#[cfg(test)]
mod tests;
