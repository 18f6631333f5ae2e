//! What several workers may remember, each for itself, where one worker knows.
//!
//! A flow from outside to a service has a director, who chose the backend, and where that is a pod
//! of another worker, the pod's worker translates and its answers leave straight from there. So
//! either may forget what the other still knows:
//!
//! - The director sees no answers, and of the client's packets perhaps one in 20 seconds: it
//!   forgets a flow of which only answers came for its timeout, and it does not know that the
//!   server has ended a connection. Then the next packet of the client is chosen anew, or goes
//!   where the director remembers, and both are backends of the service.
//! - Whoever finds that the service or the backend is gone forgets its half; the other keeps its
//!   own, should the backend return before another packet comes by.
//! - A worker that has never met the flow cannot tell that the address was a service's, once the
//!   service is gone: it punts.
//! - Bonds by affinity are with an address. A pod that takes over the address of another one is
//!   bound as that was, if it has the same worker.
//! - With affinity all flows of a client have one director, without it each has its own. When it is
//!   switched, workers that have not met the flow ask the other director.
//!
//! Nothing else may differ: the model is asked what it would do with each of these memories, only
//! for the flows concerned, and one of them must explain what was seen. Ports are given out in
//! blocks, so that those of one worker may be used up before those of all.

use weir_dataplane::flow::Timeouts;
use weir_packet::{FlowKey, protocol, tcp_flags};
use weir_tables::{BackendAddr, PortId};

use crate::naive::{Connection, Director, Judgement, Model, Packet, Room, Shape, is_continuing};

/// Packets that come in at the pod's own worker go by the director after 20 seconds at the latest.
const UNHEARD_MS: u64 = 21_000;
/// Ghosts of one packet that are looked at.
const GHOSTS_MAX: usize = 4;

impl Director {
    pub fn note(&mut self, shape: Shape, now_ms: u64) {
        self.last_ms = now_ms;
        if let Shape::Tcp(flags) = shape {
            // Going on is possible only with an answer; out of the blue, it says so once more.
            self.is_established |= self.is_answered && is_continuing(flags);
            self.is_answered |= is_continuing(flags);
            self.has_fin |= flags & tcp_flags::FIN != 0;
            self.has_reset |= flags & tcp_flags::RST != 0;
        }
    }

    fn timeout_ms(&self, is_tcp: bool) -> u64 {
        let timeouts = Timeouts::default();
        u64::from(match is_tcp {
            false => timeouts.any_ms,
            true if self.has_reset => timeouts.tcp_closing_ms,
            true if self.has_fin => timeouts.tcp_grace_ms,
            true if self.is_established => timeouts.tcp_established_ms,
            true => timeouts.tcp_syn_ms,
        })
    }
}

impl Model {
    /// Whether several workers have a part in a connection.
    fn is_directed(&self, connection: &Connection) -> bool {
        self.workers > 1 && connection.asked_by == PortId::UPLINK && connection.is_to_service
    }

    /// Whether the director may not see the answers.
    fn is_split(&self, connection: &Connection) -> bool {
        self.is_directed(connection) && connection.ways[1].is_some()
    }

    /// Whether another worker may remember a connection that is forgotten.
    pub fn is_shared(&self, connection: &Connection) -> bool {
        self.is_split(connection) || self.is_unsure(connection)
    }

    /// Whether some worker may have forgotten a connection, or never met it.
    pub fn is_unsure(&self, connection: &Connection) -> bool {
        let director = &connection.director;
        let idle_ms = self.now_ms - director.last_ms + UNHEARD_MS;
        let is_expired = idle_ms >= director.timeout_ms(connection.is_tcp());
        let is_redirected = self.is_redirected(connection);
        self.is_directed(connection)
            && (director.is_vague || is_redirected || self.is_split(connection) && is_expired)
    }

    /// Whether flows of a connection's service have another director by now, or none.
    fn is_redirected(&self, connection: &Connection) -> bool {
        match self.node.service_of(&connection.asked) {
            Some(at) => (self.node.services[at].affinity_s > 0) != connection.director.by_client,
            None => true,
        }
    }

    /// Whether affinity was switched under a connection from outside: its packets are chosen anew
    /// by the other director, or not, by where they arrive. They are left out.
    pub fn is_switched(&self, packet: &Packet) -> bool {
        let rows = self.connections.iter().chain(&self.ghosts);
        self.node.service_of(&packet.key).is_some()
            && rows
                .filter(|row| row.asked == packet.key && row.asked_by == packet.port)
                .any(|row| self.is_directed(row) && self.is_redirected(row))
    }

    /// Whether a connection from outside leads to a pod that is another one by now.
    fn is_moved(&self, connection: &Connection) -> bool {
        self.is_split(connection) && self.judge(connection, false) == Judgement::Forgotten
    }

    /// Ghosts live as long as any worker may remember them.
    pub fn bury(&mut self, now_ms: u64) {
        let timeouts = Timeouts::default();
        self.ghosts.retain(|ghost| {
            let is_tcp = ghost.asked.protocol == protocol::TCP;
            let timeout_ms = if is_tcp { timeouts.tcp_established_ms } else { timeouts.any_ms };
            now_ms - ghost.newest_ms() < u64::from(timeout_ms)
        });
    }

    /// The model, and what else it may be as far as a packet is concerned.
    pub fn memories(&self, packet: &Packet) -> Vec<Model> {
        let mut memories = vec![self.clone()];
        if self.workers == 1 {
            return memories;
        }
        if let Some(at) = self.connections.iter().position(|row| self.concerns(row, &packet.key)) {
            memories.extend(self.unsure_memories(at, packet));
        }
        let ghosts = self.ghosts.iter().enumerate();
        let ghosts: Vec<usize> = ghosts
            .filter(|(_, ghost)| self.concerns(ghost, &packet.key) || is_of_client(ghost, packet))
            .map(|row| row.0)
            .rev()
            .take(GHOSTS_MAX)
            .collect();
        for ghost in ghosts {
            // From the highest number: others stay where they are.
            let mut revived = memories.clone();
            revived.iter_mut().for_each(|memory| memory.revive(ghost));
            if self.ghosts[ghost].asked == packet.key {
                memories.extend(self.directed(&self.ghosts[ghost]));
            }
            memories.extend(revived);
        }
        let unbound = memories.iter().flat_map(|memory| memory.unbound_memories(packet));
        memories.extend(unbound.collect::<Vec<_>>());
        for room in [Room::Unconfirmed, Room::None] {
            let plenty = memories.iter().filter(|memory| memory.room == Room::Free);
            let full = plenty.filter(|memory| memory.may_be_full(packet));
            let full: Vec<_> = full.map(|memory| Model { room, ..memory.clone() }).collect();
            memories.extend(full);
        }
        memories
    }

    /// Whether a packet comes in where its sender is not: by the port of a pod that is gone, or
    /// from outside with the address of a pod that is here by now. Who has met the flow judges
    /// that, and who has not sees a stranger.
    pub fn is_misplaced(&self, packet: &Packet) -> bool {
        let PortId(port) = packet.port;
        match packet.port {
            PortId::HOST => false,
            PortId::UPLINK => self.node.place(&packet.key.src).pod().is_some(),
            _ => !self.node.pods.contains(&Some(port)),
        }
    }

    /// Whether the host sends by one port to a pod and, by a service, to that pod again. The first
    /// is translated by the pod's worker and the second by the one that translates for the host:
    /// neither sees that the other has used the port, and the pod's answers can belong to one only.
    /// Nobody shall expect anything of that.
    pub fn is_of_two_workers(&self, packet: &Packet) -> bool {
        let key = &packet.key;
        let host = (key.src, key.sport, key.protocol);
        let is_to_service = self.node.service_of(key).is_some();
        self.workers > 1
            && packet.port == PortId::HOST
            && self.connections.iter().any(|row| {
                let ends = [(row.asked.src, row.asked.sport), (row.seen.dst, row.seen.dport)];
                row.is_to_service != is_to_service
                    && ends.iter().any(|end| (end.0, end.1, row.asked.protocol) == host)
            })
    }

    fn concerns(&self, connection: &Connection, key: &FlowKey) -> bool {
        self.is_directed(connection) && (connection.asked == *key || connection.answer() == *key)
    }

    /// Without a connection of which one half may be forgotten; as its director has it.
    fn unsure_memories(&self, at: usize, packet: &Packet) -> Vec<Model> {
        let connection = &self.connections[at];
        let mut memories = Vec::new();
        let is_ask = connection.asked == packet.key;
        if self.is_unsure(connection) {
            let mut without = self.clone();
            without.forget(at);
            memories.push(without);
        }
        let unseen_end = packet.is_syn() && connection.is_over() && self.is_split(connection);
        if is_ask && (self.is_moved(connection) || unseen_end) {
            memories.extend(self.directed(connection).map(|mut directed| {
                directed.forget(at);
                directed
            }));
        }
        memories
    }

    /// Without a bond, or with another, where workers may differ about it.
    fn unbound_memories(&self, packet: &Packet) -> Vec<Model> {
        let key = FlowKey { sport: 0, ..packet.key };
        let known = self.pins.iter().find(|pin| pin.key == key);
        let others: Vec<_> = self.old_pins.iter().filter(|pin| pin.key == key).collect();
        let is_of_other = known.is_some_and(|pin| pin.by != packet.port);
        if others.is_empty() && !is_of_other {
            return Vec::new();
        }
        let mut unbound = self.clone();
        unbound.pins.retain(|pin| pin.key != key);
        let bound = others.into_iter().map(|pin| {
            let mut bound = unbound.clone();
            bound.pins.push(pin.clone());
            bound
        });
        let mut memories: Vec<Model> = bound.collect();
        memories.push(unbound);
        memories
    }

    /// Only the director remembers the backend of a connection; the pod's worker starts anew.
    fn directed(&self, connection: &Connection) -> Option<Model> {
        let FlowKey { dst: addr, dport: l4_port, .. } = connection.seen;
        let backend = BackendAddr { addr, l4_port };
        let service = self.node.service_of(&connection.asked)?;
        let is_there = self.node.has_backend(service, &backend);
        is_there.then(|| Model { directed_to: Some(backend), ..self.clone() })
    }

    /// A forgotten connection is remembered after all.
    fn revive(&mut self, at: usize) {
        let mut revived = self.ghosts.remove(at);
        revived.director.is_vague = true;
        self.connections.push(revived);
    }

    /// What one worker remembers of an earlier connection on the same keys is in a new one, too.
    pub fn haunt(&self, connection: &mut Connection) {
        let is_same = |ghost: &Connection| {
            ghost.asked == connection.asked || ghost.answer() == connection.answer()
        };
        connection.director.is_vague |= self.ghosts.iter().any(is_same);
    }

    /// Whether the ports of one worker may be used up.
    fn may_be_full(&self, packet: &Packet) -> bool {
        let range = self.node.snat_ports;
        let is_in_use = |row: &&Connection| {
            // A server may go on with the port of a connection that is forgotten.
            let has_port = range.contains(row.seen.sport) || range.contains(row.asked.dport);
            row.asked.protocol == packet.key.protocol && has_port
        };
        let rows = self.connections.iter().chain(&self.ghosts);
        rows.filter(is_in_use).count() as u32 >= range.len() / u32::from(self.workers)
    }
}

/// Whether the answers of a ghost may be the answers of a packet's flow.
fn is_of_client(ghost: &Connection, packet: &Packet) -> bool {
    let client = |key: &FlowKey| (key.src, key.sport, key.protocol);
    client(&ghost.asked) == client(&packet.key)
}
