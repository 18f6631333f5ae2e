//! First stage: bytes to offsets and a flow key.

use weir_packet::{Addr, IcmpKind, Parsed, checksum, parse};
use weir_tables::PortId;

use super::classify::port_is_pod;
use super::{Context, gateway_addr, local};
use crate::batch::{Checksum, Packet, Stage, Verdict};
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
                packet.headers = parsed.headers;
                // As words: the compiler moves an address through memory, written in halves and
                // read whole, and the processor waits for that.
                packet.key = zerocopy::transmute!(parsed.key.words());
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
