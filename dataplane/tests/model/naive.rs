//! The model: a list of connections, looked up from its start, and the rules of services.

use weir_dataplane::flow::Timeouts;
use weir_packet::{Addr, FlowKey, protocol, tcp_flags};
use weir_tables::{BackendAddr, PortId};

use crate::common::node::{HOST_PORT, name_of};
use crate::state::{Decision, Node, is_icmp};

/// A connection, both directions.
#[derive(Clone, Debug)]
pub struct Connection {
    /// As the client sends it, and the port that it does so by.
    pub asked: FlowKey,
    pub asked_by: PortId,
    /// As the server sees it, and the port of its answers. The source port may be one of weir's
    /// choice: 0 until it was observed.
    pub seen: FlowKey,
    pub seen_by: PortId,
    /// The pods on the way to the client and to the server, where there are any.
    pub ways: [Option<u32>; 2],
    pub is_to_service: bool,
    /// Said goodbye: the client, the server.
    pub fins: [bool; 2],
    pub is_reset: bool,
    pub is_answered: bool,
    /// The client went on after an answer.
    pub is_established: bool,
    /// Whether the client and the server have said anything, and when they last did.
    pub said: [bool; 2],
    pub last_ms: [u64; 2],
    /// What a director sees who sees no answers; see `memories`.
    pub director: Director,
}

/// What the director of a flow from outside knows, where another worker has the backend.
#[derive(Clone, Debug, Default)]
pub struct Director {
    pub is_answered: bool,
    pub is_established: bool,
    pub has_fin: bool,
    pub has_reset: bool,
    pub last_ms: u64,
    /// Whether flows of a client had a common director when this one was opened.
    pub by_client: bool,
    /// Who remembers what is not known any more.
    pub is_vague: bool,
}

/// A client bound to a backend: its address, and what it asks for.
#[derive(Clone, Debug)]
pub struct Pin {
    pub key: FlowKey,
    pub by: PortId,
    pub backend: BackendAddr,
    pub last_ms: u64,
    pub timeout_ms: u64,
}

/// Whether a segment goes on with a connection.
pub fn is_continuing(flags: u8) -> bool {
    flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::ACK
}

/// What a packet is, besides its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Tcp(u8),
    /// UDP or an echo.
    Datagram,
    /// Fragments of a UDP datagram.
    First,
    Later,
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub port: PortId,
    pub key: FlowKey,
    pub shape: Shape,
}

/// What is sent: by a port, as text. A `*` stands for a source port of weir's choice.
pub type Sent = Option<(PortId, String)>;

/// Source ports to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Free ones, as far as there are any.
    Free,
    /// Those of flows that nobody has confirmed.
    Unconfirmed,
    None,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub node: Node,
    pub workers: u8,
    pub now_ms: u64,
    pub connections: Vec<Connection>,
    pub pins: Vec<Pin>,
    /// Bonds that some worker may know of.
    pub old_pins: Vec<Pin>,
    /// Connections from outside that one worker has forgotten and another may remember.
    pub ghosts: Vec<Connection>,
    pub room: Room,
    /// The director remembers this backend, and nobody else knows the flow.
    pub directed_to: Option<BackendAddr>,
}

/// Whether a connection still holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Judgement {
    Holds,
    Forgotten,
    Refused,
}

impl Connection {
    pub fn is_tcp(&self) -> bool {
        self.asked.protocol == protocol::TCP
    }

    pub fn is_over(&self) -> bool {
        self.is_reset || self.fins == [true, true]
    }

    /// After how long without a packet it is forgotten.
    fn timeout_ms(&self) -> u64 {
        let timeouts = Timeouts::default();
        u64::from(match (self.is_tcp(), self.is_over(), self.is_established) {
            (false, ..) => timeouts.any_ms,
            (_, true, _) => timeouts.tcp_closing_ms,
            (_, _, true) => timeouts.tcp_established_ms,
            _ => timeouts.tcp_syn_ms,
        })
    }

    pub fn note(&mut self, is_answer: bool, shape: Shape, now_ms: u64) {
        let side = usize::from(is_answer);
        (self.last_ms[side], self.said[side]) = (now_ms, true);
        if let Shape::Tcp(flags) = shape {
            self.fins[side] |= flags & tcp_flags::FIN != 0;
            self.is_reset |= flags & tcp_flags::RST != 0;
            self.is_established |= !is_answer && self.is_answered && is_continuing(flags);
            self.is_answered |= is_answer;
        }
        if !is_answer {
            self.director.note(shape, now_ms);
        }
    }

    /// When either side last said something.
    pub fn newest_ms(&self) -> u64 {
        self.last_ms[0].max(self.last_ms[1])
    }

    /// Whether a side was silent for a second, and one side alone has shown that it wants the
    /// connection: it may lose its source port.
    fn is_unconfirmed(&self, is_answer: bool, now_ms: u64) -> bool {
        let is_idle = |side: usize| now_ms - self.last_ms[side] >= 1000;
        let is_wanted = match self.is_tcp() {
            true => self.is_established,
            false => self.said == [true, true] || !is_idle(usize::from(!is_answer)),
        };
        is_idle(usize::from(is_answer)) && !is_wanted
    }

    /// The packet that answers it.
    pub fn answer(&self) -> FlowKey {
        self.seen.reversed()
    }
}

impl Packet {
    pub fn is_syn(&self) -> bool {
        self.shape == Shape::Tcp(tcp_flags::SYN)
    }

    /// As text, as if it had another key and shape. The source port may be a `*`.
    pub fn say(&self, key: &FlowKey, sport: Option<u16>, shape: Shape, ttl: u8) -> String {
        let tail = match shape {
            Shape::First => " len 40 fragment First",
            Shape::Later => " len 60 fragment Later damaged",
            _ => "",
        };
        let ttl = if ttl == 64 { String::new() } else { format!(" ttl {ttl}") };
        format!("{}{ttl}{tail}", headline(key, sport, shape))
    }
}

/// Who says what to whom.
pub fn headline(key: &FlowKey, sport: Option<u16>, shape: Shape) -> String {
    let (src, dst, dport) = (name_of(&key.src), name_of(&key.dst), key.dport);
    let sport = sport.map_or_else(|| "*".into(), |sport| sport.to_string());
    match shape {
        Shape::Tcp(flags) => {
            let names = [('S', 2), ('A', 16), ('F', 1), ('R', 4)];
            let flags: String =
                names.iter().filter(|row| flags & row.1 != 0).map(|r| r.0).collect();
            format!("tcp/{flags} {src}:{sport} > {dst}:{dport}")
        }
        Shape::Later => format!("UDP {src} > {dst}"),
        _ if !is_icmp(key) => format!("udp {src}:{sport} > {dst}:{dport}"),
        _ if dport == 0 => format!("ping {src} > {dst} id {sport}"),
        _ => format!("pong {src} > {dst} id {dport}"),
    }
}

impl Model {
    /// What becomes of a packet.
    pub fn take(&mut self, packet: &Packet) -> Sent {
        if let Some((at, is_answer)) = self.find(packet) {
            let connection = &self.connections[at];
            let said_goodbye = connection.is_over() || connection.fins[usize::from(is_answer)];
            // A new connection is never opened to an endpoint that leaves.
            let is_draining = !is_answer
                && connection.is_to_service
                && self.node.is_draining(&connection.asked, connection.seen.dst);
            if packet.is_syn() && (said_goodbye || is_draining) {
                self.forget(at);
                return self.open(packet);
            }
            match self.judge(connection, is_answer) {
                Judgement::Holds => return Some(self.go_on(at, is_answer, packet, packet.shape)),
                Judgement::Forgotten => self.forget(at),
                Judgement::Refused => {
                    if let Shape::Tcp(flags) = packet.shape
                        && is_answer
                        && !connection.is_over()
                        && flags & tcp_flags::RST == 0
                    {
                        // The client is told in the place of the first answer.
                        let reset = Shape::Tcp(tcp_flags::RST | flags & tcp_flags::ACK);
                        return Some(self.go_on(at, is_answer, packet, reset));
                    }
                    self.forget(at);
                    if !packet.is_syn() {
                        return self.refuse(packet);
                    }
                }
            }
        }
        self.open(packet)
    }

    /// The connection of a packet, and whether it is an answer.
    fn find(&self, packet: &Packet) -> Option<(usize, bool)> {
        let of = |connection: &Connection| {
            // What the kernel received by another interface than the uplink it sends on.
            let is_by =
                |port| port == packet.port || (port, packet.port) == (PortId::UPLINK, PortId::HOST);
            let is_ask = connection.asked == packet.key && is_by(connection.asked_by);
            let is_answer = connection.answer() == packet.key && is_by(connection.seen_by);
            (is_ask || is_answer).then_some(is_answer)
        };
        (0..self.connections.len()).find_map(|at| Some((at, of(&self.connections[at])?)))
    }

    pub fn forget(&mut self, at: usize) {
        let connection = self.connections.remove(at);
        if self.is_shared(&connection) {
            self.ghosts.push(connection);
        }
    }

    /// Whether one direction of a connection still holds.
    pub fn judge(&self, connection: &Connection, is_answer: bool) -> Judgement {
        let Connection { asked, seen, .. } = connection;
        let (port, src, dst) = match is_answer {
            true => (connection.seen_by, seen.dst, asked.src),
            false => (connection.asked_by, asked.src, seen.dst),
        };
        let is_pod = port != PortId::UPLINK && port != PortId::HOST;
        if is_pod && self.node.place(&src).pod() != Some(port.0) {
            return Judgement::Forgotten;
        }
        // A pod that took over the address of another one starts with no flows.
        let is_moved = self.node.place(&dst).pod() != connection.ways[usize::from(!is_answer)];
        if is_answer && is_moved {
            return Judgement::Forgotten;
        }
        let backend = BackendAddr { addr: seen.dst, l4_port: seen.dport };
        let has_backend = |service| self.node.has_backend(service, &backend);
        if connection.is_to_service && !self.node.service_of(asked).is_some_and(has_backend) {
            let is_told = connection.is_tcp() || is_answer;
            return if is_told { Judgement::Refused } else { Judgement::Forgotten };
        }
        // A service has its address from the moment it is there.
        let is_older = !connection.is_to_service && self.node.service_of(asked).is_some();
        let is_over = is_moved || !is_answer && is_older;
        if is_over { Judgement::Forgotten } else { Judgement::Holds }
    }

    fn go_on(
        &mut self,
        at: usize,
        is_answer: bool,
        packet: &Packet,
        shape: Shape,
    ) -> (PortId, String) {
        let now_ms = self.now_ms;
        let connection = &mut self.connections[at];
        connection.note(is_answer, shape, now_ms);
        let after = if is_answer { connection.asked.reversed() } else { connection.seen };
        let port = self.node.place(&after.dst).leaves_by();
        (port, packet.say(&after, Some(after.sport), shape, ttl_after(packet.port, port)))
    }

    /// A first packet.
    fn open(&mut self, packet: &Packet) -> Sent {
        let Packet { port, key, shape } = *packet;
        match self.node.decide(&key, port, self.pinned(&key), self.directed_to) {
            Decision::Dropped => None,
            Decision::Refused => self.refuse(packet),
            Decision::Punted => Some((HOST_PORT, packet.say(&key, Some(key.sport), shape, 64))),
            Decision::EchoReplied => {
                let answer = key.reversed();
                let to = self.node.place(&key.src).leaves_by();
                Some((to, packet.say(&answer, Some(0), shape, 64)))
            }
            Decision::Goes { to, is_allocated, pin } => {
                // Known by another port, which has become this one.
                if let Some(at) = self.holder(&key) {
                    self.forget(at);
                }
                let sport = self.source_port(&to, is_allocated)?;
                if let Some(backend) = pin {
                    self.bind(packet, backend);
                }
                Some(self.connect(packet, FlowKey { sport: sport.unwrap_or(0), ..to }, sport))
            }
        }
    }

    /// The source port of a new flow; `Some(None)` is one of weir's choice, `None` that there is
    /// none.
    fn source_port(&mut self, to: &FlowKey, is_allocated: bool) -> Option<Option<u16>> {
        if !is_allocated {
            let Some(at) = self.holder(&to.reversed()) else { return Some(Some(to.sport)) };
            if self.connections[at].is_over() || !self.is_live(&to.reversed()) {
                self.forget(at);
                return Some(Some(to.sport));
            }
        }
        if self.room == Room::Free && !self.any_port(to, |model, key| !model.is_live(key)) {
            self.room = Room::Unconfirmed;
        }
        let has_room = match self.room {
            Room::Free => true,
            Room::Unconfirmed => self.any_port(to, Model::is_unconfirmed),
            Room::None => false,
        };
        let has_port = !is_icmp(to) || to.dport == 0;
        (has_port && has_room).then_some(None)
    }

    /// Whether any source port to be had for a flow has answers for which something is so.
    fn any_port(&self, to: &FlowKey, is_so: fn(&Model, &FlowKey) -> bool) -> bool {
        let range = self.node.snat_ports;
        (range.min..=range.max).any(|sport| is_so(self, &FlowKey { sport, ..*to }.reversed()))
    }

    /// Whether a key belongs to a connection that may lose its source port.
    fn is_unconfirmed(&self, key: &FlowKey) -> bool {
        self.holder(key).is_some_and(|at| {
            let connection = &self.connections[at];
            connection.is_unconfirmed(connection.answer() != *key, self.now_ms)
        })
    }

    /// The connection that has a key, by any port.
    fn holder(&self, key: &FlowKey) -> Option<usize> {
        self.connections.iter().position(|row| row.asked == *key || row.answer() == *key)
    }

    /// Whether a key belongs to a connection that holds, even if it is over.
    fn is_live(&self, key: &FlowKey) -> bool {
        self.holder(key).is_some_and(|at| {
            let connection = &self.connections[at];
            self.judge(connection, connection.answer() == *key) == Judgement::Holds
        })
    }

    fn connect(&mut self, packet: &Packet, seen: FlowKey, sport: Option<u16>) -> (PortId, String) {
        let Packet { port, key, shape } = *packet;
        let service = self.node.service_of(&key);
        let way = self.node.place(&seen.dst);
        let mut connection = Connection {
            asked: key,
            asked_by: port,
            seen,
            seen_by: way.arrives_by(),
            ways: [self.node.place(&key.src).pod(), way.pod()],
            is_to_service: service.is_some(),
            fins: [false; 2],
            is_reset: false,
            is_answered: false,
            is_established: false,
            said: [false; 2],
            last_ms: [self.now_ms; 2],
            director: Director {
                is_answered: packet.is_syn(),
                by_client: service.is_some_and(|at| self.node.services[at].affinity_s > 0),
                ..Director::default()
            },
        };
        connection.note(false, shape, self.now_ms);
        self.haunt(&mut connection);
        self.connections.push(connection);
        let to = way.leaves_by();
        (to, packet.say(&seen, sport, shape, ttl_after(port, to)))
    }

    /// Whether a packet opens a flow with a source port of weir's choice, and does not show it: a
    /// later fragment, after its first has ended the flow that they were of.
    pub fn hides_port(&self, packet: &Packet) -> bool {
        packet.shape == Shape::Later
            && self.memories(packet).into_iter().any(|mut memory| {
                memory.take(packet);
                memory.connections.last().is_some_and(|row| row.seen.sport == 0)
            })
    }

    /// The source port of the newest connection was seen: it must be nobody else's.
    pub fn observe_port(&mut self, sport: u16) -> Result<(), String> {
        let range = self.node.snat_ports;
        let mut newest = self.connections.pop().expect("it was just opened");
        newest.seen.sport = sport;
        if !range.contains(sport) {
            return Err(format!("source port {sport} is not in {range:?}"));
        }
        let may_take = self.room == Room::Unconfirmed && self.is_unconfirmed(&newest.answer());
        if self.is_live(&newest.answer()) && !may_take {
            return Err(format!("source port {sport} is in use: {}", newest.answer()));
        }
        if let Some(at) = self.holder(&newest.answer()) {
            self.forget(at);
        }
        self.connections.push(newest);
        Ok(())
    }

    /// The sender is told: a reset, or port unreachable.
    fn refuse(&self, packet: &Packet) -> Sent {
        let Packet { key, shape, .. } = packet;
        let to = self.node.place(&key.src).leaves_by();
        let back = key.reversed();
        match *shape {
            Shape::Tcp(flags) if flags & tcp_flags::RST != 0 => None,
            Shape::Tcp(flags) => {
                let ack = if flags & tcp_flags::ACK != 0 { 0 } else { tcp_flags::ACK };
                let reset = Shape::Tcp(tcp_flags::RST | ack);
                Some((to, packet.say(&back, Some(back.sport), reset, 64)))
            }
            Shape::Later => None,
            _ => Some((to, self.error("3/3", "1/4", key.dst, key, *shape))),
        }
    }

    /// An ICMP error from `src` to the sender of `about`.
    fn error(&self, v4: &str, v6: &str, src: Addr, about: &FlowKey, shape: Shape) -> String {
        let code = if self.node.family == 4 { v4 } else { v6 };
        let (src, dst) = (name_of(&src), name_of(&about.src));
        let about = headline(about, Some(about.sport), shape);
        format!("unreachable {code} {src} > {dst} about {about}")
    }

    /// What becomes of an error from `router`, by `port`, about a packet of a connection.
    pub fn take_error(&self, at: usize, is_answer: bool, router: Addr, port: PortId) -> Sent {
        let connection = &self.connections[at];
        // It travels with the packets of the other direction.
        let spoofed = self.node.is_spoofed(port, &router);
        if spoofed || self.judge(connection, !is_answer) != Judgement::Holds {
            return None;
        }
        let Connection { asked, seen, .. } = connection;
        let (far, near, about) = match is_answer {
            true => (asked.src, seen.src, seen.reversed()),
            false => (seen.dst, asked.dst, *asked),
        };
        // As the answers do, where they change their source.
        let src = if far == near { router } else { near };
        let shape = if connection.is_tcp() { Shape::Tcp(tcp_flags::ACK) } else { Shape::Datagram };
        let to = self.node.place(&about.src).leaves_by();
        let ttl = if ttl_after(port, to) == 64 { "" } else { " ttl 63" };
        Some((to, format!("{}{ttl}", self.error("3/4", "2/0", src, &about, shape))))
    }

    /// Time passes, and what is too old is forgotten.
    pub fn advance(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        let now_ms = self.now_ms;
        let holds = |pin: &Pin| now_ms - pin.last_ms < pin.timeout_ms;
        self.pins.retain(holds);
        self.old_pins.retain(holds);
        for at in (0..self.connections.len()).rev() {
            let connection = &self.connections[at];
            if now_ms - connection.newest_ms() >= connection.timeout_ms() {
                self.forget(at);
            }
        }
        self.bury(now_ms);
    }

    fn pinned(&self, key: &FlowKey) -> Option<BackendAddr> {
        let key = FlowKey { sport: 0, ..*key };
        self.pins.iter().find(|pin| pin.key == key).map(|pin| pin.backend)
    }

    fn bind(&mut self, packet: &Packet, backend: BackendAddr) {
        let pin = self.pin(&packet.key, packet.port, backend);
        let (key, by) = (pin.key, pin.by);
        if let Some(at) = self.pins.iter().position(|pin| pin.key == key) {
            let old = self.pins.remove(at);
            if old.by != by {
                self.old_pins.push(old);
            }
        }
        self.pins.push(pin);
    }

    /// A bond to a backend, from now on.
    pub fn pin(&self, key: &FlowKey, by: PortId, backend: BackendAddr) -> Pin {
        let service = self.node.service_of(key).expect("only services bind");
        let timeout_ms = u64::from(self.node.services[service].affinity_s) * 1000;
        let key = FlowKey { sport: 0, ..*key };
        Pin { key, by, backend, last_ms: self.now_ms, timeout_ms }
    }
}

/// The TTL goes down unless the packet comes from or goes to the node itself.
fn ttl_after(from: PortId, to: PortId) -> u8 {
    if from == PortId::HOST || to == HOST_PORT { 64 } else { 63 }
}
