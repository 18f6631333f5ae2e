//! What the fuzzers run; `cargo test` runs the same over the committed corpora.
//!
//! | target | input | holds |
//! |---|---|---|
//! | [`parser`] | a frame | no panic; offsets lie inside; writers keep their length |
//! | [`pipeline`] | frames on ports, changes of the tables | no panic; balanced; pools whole |
//! | [`state_protocol`] | an `Update` in wire form | no panic; a resync heals |

#[path = "../../tests/common/mod.rs"]
mod common;
mod state;

use weir_packet::Addr;
use weir_packet::reply::{
    IcmpError, write_echo_reply, write_icmp_error, write_tcp_abort, write_tcp_reset,
};
use weir_packet::{
    Packet, Parsed, Translation, checksum, clamp_mss, decrement_ttl, dsr, nd, parse, parse_quote,
};
use weir_tables::BackendState::{Active, Maintenance, Terminating};
use weir_tables::{
    DsrDispatch, Forwarding, Frontend, Object, ObjectRef, PortId, Prefix, SnatPorts,
};

use common::node::{PODS, SERVICES, addr, backend_sets, frontends, network, pod, pod_name};
use common::world::{Layout, World};
pub use state::state_protocol;

/// Parses a frame, and lets everything that writes by its headers write.
pub fn parser(frame: &[u8]) {
    let Ok(Parsed::Ip(packet)) = parse(frame) else { return };
    let (headers, key) = (packet.headers, packet.key);
    assert!(headers.l3 < headers.l4 && headers.l4 <= headers.end);
    assert!(usize::from(headers.end) <= frame.len());
    assert_eq!(key.src.family(), key.dst.family());
    assert_eq!(key.reversed().reversed(), key);
    let mut copy = frame.to_vec();
    let is_valid = checksum::l4_is_valid(&copy, &headers);
    let other = Translation::new(&key, Some((key.dst, 7)), Some((key.src, 9)));
    other.apply(&mut copy, &headers);
    let _ = decrement_ttl(&mut copy, &headers);
    if let Ok(Parsed::Ip(after)) = parse(&copy) {
        assert_eq!((after.key.src, after.key.dst), (key.dst, key.src));
        let is_sctp = headers.protocol == weir_packet::protocol::SCTP;
        assert!(is_sctp || !is_valid || checksum::l4_is_valid(&copy, &after.headers));
    }
    type Writer = fn(&mut [u8], &weir_packet::Headers) -> Option<usize>;
    let writers: [Writer; 4] =
        [write_tcp_reset, write_tcp_abort, write_echo_reply, |buffer, headers| {
            let Ok(Parsed::Ip(packet)) = parse(buffer) else { return None };
            write_icmp_error(buffer, headers, IcmpError::PortUnreachable, packet.key.dst)
        }];
    for write in writers {
        let mut buffer = frame.to_vec();
        if let Some(len) = write(&mut buffer, &headers) {
            assert!(len <= buffer.len());
            assert!(matches!(parse(&buffer[..len]), Ok(Parsed::Ip(_))));
        }
    }
    let _ = nd::parse_solicitation(frame, &headers);
    clamp_mss(&mut frame.to_vec(), &headers, 1000);
    quote(frame, &packet);
    dispatch(frame, &packet);
}

/// An ICMP error whose quote is translated, there and back.
fn quote(frame: &[u8], packet: &Packet) {
    let Some(quote) = parse_quote(frame, &packet.headers) else { return };
    let flow = quote.key.reversed();
    assert_eq!(flow.dst, packet.key.dst);
    let there = Translation::new(&flow, Some((flow.dst, 7)), Some((flow.src, 9)));
    let to = there.key_after(&flow);
    let mut copy = frame.to_vec();
    there.apply_to_error(&flow, &mut copy, &packet.headers, &quote);
    let is_valid = checksum::l4_is_valid(frame, &packet.headers);
    assert_eq!(is_valid, checksum::l4_is_valid(&copy, &packet.headers));
    let after = parse_quote(&copy, &packet.headers).expect("it was one");
    assert_eq!((after.key.src, after.key.dst), (to.dst, to.src));
    assert_eq!((after.l3, after.l4, after.fragment), (quote.l3, quote.l4, quote.fragment));
    Translation::between(&to, &flow).apply_to_error(&to, &mut copy, &packet.headers, &after);
    assert_eq!(parse_quote(&copy, &packet.headers), Some(quote));
}

/// Direct server return: the service read and taken out, and put in again.
fn dispatch(frame: &[u8], packet: &Packet) {
    let headers = &packet.headers;
    if let Some(geneve) = dsr::parse_geneve(frame, headers) {
        let _ = parse(&frame[geneve.inner_at..]);
    }
    if let Some(ipip) = dsr::parse_ipip(frame, headers) {
        let mut copy = frame.to_vec();
        let cut = dsr::decapsulate_ipip(&mut copy, &ipip);
        let _ = parse(&copy[cut..]);
    }
    let order = dsr::ByteOrder::Network;
    let Some(service) = dsr::parse_option(frame, headers, order) else { return };
    let mut copy = frame.to_vec();
    let cut = dsr::remove_option(&mut copy, headers);
    assert_eq!(cut, dsr::option_overhead(headers.family));
    let Ok(Parsed::Ip(bare)) = parse(&copy[cut..]) else { return };
    assert_eq!(bare.key, packet.key);
    if let Some(headers) = dsr::insert_option(&mut copy, &bare.headers, service, order) {
        assert_eq!(dsr::parse_option(&copy, &headers, order), Some(service));
    }
}

/// Reads steps off the input: frames that come in by any port, and changes of the tables.
pub fn pipeline(input: &[u8]) {
    let Some((&start, mut rest)) = input.split_first() else { return };
    let workers = [1, 2, 4][usize::from(start) % 3];
    let layout = Layout { salt: u32::from(start >> 4), seed: start.into(), ..Layout::of(workers) };
    let mut world = World::new(Layout { flows: 32, ..layout });
    for _ in 0..64 {
        let Some((&[kind, value, len], after)) = rest.split_first_chunk::<3>() else { break };
        rest = after;
        if kind < 192 {
            let (frame, after) = rest.split_at(usize::from(len).min(rest.len()));
            rest = after;
            world.inject(port(kind), &completed(frame, value));
            if value & 8 == 0 {
                world.settle();
                world.take_sent();
            }
        } else {
            change(&mut world, kind, value, len);
        }
    }
    world.settle();
    world.take_sent();
    world.take_asked();
}

fn port(kind: u8) -> PortId {
    match kind % 8 {
        0 | 1 => PortId::UPLINK,
        2 => PortId::HOST,
        3 => PortId(999),
        pod => PortId(PODS[usize::from(pod) - 4].1),
    }
}

/// As it is, or with lengths and checksums that let it through the parser.
fn completed(frame: &[u8], value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if value & 1 != 0 && frame.len() > 20 {
        let payload = frame.len() - 14;
        match frame[12..14] {
            [8, 0] => frame[16..18].copy_from_slice(&(payload as u16).to_be_bytes()),
            [0x86, 0xdd] if payload >= 40 => {
                frame[18..20].copy_from_slice(&(payload as u16 - 40).to_be_bytes());
            }
            _ => {}
        }
    }
    frame
}

/// What a node can be told about itself.
fn configuration(world: &World, value: u8, more: u8) -> Object {
    let mut node = world.tables.node().clone();
    node.masquerade = value & 1 != 0;
    let prefix = |name, length| Prefix::new(addr(name, 4), length).expect("not too long");
    node.cluster_ranges = if value & 2 != 0 { vec![prefix("router", 24)] } else { Vec::new() };
    node.dsr_dispatch =
        [DsrDispatch::Geneve, DsrDispatch::Ipip, DsrDispatch::Option][usize::from(value >> 2) % 3];
    node.snat_ports = SnatPorts { min: 49152, max: 49152 + u16::from(more) };
    Object::Node(node)
}

/// A frontend with more to it than addresses.
fn special(mut row: Frontend, value: u8) -> Object {
    row.affinity_s = u32::from(value >> 6);
    row.forwarding = if value & 1 != 0 { Forwarding::Dsr } else { Forwarding::Snat };
    row.source_ranges.is_deny = value & 2 != 0;
    if value & 4 != 0 {
        row.source_ranges.ranges.push(Prefix::of_addr(addr("client", 4)));
    }
    if value & 8 != 0 {
        row.key.addr = Addr::unspecified(row.key.addr.is_v4());
    }
    if value & 16 != 0 {
        row.external_backend_set = Some(row.backend_set.replace(":53", ":80"));
    }
    Object::Frontend(row)
}

/// One change of the tables.
fn change(world: &mut World, kind: u8, value: u8, more: u8) {
    let (name, port) = PODS[usize::from(value) % PODS.len()];
    let (service, _) = SERVICES[usize::from(more) % SERVICES.len()];
    match kind % 10 {
        8 => world.upsert([configuration(world, value, more)]),
        9 => world.upsert(frontends(service).into_iter().map(|row| special(row, value))),
        0 => world.delete(&ObjectRef::Endpoint(pod_name(name, world.layout.salt))),
        1 => world.upsert([pod(name, world.layout.salt, PortId(port))]),
        2 => {
            for frontend in frontends(service) {
                world.tables.delete(&ObjectRef::Frontend(frontend.key));
            }
            world.publish();
        }
        3 => world.upsert(frontends(service).into_iter().map(weir_tables::Object::Frontend)),
        4 | 5 => {
            let states = [Active, Terminating, Maintenance];
            let places = PODS.iter().map(|pod| pod.0).chain(["remote", "host", "docker", "near"]);
            let rows: Vec<_> = places
                .enumerate()
                .filter(|(at, _)| value >> at & 1 != 0)
                .map(|(_, name)| (name, states[usize::from(more >> 4) % 3]))
                .collect();
            let mut sets = backend_sets(service, &rows);
            for set in &mut sets {
                let Object::BackendSet { backends, .. } = set else { continue };
                for backend in backends {
                    let family = backend.addr.addr.family();
                    backend.node = (more & 1 != 0).then(|| addr("router", family));
                }
            }
            world.upsert(sets);
        }
        6 => {
            let mut network = network();
            if value & 1 != 0 {
                network.neighbours.clear();
            }
            if value & 2 != 0 {
                network.host = None;
            }
            if value & 4 != 0 {
                network.routes.clear();
            }
            world.tables.set_network(network);
            world.publish();
        }
        _ => world.clock.advance_ns(u64::from(value) << 30),
    }
}
