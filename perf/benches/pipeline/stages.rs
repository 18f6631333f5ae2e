//! The stages by themselves, over 256 frames that stay in the L1 cache.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use weir_dataplane::flow::{Action, Direction, FlowEntry, FlowTable, Timeouts};
use weir_dataplane::pipeline::GATEWAY_MAC;
use weir_packet::{
    Addr, FlowKey, Mac, Parsed, Translation, checksum, decrement_ttl, parse, protocol, set_macs,
};
use weir_perf::memory::{self, FRAME_BYTES};
use weir_perf::samples::{Group, Options, time_per_item_ns};

const FRAMES: usize = 256;
/// Passes over the frames per sample.
const PASSES: usize = 2000;
const SEED: u64 = 0x7765_6972;

type Frame = [u8; FRAME_BYTES];

pub fn measure(options: &Options) {
    parsers(options);
    rewriting(options);
    look_ups(options);
}

fn frames(family: u8) -> Vec<Frame> {
    let frame = |flow| memory::packet(flow, family).1.try_into().expect("of this length");
    (0..FRAMES as u32).map(frame).collect()
}

/// Nanoseconds per frame of `work`.
fn over(frames: &[Frame], mut work: impl FnMut(&Frame)) -> f64 {
    time_per_item_ns(PASSES * frames.len(), || {
        for _ in 0..PASSES {
            frames.iter().for_each(|frame| work(black_box(frame)));
        }
    })
}

/// The own parser beside a well-kept one, both from a frame to the same flow key.
fn parsers(options: &Options) {
    let heading = "parse, 64-byte UDP frames";
    if !options.wants(heading) {
        return;
    }
    let mut group = Group::new(heading, "ns per packet");
    for family in [4, 6] {
        let frames = frames(family);
        for frame in &frames {
            let Ok(Parsed::Ip(ours)) = parse(frame) else { panic!("an IP packet") };
            assert_eq!(Some(ours.key), key_by_etherparse(frame), "both read the same");
        }
        let copy = frames.clone();
        group.case(format!("weir_packet, IPv{family}"), move || {
            over(&copy, |frame| {
                black_box(&parse(frame));
            })
        });
        group.case(format!("etherparse, IPv{family}"), move || {
            over(&frames, |frame| {
                black_box(&key_by_etherparse(frame));
            })
        });
    }
    let mut table = group.measure(options);
    for family in [4, 6] {
        let rows = (format!("etherparse, IPv{family}"), format!("weir_packet, IPv{family}"));
        let name = format!("etherparse / weir_packet, IPv{family}");
        table.derive(&name, (&rows.0, &rows.1), |theirs, ours| theirs / ours);
    }
    table.print();
}

fn key_by_etherparse(frame: &[u8]) -> Option<FlowKey> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let v4 = |addr: Ipv4Addr| Addr::from_v4(addr.octets());
    let v6 = |addr: Ipv6Addr| Addr::from_v6(addr.octets());
    let (src, dst, family) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header();
            (v4(ip.source_addr()), v4(ip.destination_addr()), 4)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header();
            (v6(ip.source_addr()), v6(ip.destination_addr()), 6)
        }
        _ => return None,
    };
    let (sport, dport, protocol) = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            (udp.source_port(), udp.destination_port(), protocol::UDP)
        }
        Some(TransportSlice::Tcp(tcp)) => {
            (tcp.source_port(), tcp.destination_port(), protocol::TCP)
        }
        _ => return None,
    };
    Some(FlowKey { src, dst, sport, dport, protocol, family, zone: 0 })
}

/// What changes in every packet of a service flow.
fn rewriting(options: &Options) {
    let heading = "rewrite: destination, port, TTL, MACs and checksums, 64-byte UDP frames";
    if !options.wants(heading) {
        return;
    }
    let mut group = Group::new(heading, "ns per packet");
    for family in [4, 6] {
        let frames = frames(family);
        let packets: Vec<_> = frames
            .iter()
            .map(|frame| match parse(frame) {
                Ok(Parsed::Ip(packet)) => packet,
                other => panic!("{other:?}"),
            })
            .collect();
        let backend = if family == 4 { "10.1.0.9" } else { "fd01::9" };
        let backend: Addr = backend.parse().expect("an address");
        let translation = Translation::new(&packets[0].key, None, Some((backend, 5353)));
        let (copied, parsed) = (frames.clone(), packets.clone());
        group.case(format!("copy of the frame, IPv{family}"), move || {
            over(&copied, |frame| {
                black_box(&mut { *frame });
            })
        });
        group.case(format!("copy and rewrite, IPv{family}"), move || {
            let mut next = parsed.iter().cycle();
            over(&frames, |frame| {
                let packet = next.next().expect("a cycle has no end");
                let mut bytes = *frame;
                decrement_ttl(&mut bytes, &packet.headers).expect("a fresh TTL");
                translation.apply(&mut bytes, &packet.headers);
                set_macs(&mut bytes, Mac([2; 6]), GATEWAY_MAC);
                black_box(&mut bytes);
            })
        });
        let frames = self::frames(family);
        group.case(format!("look for a partial checksum, IPv{family}"), move || {
            let mut next = packets.iter().cycle();
            over(&frames, |frame| {
                let packet = next.next().expect("a cycle has no end");
                black_box(checksum::l4_is_partial(frame, &packet.headers));
            })
        });
    }
    let mut table = group.measure(options);
    for family in [4, 6] {
        let rows =
            (format!("copy and rewrite, IPv{family}"), format!("copy of the frame, IPv{family}"));
        table.derive(&format!("rewrite, IPv{family}"), (&rows.0, &rows.1), |a, b| a - b);
    }
    table.print();
}

/// Keys looked up in an order that has nothing to do with where their entries lie.
fn look_ups(options: &Options) {
    for (flows, name) in [(1_000, "1 k"), (1_000_000, "1 M")] {
        let heading = format!("flow look-up, {name} entries, IPv4");
        if !options.wants(&heading) {
            continue;
        }
        let mut table = FlowTable::in_memory(flows, SEED, Timeouts::default());
        let mut keys: Vec<FlowKey> = (0..flows).map(|flow| memory::key(flow, 4)).collect();
        for key in &keys {
            let action = Action::Transmit { adjacency: 1 };
            let entry = FlowEntry::new(*key, 1, Translation::NONE, action);
            let hash = table.hash(key);
            table.learn(Direction { entry, hash }, None).expect("room for all");
        }
        keys.shuffle(&mut SmallRng::seed_from_u64(SEED));
        let passes = (1_usize << 20).div_ceil(keys.len());
        let items = passes * keys.len();
        let mut group = Group::new(&heading, "ns per look-up");
        let look_up = |key: &FlowKey, hash| {
            let number = table.find(key, hash).expect("it was learned");
            black_box(table.entry(number).revision);
        };
        group.case("hash", || {
            time_per_item_ns(items, || {
                for key in (0..passes).flat_map(|_| &keys) {
                    black_box(table.hash(black_box(key)));
                }
            })
        });
        group.case("hash and find, one by one", || {
            time_per_item_ns(items, || {
                for key in (0..passes).flat_map(|_| &keys) {
                    look_up(key, table.hash(key));
                }
            })
        });
        group.case("hash, prefetch and find, 64 together", || {
            let mut hashes = [0; 64];
            time_per_item_ns(items, || {
                for chunk in (0..passes).flat_map(|_| keys.chunks(64)) {
                    for (key, hash) in chunk.iter().zip(&mut hashes) {
                        *hash = table.hash(key);
                        table.prefetch(*hash);
                    }
                    let mut candidates = [None; 64];
                    let rows = hashes[..chunk.len()].iter().zip(&mut candidates);
                    rows.for_each(|(hash, candidate)| *candidate = table.candidate(*hash));
                    for ((key, hash), candidate) in chunk.iter().zip(&hashes).zip(candidates) {
                        let number = table.find_from(candidate, key, *hash).expect("learned");
                        black_box(table.entry(number).revision);
                    }
                }
            })
        });
        group.measure(options).print();
    }
}
