//! Who uses the node's source ports: towards which remotes, and for which clients.
//!
//! Counted on demand from the flow tables, so that the packet path keeps no such account.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

use weir_api::v1::{SnatClient, SnatRemote, SnatUsageReply};
use weir_packet::{Addr, FlowKey};
use weir_tables::{SnatPorts, WorkerId};

use super::convert::address_bytes;
use crate::flow::{FlowEntry, flow_flags};

/// The account of all workers.
pub struct SnatUsage {
    ports: SnatPorts,
    workers: u8,
    flows: u64,
    /// By worker and translated key without its source port.
    remotes: HashMap<(u8, FlowKey), u64>,
    clients: HashMap<Addr, u64>,
}

impl SnatUsage {
    /// An empty account of a range that so many workers share.
    pub fn new(ports: SnatPorts, workers: u8) -> SnatUsage {
        SnatUsage { ports, workers, flows: 0, remotes: HashMap::new(), clients: HashMap::new() }
    }

    /// Adds the flows of a worker; those without a port of the range do not count.
    pub fn add(&mut self, worker: WorkerId, flows: &[FlowEntry]) {
        for entry in flows.iter().filter(|entry| !entry.has(flow_flags::REPLY)) {
            let after = entry.translation.key_after(&entry.key);
            let is_ours = entry.has(flow_flags::SNAT) && self.ports.contains(after.sport);
            if is_ours {
                self.flows += 1;
                let remote = FlowKey { sport: 0, ..after };
                *self.remotes.entry((worker.0, remote)).or_default() += 1;
                *self.clients.entry(entry.key.src).or_default() += 1;
            }
        }
    }

    /// The heaviest users, at most `limit` of each kind.
    pub fn show(self, limit: usize) -> SnatUsageReply {
        let remotes = heaviest(self.remotes, limit).into_iter().map(|((worker, key), used)| {
            let block = self.ports.block(WorkerId(worker), self.workers);
            SnatRemote {
                protocol: key.protocol.into(),
                source: address_bytes(&key.src),
                destination: address_bytes(&key.dst),
                destination_port: key.dport.into(),
                worker: worker.into(),
                used,
                limit: block.len().into(),
            }
        });
        let client = |(addr, flows)| SnatClient { address: address_bytes(&addr), flows };
        SnatUsageReply {
            port_min: self.ports.min.into(),
            port_max: self.ports.max.into(),
            flows: self.flows,
            remotes: remotes.collect(),
            clients: heaviest(self.clients, limit).into_iter().map(client).collect(),
        }
    }
}

/// The most used first; equals in order of their names.
fn heaviest<K: Eq + Hash + Ord + Copy>(counts: HashMap<K, u64>, limit: usize) -> Vec<(K, u64)> {
    let mut rows: Vec<(K, u64)> = counts.into_iter().collect();
    rows.sort_unstable_by_key(|&(key, count)| (Reverse(count), key));
    rows.truncate(limit);
    rows
}

#[cfg(test)]
mod tests {
    use weir_packet::Translation;

    use super::*;
    use crate::flow::Action;

    fn entry(client: u8, sport: u16, remote: u8) -> FlowEntry {
        let key = FlowKey {
            src: Addr::from_v4([10, 0, 0, client]),
            dst: Addr::from_v4([192, 0, 2, remote]),
            sport: 1,
            dport: 443,
            protocol: 6,
            family: 4,
            zone: 0,
        };
        let node = Addr::from_v4([203, 0, 113, 1]);
        let translation = Translation::new(&key, Some((node, sport)), None);
        let mut entry = FlowEntry::new(key, 5, translation, Action::Transmit { adjacency: 0 });
        entry.flags = flow_flags::SNAT;
        entry
    }

    #[test]
    fn the_heaviest_remotes_and_clients_come_first() {
        let mut usage = SnatUsage::new(SnatPorts { min: 50_000, max: 50_099 }, 2);
        let mut reply = entry(1, 50_004, 1);
        reply.flags |= flow_flags::REPLY;
        usage.add(WorkerId(0), &[entry(1, 50_000, 1), entry(2, 50_001, 1), reply]);
        usage.add(WorkerId(1), &[entry(1, 50_050, 1), entry(1, 50_051, 2), entry(1, 9, 2)]);
        let shown = usage.show(2);
        assert_eq!(shown.flows, 4);
        let remotes = shown.remotes.iter();
        let remotes: Vec<_> =
            remotes.map(|row| (row.worker, row.destination[3], row.used, row.limit)).collect();
        assert_eq!(remotes, [(0, 1, 2, 50), (1, 1, 1, 50)]);
        let clients: Vec<_> = shown.clients.iter().map(|row| (row.address[3], row.flows)).collect();
        assert_eq!(clients, [(1, 3), (2, 1)]);
    }
}
