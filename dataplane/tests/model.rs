//! Random tables and packet histories against a naive model: a map of connections, and the rules of
//! services written down as plainly as possible. Whatever number of workers must agree with it.

mod common;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use weir_packet::{Addr, FlowKey, Parsed, parse, protocol, tcp_flags};
use weir_tables::BackendState::{self, Active, Maintenance, Terminating};
use weir_tables::{BackendAddr, FrontendKey, PortId, Snapshot};

use common::node::{PORTS, UPLINK_PORT, addr, backend_sets, port_of};
use common::packet::Text;
use common::world::{Layout, World, difference};

const PODS: [&str; 4] = ["blue", "green", "red", "grey"];
const SERVICES: [&str; 3] = ["web", "pair", "lb"];

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// A packet of a client to a service, a pod or the world.
    Ask { client: usize, target: usize, is_tcp: bool, sport: u16, kind: usize },
    /// An answer to the packet that was delivered `back` deliveries ago.
    Answer { back: usize, kind: usize },
    /// The backends of a service are these from now on.
    Backends { service: usize, states: [Option<BackendState>; 4] },
}

const FLAGS: [u8; 4] =
    [tcp_flags::SYN, tcp_flags::ACK, tcp_flags::ACK | tcp_flags::FIN, tcp_flags::RST];

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        3 => Just(None),
        3 => Just(Some(Active)),
        1 => Just(Some(Terminating)),
        1 => Just(Some(Maintenance)),
    ];
    let kind = || prop_oneof![3 => Just(0_usize), 4 => Just(1), 1 => Just(2), 1 => Just(3)];
    prop_oneof![
        8 => (0..5_usize, 0..9_usize, any::<bool>(), 4000..4003_u16, kind()).prop_map(
            |(client, target, is_tcp, sport, kind)| {
                Step::Ask { client, target, is_tcp, sport, kind }
            }
        ),
        6 => (0..6_usize, kind()).prop_map(|(back, kind)| Step::Answer { back, kind }),
        1 => (0..3_usize, prop::array::uniform4(state))
            .prop_map(|(service, states)| Step::Backends { service, states }),
    ]
}

/// What a connection knows, both directions under one entry.
#[derive(Clone, Debug)]
struct Connection {
    /// As the client sends it.
    asked: FlowKey,
    /// As the server sees it.
    seen: FlowKey,
    /// FIN of the client, FIN of the server.
    fins: (bool, bool),
    is_reset: bool,
}

impl Connection {
    fn is_over(&self) -> bool {
        self.is_reset || self.fins == (true, true)
    }

    fn is_to_service(&self) -> bool {
        self.asked.dst != self.seen.dst
    }
}

/// Naive connection tracking: every connection, found by either of its keys.
#[derive(Default)]
struct Model {
    connections: HashMap<u32, Connection>,
    keys: BTreeMap<FlowKey, u32>,
    next: u32,
    /// Protocols and client ports of connections that were forgotten, or refused for a collision.
    /// Of those from outside a director forgets one half and a pod's worker the other, each when
    /// its next packet comes: with several workers these ports are left alone from then on.
    forgotten: Vec<(u8, u16)>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Leaves(FlowKey),
    /// The sender is told.
    Refused,
    Dropped,
}

impl Model {
    fn forget(&mut self, id: u32) {
        let connection = self.connections.remove(&id).expect("found by key");
        self.forgotten.push((connection.asked.protocol, connection.asked.sport));
        self.keys.retain(|_, other| *other != id);
    }

    fn is_over(&self, key: &FlowKey) -> bool {
        self.keys.get(key).is_some_and(|id| self.connections[id].is_over())
    }

    /// Whether the service of a connection still has its backend.
    fn holds(connection: &Connection, snapshot: &Snapshot) -> bool {
        let frontend = snapshot.frontend(&FrontendKey::of_destination(&connection.asked));
        let set = frontend.and_then(|row| snapshot.backends_of(row, false));
        let seen = connection.seen;
        let backend = BackendAddr { addr: seen.dst, l4_port: seen.dport };
        !connection.is_to_service() || set.is_some_and(|set| set.get(&backend).is_some())
    }

    fn packet(&mut self, key: FlowKey, flags: u8, snapshot: &Snapshot) -> Fate {
        let is_tcp = key.protocol == protocol::TCP;
        let is_syn = is_tcp && flags == tcp_flags::SYN;
        if let Some(&id) = self.keys.get(&key) {
            let connection = &self.connections[&id];
            let is_answer = connection.seen.reversed() == key && connection.asked != key;
            let said_goodbye = if is_answer { connection.fins.1 } else { connection.fins.0 };
            if is_syn && (connection.is_over() || said_goodbye) {
                self.forget(id);
            } else if !Model::holds(connection, snapshot) {
                let is_answered = is_tcp && is_answer && flags & tcp_flags::RST == 0;
                if is_answered && !connection.is_over() {
                    // The client is told in the place of the first answer.
                    return Fate::Leaves(self.go_on(id, is_answer, tcp_flags::RST, is_tcp));
                }
                self.forget(id);
                if (is_tcp || is_answer) && !is_syn {
                    return if flags & tcp_flags::RST != 0 && is_tcp {
                        Fate::Dropped
                    } else {
                        Fate::Refused
                    };
                }
            } else {
                return Fate::Leaves(self.go_on(id, is_answer, flags, is_tcp));
            }
        }
        self.open(key, flags, snapshot)
    }

    fn go_on(&mut self, id: u32, is_answer: bool, flags: u8, is_tcp: bool) -> FlowKey {
        let connection = self.connections.get_mut(&id).expect("found by key");
        if is_tcp {
            let fin = flags & tcp_flags::FIN != 0;
            let side = if is_answer { &mut connection.fins.1 } else { &mut connection.fins.0 };
            *side |= fin;
            connection.is_reset |= flags & tcp_flags::RST != 0;
        }
        if is_answer { connection.asked.reversed() } else { connection.seen }
    }

    fn open(&mut self, asked: FlowKey, flags: u8, snapshot: &Snapshot) -> Fate {
        let mut seen = asked;
        if asked.dst == addr("gateway", 4) {
            return Fate::Dropped;
        }
        if let Some(frontend) = snapshot.frontend(&FrontendKey::of_destination(&asked)) {
            let set = snapshot.backends_of(frontend, false);
            let Some(backend) = set.and_then(|set| set.pick(&asked, false)) else {
                let is_reset = asked.protocol == protocol::TCP && flags & tcp_flags::RST != 0;
                return if is_reset { Fate::Dropped } else { Fate::Refused };
            };
            (seen.dst, seen.dport) = (backend.addr.addr, backend.addr.l4_port);
            if seen.dst == seen.src {
                seen.src = addr("gateway", 4);
            }
        }
        if let Some(&id) = self.keys.get(&seen.reversed()) {
            let other = &self.connections[&id];
            if !other.is_over() && Model::holds(other, snapshot) {
                self.forgotten.push((asked.protocol, asked.sport));
                return Fate::Dropped;
            }
            self.forget(id);
        }
        let id = self.next;
        self.next += 1;
        self.keys.insert(asked, id);
        self.keys.insert(seen.reversed(), id);
        let connection = Connection { asked, seen, fins: (false, false), is_reset: false };
        self.connections.insert(id, connection);
        let is_tcp = asked.protocol == protocol::TCP;
        Fate::Leaves(self.go_on(id, false, flags, is_tcp))
    }
}

/// A world and the model beside it.
struct Pair {
    world: World,
    model: Model,
    /// What was delivered: where to, and with which key.
    delivered: Vec<(PortId, FlowKey)>,
}

impl Pair {
    fn packet(&mut self, port: PortId, key: FlowKey, flags: u8) -> Result<(), TestCaseError> {
        let flags = if key.protocol == protocol::TCP { flags } else { 0 };
        let client = addr("client", 4);
        let client_port = if key.src == client { key.sport } else { key.dport };
        let half = (key.protocol, client_port);
        let is_outside = key.src == client || key.dst == client;
        // Nor does the director know of an end that only the pod's worker has seen.
        let is_unsettled = self.model.forgotten.contains(&half)
            || (flags == tcp_flags::SYN && self.model.is_over(&key));
        if is_outside && self.world.layout.workers > 1 && is_unsettled {
            return Ok(());
        }
        let FlowKey { src, dst, sport, dport, protocol, .. } = key;
        let text = Text { protocol, flags, src, dst, sport, dport, ttl: 64, len: 4 };
        let macs = common::node::arriving_macs(port);
        let before = self.world.counters();
        self.world.inject(port, &text.frame(macs));
        self.world.settle();
        let sent = self.world.take_sent();
        let counted = difference(&before, &self.world.counters());
        let snapshot = self.world.snapshot();
        let expected = self.model.packet(key, flags, &snapshot);
        let found: Vec<_> = sent.iter().map(|(port, frame)| (*port, key_of(frame))).collect();
        match expected {
            Fate::Leaves(after) => {
                let to = port_towards(&after.dst);
                prop_assert_eq!(&found, &[(to, after)], "{} {:x}: {}", key, flags, counted);
                self.delivered.push((to, after));
            }
            Fate::Dropped => prop_assert_eq!(&found, &[], "{} {:x}: {}", key, flags, counted),
            Fate::Refused => {
                prop_assert_eq!(found.len(), 1, "{} {:x}: {}", key, flags, counted);
                prop_assert_eq!((found[0].0, found[0].1.dst), (port_towards(&key.src), key.src));
                prop_assert_eq!(found[0].1.src, key.dst, "as from the address asked");
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Ask { client, target, is_tcp, sport, kind } => {
                let client = ["blue", "green", "red", "grey", "client"][client];
                let (protocol, service_port, pod_port) = PORTS[usize::from(!is_tcp)];
                let (dst, dport) = match target {
                    0..3 => (SERVICES[target], service_port),
                    3..6 => (SERVICES[target - 3], service_port),
                    6 | 7 => (PODS[target - 5], pod_port),
                    _ => ("remote", pod_port),
                };
                if dst == client || (client == "client" && dst == "remote") {
                    return Ok(());
                }
                let (src, dst) = (addr(client, 4), addr(dst, 4));
                let key = FlowKey { src, dst, sport, dport, protocol, family: 4, zone: 0 };
                let port = port_of(if client == "client" { "out" } else { client });
                self.packet(port, key, FLAGS[kind])
            }
            Step::Answer { back, kind } => {
                let Some(&(to, key)) = self.delivered.iter().rev().nth(back) else { return Ok(()) };
                let port = if to == UPLINK_PORT { PortId::UPLINK } else { to };
                let flags = if kind == 0 { tcp_flags::SYN | tcp_flags::ACK } else { FLAGS[kind] };
                self.packet(port, key.reversed(), flags)
            }
            Step::Backends { service, states } => {
                let rows = PODS.iter().zip(states).filter_map(|(pod, state)| Some((*pod, state?)));
                let rows: Vec<_> = rows.collect();
                self.world.upsert(backend_sets(SERVICES[service], &rows));
                Ok(())
            }
        }
    }
}

fn key_of(frame: &[u8]) -> FlowKey {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => packet.key,
        other => panic!("{other:?}"),
    }
}

fn port_towards(dst: &Addr) -> PortId {
    let pod = PODS.iter().find(|pod| addr(pod, 4) == *dst);
    pod.map_or(UPLINK_PORT, |pod| port_of(pod))
}

/// Histories of `WEIR_SEED`, 1 by default: the same seed gives the same ones. `WEIR_FULL=1` runs
/// more.
fn config() -> ProptestConfig {
    let number = |text: String| text.parse().ok();
    let seed = std::env::var("WEIR_SEED").ok().and_then(number).unwrap_or(1);
    println!("seed {seed}");
    let cases = if std::env::var_os("WEIR_FULL").is_some() { 5000 } else { 300 };
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

fn agrees(layout: Layout, steps: &[Step]) -> Result<(), TestCaseError> {
    let world = World::new(Layout { flows: 1024, ..layout });
    let mut pair = Pair { world, model: Model::default(), delivered: Vec::new() };
    for step in steps {
        pair.step(step)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn one_worker_does_what_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        agrees(Layout::of(1), &steps)?;
    }

    #[test]
    fn two_workers_do_what_the_model_says(
        steps in prop::collection::vec(step(), 1..60),
        salt in 0..8_u32,
        queue in 0..2_u8,
    ) {
        agrees(Layout { salt, queues: vec![queue], ..Layout::of(2) }, &steps)?;
    }
}
