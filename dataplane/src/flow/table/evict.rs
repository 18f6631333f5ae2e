//! Room in a full table: what nobody has confirmed goes first, and nothing that somebody has.

use weir_packet::protocol;

use super::FlowTable;
use crate::flow::{FlowEntry, tcp};

/// Entries looked at for one that a new flow may replace.
const EVICT_PROBES: u32 = 128;
/// A flow that nobody has confirmed for this long may be replaced in a full table.
const UNCONFIRMED_MS: u32 = 1000;
/// The same for a connection of which one direction alone comes by: its end may not have.
const ALONE_MS: u32 = 60_000;

impl FlowTable {
    /// Begins a batch of at most `flows` new flows: what the last one released may be used again.
    /// Where flows were refused for want of room, a few entries are looked at, and those are
    /// forgotten that expired, or that nobody has confirmed for a second, as a flood leaves them.
    /// How many of the latter.
    pub fn begin_batch(&mut self, flows: usize, now_ms: u32) -> u32 {
        self.free.append(&mut self.resting);
        if !self.lacks_room {
            return 0;
        }
        let room = self.free.len() + self.entries.len() - self.unused as usize;
        if room >= (2 * flows).min(self.entries.len() / 2) {
            self.lacks_room = false;
            return 0;
        }
        let evicted = self.evict_unconfirmed(now_ms);
        self.free.append(&mut self.resting);
        evicted
    }

    #[cold]
    fn evict_unconfirmed(&mut self, now_ms: u32) -> u32 {
        let mut evicted = 0;
        for _ in 0..EVICT_PROBES.min(self.unused) {
            let number = self.sweep_at;
            self.sweep_at = if number + 1 >= self.unused { 0 } else { number + 1 };
            if self.entries[number as usize].live != FlowEntry::LIVE {
                continue;
            }
            let is_unconfirmed = self.is_unconfirmed(number, now_ms);
            if is_unconfirmed || self.is_expired(number, now_ms) {
                evicted += u32::from(is_unconfirmed);
                self.remove(number);
            }
        }
        evicted
    }

    /// Whether a flow was idle for a second, and one side alone has shown that it wants it. A pin
    /// or an entry without answers may go as well: the next packet is decided alike, mostly.
    pub fn is_unconfirmed(&self, number: u32, now_ms: u32) -> bool {
        let entry = &self.entries[number as usize];
        let idle_ms = |entry: &FlowEntry| now_ms.wrapping_sub(entry.last_seen_ms);
        if idle_ms(entry) < UNCONFIRMED_MS {
            return false;
        }
        if entry.pin_timeout_ms().is_some() {
            return true;
        }
        let is_alone = entry.peer == FlowEntry::NO_PEER;
        if entry.key.protocol == protocol::TCP && entry.tcp & tcp::ESTABLISHED != 0 {
            return is_alone && idle_ms(entry) >= ALONE_MS;
        }
        is_alone || entry.key.protocol == protocol::TCP || {
            let peer = &self.entries[entry.peer as usize];
            idle_ms(peer) >= UNCONFIRMED_MS && (entry.packets == 0 || peer.packets == 0)
        }
    }
}
