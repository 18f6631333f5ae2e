//! First stage: bytes to offsets and a flow key.

use weir_packet::dsr::GENEVE_PORT;
use weir_packet::{Addr, Fragment, IcmpKind, Mac, Parsed, checksum, parse, protocol};
use weir_tables::PortId;

use super::classify::port_is_pod;
use super::{Context, fragment, gateway_addr, local, related, tunnel};
use crate::batch::{Checksum, Packet, Stage, Verdict};
use crate::drops::Drop;

/// Parses every packet and starts loading its flow's bucket.
pub(super) fn run(packets: &mut [Packet], cx: &mut Context<'_>) {
    for packet in packets {
        if let Stage::Transmit { adjacency } = packet.stage {
            packet.verdict = Verdict::Transmit { adjacency };
            continue;
        }
        if is_for_another_machine(packet, cx) {
            packet.verdict = Verdict::Drop(Drop::OtherHost);
            continue;
        }
        match parse(packet.frame.bytes()) {
            Ok(Parsed::Ip(parsed)) => {
                packet.headers = parsed.headers;
                // As words: the compiler moves an address through memory, written in halves and
                // read whole, and the processor waits for that.
                packet.key = zerocopy::transmute!(parsed.key.words());
                packet.hash = cx.flows.hash(&parsed.key);
                if is_unusual(packet) {
                    find_flow(packet, cx);
                    packet.hash = cx.flows.hash(&packet.key);
                }
                cx.flows.prefetch(packet.hash);
                look_closer(packet, cx);
            }
            Ok(Parsed::Arp) => local::answer_arp(packet, cx),
            Ok(Parsed::Vlan | Parsed::Other(_)) => packet.verdict = Verdict::Drop(Drop::NotIp),
            Err(malformed) => {
                cx.counters.count_malformed(malformed);
                packet.verdict = Verdict::Drop(malformed.into());
            }
        }
    }
}

/// Whether a frame of the link outside came only because a switch floods what it does not know: the
/// machine that it is for decides on it, and two answers would be one too many.
#[inline]
fn is_for_another_machine(packet: &Packet, cx: &Context<'_>) -> bool {
    if packet.port != PortId::UPLINK || !packet.stage.is_first_hand() {
        return false;
    }
    let dst = packet.frame.bytes().first_chunk().copied().map(Mac);
    dst.is_some_and(|dst| !dst.is_multicast() && cx.snapshot.is_foreign_mac(&dst))
}

/// Whether the packet's own headers may not say which flow it belongs to.
#[inline]
fn is_unusual(packet: &Packet) -> bool {
    let headers = &packet.headers;
    headers.fragment != Fragment::None
        || headers.icmp == IcmpKind::Error
        || headers.has_extensions
        || (packet.key.dport == GENEVE_PORT && headers.protocol == protocol::UDP)
        || matches!(headers.protocol, tunnel::IPV4_INSIDE | tunnel::IPV6_INSIDE)
}

/// Gives such a packet the key of its flow, or its verdict.
#[cold]
fn find_flow(packet: &mut Packet, cx: &mut Context<'_>) {
    if packet.port == PortId::UPLINK && packet.stage.is_first_hand() {
        tunnel::open(packet, cx);
    }
    if packet.verdict == Verdict::Undecided && packet.headers.fragment != Fragment::None {
        fragment::match_ports(packet, cx);
    }
    if packet.verdict == Verdict::Undecided && packet.headers.icmp == IcmpKind::Error {
        match packet.port != PortId::HOST && is_of_loopback(packet) {
            // Its flow would not show that.
            true => packet.verdict = Verdict::Drop(Drop::Loopback),
            false => related::adopt_key(packet),
        }
    }
}

fn is_of_loopback(packet: &Packet) -> bool {
    packet.key.src.is_loopback() || packet.key.dst.is_loopback()
}

/// The rare cases that must not reach the flow table.
#[inline]
fn look_closer(packet: &mut Packet, cx: &mut Context<'_>) {
    if packet.meta.checksum == Checksum::MaybePartial
        && checksum::l4_is_partial(packet.frame.bytes(), &packet.headers)
    {
        checksum::complete_l4(packet.frame.bytes_mut(), &packet.headers);
    }
    if packet.headers.icmp != IcmpKind::None {
        local::answer_nd(packet, cx);
    }
    let dst = &packet.key.dst;
    // The host's kernel speaks on its link by itself, too.
    if packet.port != PortId::UPLINK
        && packet.verdict == Verdict::Undecided
        && (dst.is_multicast()
            || dst.is_broadcast()
            || port_is_pod(packet.port) && ends_at_link(dst, cx))
    {
        packet.verdict = Verdict::Drop(Drop::LinkLocal);
    }
}

/// Whether a link-local address is neither the gateway, which speaks for hairpin flows, nor the
/// host.
fn ends_at_link(dst: &Addr, cx: &Context<'_>) -> bool {
    dst.is_link_local() && *dst != gateway_addr(dst.is_v4()) && !cx.snapshot.is_host_addr(dst)
}
