//! Adjacencies: the last step of a packet, from an index in a flow's transform to a wire.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use weir_packet::{Addr, Mac};

use crate::ids::PortId;

/// What a packet needs to leave: the port, the MAC addresses and the MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// Interface index: a pod's host side, the host's port, or an uplink.
    pub port: PortId,
    pub link: Link,
    pub dst_mac: Mac,
    pub src_mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// Which kind of device carries a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Any worker's trunk.
    Trunk,
    /// A queue of this uplink: only workers that own one can send.
    Uplink,
}

/// What an adjacency leads to; its identity across snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Host,
    Port(PortId),
    Neighbour(PortId, Addr),
}

/// Adjacencies with indices that stay the same while their target exists. A freed index is reused
/// as late as possible, because a packet on its way between two workers may still name it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adjacencies {
    rows: Arc<Vec<Adjacency>>,
    index: BTreeMap<Target, u16>,
    free: VecDeque<u16>,
}

impl Adjacencies {
    /// Most adjacencies at a time.
    pub(crate) const MAX: usize = u16::MAX as usize;

    /// Sets the row of `target`; its index, or `None` when all indices are in use.
    pub(crate) fn set(&mut self, target: Target, row: Adjacency) -> Option<u16> {
        let known = self.index.get(&target).copied();
        let rows = Arc::make_mut(&mut self.rows);
        if let Some(at) = known {
            rows[usize::from(at)] = row;
            return known;
        }
        let at = if rows.len() < Self::MAX {
            rows.push(row);
            (rows.len() - 1) as u16
        } else {
            let at = self.free.pop_front()?;
            rows[usize::from(at)] = row;
            at
        };
        self.index.insert(target, at);
        Some(at)
    }

    /// Forgets a target.
    pub(crate) fn remove(&mut self, target: Target) {
        if let Some(at) = self.index.remove(&target) {
            self.free.push_back(at);
        }
    }

    /// The targets of a kind that `keep` does not name are forgotten.
    pub(crate) fn retain_neighbours(&mut self, keep: impl Fn(PortId, Addr) -> bool) {
        let gone: Vec<Target> = self
            .index
            .keys()
            .filter(|target| matches!(target, Target::Neighbour(port, addr) if !keep(*port, *addr)))
            .copied()
            .collect();
        for target in gone {
            self.remove(target);
        }
    }

    /// The rows, to share with a snapshot.
    pub(crate) fn rows(&self) -> Arc<Vec<Adjacency>> {
        Arc::clone(&self.rows)
    }
}
