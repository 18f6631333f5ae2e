//! First stage: bytes to offsets and a flow key.

use weir_packet::{Addr, Headers, IcmpKind, Parsed, checksum, parse};
use weir_tables::PortId;

use super::classify::port_is_pod;
use super::{Context, gateway_addr, local};
use crate::batch::{Packet, Stage, Verdict};
use crate::device::Checksum;
use crate::drops::Drop;

/// Parses every packet and starts loading its flow's bucket.
pub(super) fn run(packets: &mut [Packet], cx: &mut Context<'_>) {
    for packet in packets {
        if let Stage::Transmit { adjacency } = packet.stage {
            packet.verdict = Verdict::Transmit { adjacency };
            continue;
        }
        match parse(packet.frame.bytes()) {
            Ok(Parsed::Ip(parsed)) => {
                copy_headers(&mut packet.headers, &parsed.headers);
                packet.key = parsed.key;
                packet.hash = cx.flows.hash(&parsed.key);
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

/// Field by field: they were written one by one, and a wide load would have to wait for that.
#[inline]
fn copy_headers(to: &mut Headers, from: &Headers) {
    let &Headers { l3, l4, end, family, protocol, tcp_flags, fragment, .. } = from;
    let &Headers { ttl, icmp, has_extensions, fragment_id, .. } = from;
    (to.l3, to.l4, to.end) = (l3, l4, end);
    (to.family, to.protocol, to.tcp_flags) = (family, protocol, tcp_flags);
    (to.fragment, to.ttl, to.icmp) = (fragment, ttl, icmp);
    (to.has_extensions, to.fragment_id) = (has_extensions, fragment_id);
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

/// Whether a link-local address is neither the gateway, which speaks for hairpin flows, nor the host.
fn ends_at_link(dst: &Addr, cx: &Context<'_>) -> bool {
    dst.is_link_local() && *dst != gateway_addr(dst.is_v4()) && !cx.snapshot.is_host_addr(dst)
}
