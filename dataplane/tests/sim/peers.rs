//! Toy hosts: clients that remember what they asked, servers that answer what they get.
//!
//! Every payload says who asked whom, so that each side can tell a packet that is for it from one
//! that went astray, and a damaged one from both.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::SmallRng;
use weir_packet::build::{Path, Segment, emit_tcp, emit_udp};
use weir_packet::{
    Addr, FlowKey, Fragment, IcmpKind, Packet, Parsed, checksum, parse, protocol, rewrite,
    tcp_flags,
};

use crate::common::node::{PORTS, SERVICES, addr, arriving_macs, name_of, port_of};

/// A question: who asks whom, by which protocol, from which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub client: &'static str,
    pub target: &'static str,
    pub family: u8,
    pub is_tcp: bool,
    pub sport: u16,
}

/// All hosts of the simulation.
#[derive(Default)]
pub struct Peers {
    open: BTreeSet<Asked>,
    /// By service: the pods that have ever been its backends since the start.
    servers: BTreeMap<&'static str, BTreeSet<&'static str>>,
    pub answered: u64,
    pub refused: u64,
}

const NAMES: [&str; 9] = ["blue", "green", "red", "grey", "client", "web", "pair", "lb", "own"];
const ANSWER: u8 = 0x80;

impl Peers {
    /// These pods are backends of a service from now on; earlier ones may still hear from their
    /// flows.
    pub fn serve(&mut self, service: &'static str, pods: impl Iterator<Item = &'static str>) {
        self.servers_of(service).extend(pods);
    }

    fn servers_of(&mut self, service: &'static str) -> &mut BTreeSet<&'static str> {
        self.servers.entry(service).or_insert_with(|| {
            let row = SERVICES.iter().find(|row| row.0 == service);
            row.map_or_else(|| BTreeSet::from([service]), |row| row.1.iter().copied().collect())
        })
    }

    /// The client's packet: a SYN where the connection is new or at random, else data or a goodbye.
    pub fn ask(&mut self, asked: Asked, rng: &mut SmallRng) -> Vec<u8> {
        let is_new = self.open.insert(asked);
        let flags = match rng.random_range(0..10) {
            _ if is_new => tcp_flags::SYN,
            0 => tcp_flags::SYN,
            1 => tcp_flags::FIN | tcp_flags::ACK,
            2 => tcp_flags::RST,
            _ => tcp_flags::ACK,
        };
        let port = if asked.client == "client" { "out" } else { asked.client };
        let (src, dst) = (addr(asked.client, asked.family), addr(asked.target, asked.family));
        write(port, asked, (src, asked.sport), (dst, asked.target_port()), flags, 0)
    }

    /// What a host makes of a frame; its answer, if it has one.
    pub fn receive(&mut self, host: &'static str, frame: &[u8]) -> Option<Vec<u8>> {
        let (packet, payload) = intact(frame)?;
        let key = packet.key;
        if packet.headers.icmp == IcmpKind::Error || packet.headers.tcp_flags & tcp_flags::RST != 0
        {
            self.refused += 1;
            return None;
        }
        let (asked, kind) = Asked::read(payload)?;
        if !is_plausible(&packet, asked) {
            return None;
        }
        let is_pod = !matches!(host, "client" | "host");
        if !is_pod && key.dst != addr(host, asked.family) {
            // The address of a pod that is detached is the kernel's business, and then whoever's
            // the default route leads to.
            return None;
        }
        let client = addr(asked.client, asked.family);
        let target = addr(asked.target, asked.family);
        if kind == ANSWER {
            assert_eq!(host, asked.client, "{key}: an answer for {asked:?}");
            assert_eq!((key.dst, key.dport), (client, asked.sport), "{asked:?}");
            // A server may answer a question of a flow that was forgotten meanwhile: it then speaks
            // for itself, to a client that takes it for nobody's.
            let as_asked = (key.src, key.sport) == (target, asked.target_port());
            let by_server = self
                .servers_of(asked.target)
                .iter()
                .any(|pod| (key.src, key.sport) == (addr(pod, asked.family), asked.server_port()));
            assert!(as_asked || by_server, "{key}: from nobody's address, {asked:?}");
            self.answered += u64::from(as_asked);
            return None;
        }
        let servers = self.servers_of(asked.target);
        assert!(servers.contains(host), "{key} at {host}: {asked:?} is served by {servers:?}");
        assert_eq!((key.dst, key.dport), (addr(host, asked.family), asked.server_port()));
        let is_hairpin = host == asked.client;
        let seen = if is_hairpin { addr("hairpin", asked.family) } else { client };
        assert_eq!((key.src, key.sport), (seen, asked.sport), "{asked:?}");
        let flags = packet.headers.tcp_flags | tcp_flags::ACK;
        Some(write(host, asked, (key.dst, key.dport), (key.src, key.sport), flags, ANSWER))
    }
}

impl Asked {
    fn target_port(&self) -> u16 {
        let is_service = SERVICES.iter().any(|row| row.0 == self.target);
        let (_, l4_port, target) = PORTS[usize::from(!self.is_tcp)];
        if is_service { l4_port } else { target }
    }

    fn server_port(&self) -> u16 {
        PORTS[usize::from(!self.is_tcp)].2
    }

    /// The payload's fields, and a sum over them that damage does not survive.
    fn bytes(&self, kind: u8) -> Vec<u8> {
        let place = |name| NAMES.iter().position(|other| *other == name).expect("a name") as u8;
        let mut bytes = vec![kind, place(self.client), place(self.target), self.family];
        bytes.push(u8::from(self.is_tcp));
        bytes.extend(self.sport.to_be_bytes());
        bytes.extend(sum(&bytes).to_be_bytes());
        bytes
    }

    fn read(payload: &[u8]) -> Option<(Asked, u8)> {
        let (fields, sum_bytes) = payload.split_first_chunk::<7>()?;
        if sum_bytes.get(..8)? != sum(fields).to_be_bytes() {
            return None;
        }
        let [kind, client, target, family, is_tcp, high, low] = *fields;
        let name = |place: u8| NAMES.get(usize::from(place)).copied();
        let sport = u16::from_be_bytes([high, low]);
        let (client, target) = (name(client)?, name(target)?);
        Some((Asked { client, target, family, is_tcp: is_tcp == 1, sport }, kind))
    }
}

/// Whether no bit of the headers flipped together with one of the checksum that hides it, as
/// happens once in some ten thousand damaged packets: an address that nobody has, a port that is
/// one bit off.
fn is_plausible(packet: &Packet, asked: Asked) -> bool {
    let FlowKey { src, dst, sport, dport, .. } = packet.key;
    let is_known = |addr: &Addr| name_of(addr) != addr.to_string();
    let ports = [asked.sport, asked.target_port(), asked.server_port()];
    let is_off = |found: u16| {
        !ports.contains(&found) && ports.iter().any(|port| (port ^ found).count_ones() == 1)
    };
    is_known(&src) && is_known(&dst) && !is_off(sport) && !is_off(dport)
}

/// FNV-1a.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn write(
    port: &str,
    asked: Asked,
    (src, sport): (Addr, u16),
    (dst, dport): (Addr, u16),
    flags: u8,
    kind: u8,
) -> Vec<u8> {
    let (src_mac, dst_mac) = arriving_macs(port_of(if port == "client" { "out" } else { port }));
    let path = Path { dst_mac, src_mac, src, dst, sport, dport, ttl: 64 };
    let mut buffer = vec![0; 200];
    let payload = asked.bytes(kind);
    let len = match asked.is_tcp {
        true => emit_tcp(&mut buffer, &path, &Segment { flags, ..Segment::default() }, &payload),
        false => emit_udp(&mut buffer, &path, &payload),
    };
    buffer.truncate(len.expect("it fits"));
    buffer
}

/// What a kernel would accept: whole, with right checksums, sent to a MAC of one host.
fn intact(frame: &[u8]) -> Option<(Packet, &[u8])> {
    let Ok(Parsed::Ip(packet)) = parse(frame) else { return None };
    let headers = &packet.headers;
    let is_good = headers.fragment == Fragment::None
        && !headers.has_extensions
        && checksum::l3_is_valid(frame, headers)
        && checksum::l4_is_valid(frame, headers)
        && !rewrite::dst_mac(frame).is_multicast();
    let header = match packet.key.protocol {
        protocol::TCP => 20,
        protocol::UDP => 8,
        _ => 0,
    };
    let payload = frame.get(usize::from(headers.l4) + header..headers.end.into())?;
    is_good.then_some((packet, payload))
}
