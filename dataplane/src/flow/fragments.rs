//! The ports of datagrams that come in fragments: only the first fragment names them.
//!
//! Fixed in size and time. Within a bucket the oldest datagram is replaced: whoever sends many
//! first fragments harms later fragments of others, but no flow.

use weir_packet::{FlowKey, Headers};

/// Datagrams in flight per worker: the default of the reference, in buckets of four.
const BUCKETS: usize = 2048;
const WAYS: usize = 4;
/// After this long without its rest a datagram is lost: Linux gives up reassembly then
/// (`ipfrag_time`).
const TIMEOUT_MS: u32 = 30_000;
/// The seed need not be secret: a collision costs a datagram, not time.
const SEED: u64 = 0x6672_6167_6d65_6e74;

/// Of datagrams whose first fragment came by: the ports.
pub struct Fragments {
    buckets: Box<[[Seen; WAYS]]>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    datagram: FlowKey,
    ports: (u16, u16),
    at_ms: u32,
    is_used: bool,
}

impl Fragments {
    /// Nothing seen yet.
    pub(super) fn new() -> Fragments {
        Fragments { buckets: vec![[Seen::default(); WAYS]; BUCKETS].into_boxed_slice() }
    }

    /// Remembers the ports of a first fragment.
    pub fn note(&mut self, key: &FlowKey, headers: &Headers, port: u32, now_ms: u32) {
        let datagram = name(key, headers, port);
        let bucket = &mut self.buckets[bucket_of(&datagram)];
        let age = |seen: &Seen| now_ms.wrapping_sub(seen.at_ms);
        let is_same = |seen: &Seen| seen.is_used && seen.datagram == datagram;
        let oldest = |seen: &&mut Seen| if seen.is_used { age(seen) } else { u32::MAX };
        let slot = match bucket.iter().position(is_same) {
            Some(at) => Some(&mut bucket[at]),
            None => bucket.iter_mut().max_by_key(oldest),
        };
        if let Some(slot) = slot {
            *slot = Seen { datagram, ports: (key.sport, key.dport), at_ms: now_ms, is_used: true };
        }
    }

    /// The ports of a later fragment's datagram, if its first was seen.
    pub fn ports(
        &self,
        key: &FlowKey,
        headers: &Headers,
        port: u32,
        now_ms: u32,
    ) -> Option<(u16, u16)> {
        let datagram = name(key, headers, port);
        let is_it = |seen: &&Seen| {
            seen.is_used
                && seen.datagram == datagram
                && now_ms.wrapping_sub(seen.at_ms) < TIMEOUT_MS
        };
        self.buckets[bucket_of(&datagram)].iter().find(is_it).map(|seen| seen.ports)
    }

    /// A number that is the same for all fragments of a datagram, at every worker.
    pub fn hash(key: &FlowKey, headers: &Headers) -> u64 {
        name(key, headers, 0).hash(SEED)
    }
}

/// What all fragments of a datagram share (RFC 791, RFC 8200 section 4.5), in the form of a key
/// whose ports are the identification. The port that they come in by is part of it: nobody else can
/// speak for a datagram.
fn name(key: &FlowKey, headers: &Headers, port: u32) -> FlowKey {
    let id = headers.fragment_id;
    let zone = (port ^ (port >> 16)) as u16;
    FlowKey { sport: (id >> 16) as u16, dport: id as u16, zone, ..*key }
}

fn bucket_of(datagram: &FlowKey) -> usize {
    datagram.hash(SEED) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fragment_id: u32) -> Headers {
        Headers { fragment_id, ..Headers::default() }
    }

    #[test]
    fn a_later_fragment_has_the_ports_of_its_first_for_thirty_seconds() {
        let mut fragments = Fragments::new();
        let first = FlowKey { sport: 7, dport: 53, protocol: 17, family: 4, ..FlowKey::default() };
        let later = FlowKey { sport: 0, dport: 0, ..first };
        fragments.note(&first, &headers(9), 5, 1000);
        assert_eq!(fragments.ports(&later, &headers(9), 5, 30_999), Some((7, 53)));
        assert_eq!(fragments.ports(&later, &headers(9), 5, 31_000), None);
        assert_eq!(fragments.ports(&later, &headers(8), 5, 1000), None);
        let other = FlowKey { protocol: 6, ..later };
        assert_eq!(fragments.ports(&other, &headers(9), 5, 1000), None);
        // The identification is used again.
        fragments.note(&FlowKey { sport: 8, ..first }, &headers(9), 5, 2000);
        assert_eq!(fragments.ports(&later, &headers(9), 5, 2000), Some((8, 53)));
    }

    #[test]
    fn a_flood_replaces_the_oldest() {
        let mut fragments = Fragments::new();
        let key = FlowKey { sport: 7, dport: 53, protocol: 17, family: 4, ..FlowKey::default() };
        for id in 0..100_000 {
            fragments.note(&key, &headers(id), 5, id);
        }
        let known =
            (0..100_000).filter(|id| fragments.ports(&key, &headers(*id), 5, 100_000).is_some());
        let known: Vec<u32> = known.collect();
        assert!(known.len() > BUCKETS * WAYS / 2 && known.len() <= BUCKETS * WAYS);
        assert!(known.contains(&99_999));
    }
}
