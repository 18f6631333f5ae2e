//! A world and the model beside it: every step is done to both.

use proptest::prelude::*;
use weir_packet::reply::{IcmpError, write_icmp_error};
use weir_packet::{Addr, FlowKey, Parsed, parse, protocol, tcp_flags};
use weir_tables::{NodeConfig, Object, ObjectRef, PortId, Prefix, SnatPorts};

use crate::common::node::{self, PODS, UPLINK_PORT, addr, arriving_macs};
use crate::common::packet::{Text, fragment, show};
use crate::common::world::{Layout, World, difference};
use crate::naive::{Judgement, Model, Packet, Room, Sent, Shape};
use crate::state::{NODE_ADDRS, Node, Place, SERVICES, Service, States, node_port, ports_of};
use crate::steps::{CLIENTS, Change, Kind, OTHERS, Step, Target};

/// What was sent, as text and by key, and what was counted.
type Ran = (Vec<(PortId, String)>, Vec<(PortId, FlowKey)>, String);

const FLAGS: [u8; 4] =
    [tcp_flags::SYN, tcp_flags::ACK, tcp_flags::ACK | tcp_flags::FIN, tcp_flags::RST];

/// A world and the model beside it.
pub struct Pair {
    world: World,
    model: Model,
    /// What was sent by clients, and what was delivered: where, and with which key.
    asked: Vec<(PortId, FlowKey)>,
    delivered: Vec<(PortId, FlowKey)>,
    /// Pods that were made, for names and ports that are new.
    pods_made: u32,
    salts: [u32; 4],
    ports: [u32; 4],
}

impl Pair {
    pub fn new(layout: Layout, family: u8, snat_ports: SnatPorts) -> Pair {
        let plain = |states| Service {
            is_there: true,
            affinity_s: 0,
            is_local: false,
            ranges: None,
            states,
        };
        let states = |names: &[usize]| -> States {
            std::array::from_fn(|at| {
                names.contains(&at).then_some(weir_tables::BackendState::Active)
            })
        };
        let node = Node {
            family,
            pods: PODS.map(|pod| Some(pod.1)),
            services: [plain(states(&[1])), plain(states(&[1, 2])), plain(states(&[1, 4, 5]))],
            masquerades: false,
            snat_ports,
        };
        let mut world = World::new(layout);
        world.upsert([Object::Node(node_config(&world, false, snat_ports))]);
        world.upsert((0..SERVICES.len()).flat_map(|at| node.objects(at)));
        let workers = world.layout.workers;
        let model = Model {
            node,
            workers,
            now_ms: 0,
            connections: Vec::new(),
            pins: Vec::new(),
            old_pins: Vec::new(),
            ghosts: Vec::new(),
            room: Room::Free,
            directed_to: None,
        };
        let salts = [world.layout.salt; 4];
        let (asked, delivered) = (Vec::new(), Vec::new());
        Pair { world, model, asked, delivered, pods_made: 0, salts, ports: PODS.map(|pod| pod.1) }
    }

    pub fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Ask { client, target, kind, sport, flags } => {
                let port = self.port_of_client(client);
                let Some(key) = self.key(client, target, kind, sport) else { return Ok(()) };
                self.asked.push((port, key));
                self.packets(port, key, FLAGS[flags], kind == Kind::Fragments)
            }
            Step::Again { back, flags, in_fragments } => {
                let Some(&(port, key)) = self.asked.iter().rev().nth(back) else { return Ok(()) };
                self.packets(port, key, FLAGS[flags], in_fragments)
            }
            Step::Answer { back, flags, in_fragments } => {
                let Some(&(to, key)) = self.delivered.iter().rev().nth(back) else { return Ok(()) };
                let flags = if flags == 0 { FLAGS[0] | tcp_flags::ACK } else { FLAGS[flags] };
                // Of a pod that has moved in there meanwhile, if any has.
                let port = match self.model.node.place(&key.dst) {
                    Place::Pod(port) => PortId(port),
                    _ if to == UPLINK_PORT => PortId::UPLINK,
                    _ if to == node::HOST_PORT => PortId::HOST,
                    _ => to,
                };
                self.packets(port, key.reversed(), flags, in_fragments)
            }
            Step::Spoof { client, by, target } => {
                let Some(key) = self.key(client, target, Kind::Udp, 4000) else { return Ok(()) };
                let ports = self.ports.map(PortId);
                let port = *ports.get(by).unwrap_or(&PortId::UPLINK);
                self.packets(port, key, 0, false)
            }
            Step::Error { connection, is_answer, is_far } => {
                self.error(connection, is_answer, is_far)
            }
            Step::Backend { .. } | Step::Service { .. } | Step::Masquerade(_) => {
                self.configure(step);
                Ok(())
            }
            Step::Pod { at, is_replaced } => {
                self.change_pod(at, is_replaced);
                Ok(())
            }
            Step::Time(ms) => {
                self.pass(ms);
                Ok(())
            }
            Step::Publish => {
                self.world.publish();
                Ok(())
            }
        }
    }

    /// Lets time pass, and turns enough for a look at every flow.
    fn pass(&mut self, ms: u64) {
        self.model.advance(ms);
        self.world.clock.advance_ns(ms * 1_000_000);
        for _ in 0..self.world.layout.flows / 16 {
            self.world.round();
        }
    }

    fn port_of_client(&self, client: usize) -> PortId {
        match CLIENTS[client] {
            "host" => PortId::HOST,
            _ if client < 4 => PortId(self.ports[client]),
            _ => PortId::UPLINK,
        }
    }

    fn key(&self, client: usize, target: Target, kind: Kind, sport: u16) -> Option<FlowKey> {
        let family = self.model.node.family;
        let protocol = match kind {
            Kind::Tcp => protocol::TCP,
            Kind::Udp | Kind::Fragments => protocol::UDP,
            Kind::Echo if family == 4 => protocol::ICMP,
            Kind::Echo => protocol::ICMPV6,
        };
        let (l4_port, target_port) = ports_of(protocol).unwrap_or((0, 0));
        let (dst, dport) = match target {
            Target::Service(at) => (SERVICES[at], l4_port),
            Target::NodePort(at, node) => (NODE_ADDRS[node], node_port(at, l4_port)),
            Target::UnknownPort(at) => (SERVICES[at], l4_port + 1),
            Target::Other(at) => (OTHERS[at], target_port),
        };
        let dport = if kind == Kind::Echo { 0 } else { dport };
        let (src, dst) = (addr(CLIENTS[client], family), addr(dst, family));
        (src != dst).then_some(FlowKey { src, dst, sport, dport, protocol, family, zone: 0 })
    }

    fn packets(
        &mut self,
        port: PortId,
        key: FlowKey,
        flags: u8,
        in_fragments: bool,
    ) -> Result<(), TestCaseError> {
        let shapes = match key.protocol {
            protocol::TCP => &[Shape::Tcp(flags)][..],
            protocol::UDP if in_fragments => &[Shape::First, Shape::Later],
            _ => &[Shape::Datagram],
        };
        for &shape in shapes {
            self.packet(&Packet { port, key, shape })?;
        }
        Ok(())
    }

    fn packet(&mut self, packet: &Packet) -> Result<(), TestCaseError> {
        let model = &self.model;
        let is_misplaced = model.workers > 1 && model.is_misplaced(packet);
        let is_excluded =
            is_misplaced || model.is_of_two_workers(packet) || model.is_switched(packet);
        if is_excluded || model.hides_port(packet) {
            return Ok(());
        }
        if self.world.counters().received % 16 == 15 {
            // Refusals are limited in time.
            self.pass(4);
        }
        let (found, frames, counts) = self.run(packet.port, &frame_of(packet));
        let mut expected = None;
        for mut memory in self.model.memories(packet) {
            let sent = memory.take(packet);
            match accept(&mut memory, &sent, &found) {
                Ok(()) => {
                    (memory.room, memory.directed_to) = (Room::Free, None);
                    self.model = memory;
                    self.delivered.extend(frames);
                    return Ok(());
                }
                Err(reason) => {
                    expected.get_or_insert((sent, reason));
                }
            }
        }
        let (sent, reason) = expected.expect("the model itself is one");
        let sender = crate::common::node::port_name(packet.port);
        Err(TestCaseError::fail(format!(
            "{sender}: {}\n  expected {sent:?}\n  found    {found:?}\n  {reason}\n  {counts}",
            packet.say(&packet.key, Some(packet.key.sport), packet.shape, 64)
        )))
    }

    /// Lets a frame in: what was sent, as text and as keys, and what was counted.
    fn run(&mut self, port: PortId, frame: &[u8]) -> Ran {
        let before = self.world.counters();
        self.world.inject(port, frame);
        self.world.settle();
        let sent = self.world.take_sent();
        let counts = difference(&before, &self.world.counters());
        let texts = sent.iter().map(|(port, frame)| (*port, show(*port, frame))).collect();
        let keys = sent.iter().filter_map(|(port, frame)| match parse(frame) {
            Ok(Parsed::Ip(packet)) if packet.key.sport | packet.key.dport != 0 => {
                Some((*port, packet.key))
            }
            _ => None,
        });
        (texts, keys.collect(), counts)
    }

    fn error(&mut self, back: usize, is_answer: bool, is_far: bool) -> Result<(), TestCaseError> {
        let count = self.model.connections.len();
        let Some(at) = count.checked_sub(back + 1) else { return Ok(()) };
        let connection = &self.model.connections[at];
        let (port, far, about) = match is_answer {
            true => (connection.asked_by, connection.asked.src, connection.asked.reversed()),
            false => (connection.seen_by, connection.seen.dst, connection.seen),
        };
        let is_pod = port != PortId::UPLINK && port != PortId::HOST;
        // A worker that has not met the flow cannot know that it is over, and of a flow that is
        // forgotten the error goes as an error of nobody's flow, wherever its addresses lead.
        let judgement = self.model.judge(connection, !is_answer);
        let is_over = judgement != Judgement::Holds && self.model.workers > 1;
        if self.model.is_unsure(connection) || is_over || judgement == Judgement::Forgotten {
            return Ok(());
        }
        let router = addr("router", self.model.node.family);
        let sender = if is_far || is_pod { far } else { router };
        let sent = self.model.take_error(at, is_answer, sender, port);
        let (found, _, counts) = self.run(port, &error_frame(port, sender, &about));
        let expected: Vec<_> = sent.into_iter().collect();
        prop_assert_eq!(found, expected, "error by {:?} about {}: {}", port, about, counts);
        Ok(())
    }

    fn configure(&mut self, step: &Step) {
        let node = &mut self.model.node;
        let changed = match *step {
            Step::Backend { service, at, state } => {
                node.services[service].states[at] = state;
                service
            }
            Step::Service { service, change } => {
                let row = &mut node.services[service];
                match change {
                    Change::DeleteOrAdd => row.is_there = !row.is_there,
                    Change::Affinity(seconds) => row.affinity_s = seconds,
                    Change::Local(is_local) => row.is_local = is_local,
                    Change::Ranges(ranges) => row.ranges = ranges,
                }
                service
            }
            Step::Masquerade(is_on) => {
                node.masquerades = is_on;
                let config = node_config(&self.world, is_on, node.snat_ports);
                return self.world.upsert([Object::Node(config)]);
            }
            _ => return,
        };
        let is_there = node.services[changed].is_there;
        for object in node.objects(changed) {
            match object {
                Object::Frontend(row) if !is_there => {
                    self.world.tables.delete(&Object::Frontend(row).name());
                }
                object => self.world.tables.upsert(object).expect("a valid object"),
            }
        }
        self.world.publish();
    }

    fn change_pod(&mut self, at: usize, is_replaced: bool) {
        let name = PODS[at].0;
        let was_there = self.model.node.pods[at].take().is_some();
        if was_there {
            self.world.tables.delete(&ObjectRef::Endpoint(node::pod_name(name, self.salts[at])));
        }
        if is_replaced || !was_there {
            self.pods_made += 1;
            self.salts[at] += 100;
            self.ports[at] = 40 + self.pods_made;
            let pod = node::pod(name, self.salts[at], PortId(self.ports[at]));
            self.world.tables.upsert(pod).expect("a valid pod");
            self.model.node.pods[at] = Some(self.ports[at]);
        }
        self.world.publish();
    }
}

/// Compares what was sent with what the model says, and tells it the source port.
fn accept(model: &mut Model, sent: &Sent, found: &[(PortId, String)]) -> Result<(), String> {
    let different = || Err("different".to_owned());
    let (port, text) = match (sent, found) {
        (None, []) => return Ok(()),
        (Some((port, text)), [(to, _)]) if port == to => (&found[0].1, text),
        _ => return different(),
    };
    let (found, text) = (port, text);
    let Some((before, behind)) = text.split_once('*') else {
        return if found == text { Ok(()) } else { different() };
    };
    let chosen = found.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
    match chosen.and_then(|text| text.parse().ok()) {
        Some(sport) => model.observe_port(sport),
        None => different(),
    }
}

fn frame_of(packet: &Packet) -> Vec<u8> {
    let Packet { port, key, shape } = *packet;
    let FlowKey { src, dst, sport, dport, protocol, .. } = key;
    let (flags, len) = match shape {
        Shape::Tcp(flags) => (flags, 0),
        Shape::Datagram => (0, 4),
        Shape::First | Shape::Later => (0, 100),
    };
    let text = Text { protocol, flags, src, dst, sport, dport, ttl: 64, len };
    let whole = text.frame(arriving_macs(port));
    match shape {
        Shape::First | Shape::Later => fragment(&whole, shape == Shape::First),
        _ => whole,
    }
}

/// What `sender` says, by `port`, of a packet that came from this node.
fn error_frame(port: PortId, sender: Addr, about: &FlowKey) -> Vec<u8> {
    let FlowKey { src, dst, sport, dport, protocol, .. } = *about;
    let (from, to) = arriving_macs(port);
    let flags = tcp_flags::ACK;
    let text = Text { protocol, flags, src, dst, sport, dport, ttl: 64, len: 100 };
    let mut buffer = text.frame((to, from));
    let Ok(Parsed::Ip(packet)) = parse(&buffer) else { panic!("an IP packet") };
    buffer.resize(2048, 0);
    let error = IcmpError::TooBig { mtu: 1400 };
    let len = write_icmp_error(&mut buffer, &packet.headers, error, sender).expect("an error");
    buffer.truncate(len);
    buffer
}

fn node_config(world: &World, masquerade: bool, snat_ports: SnatPorts) -> NodeConfig {
    let both = |name: &str| [addr(name, 4), addr(name, 6)];
    let cluster_ranges: Vec<Prefix> = [4, 6].map(Node::cluster_range).to_vec();
    NodeConfig {
        addresses: NODE_ADDRS.iter().flat_map(|name| both(name)).collect(),
        cluster_ranges,
        masquerade,
        snat_ports,
        ..world.tables.node().clone()
    }
}
