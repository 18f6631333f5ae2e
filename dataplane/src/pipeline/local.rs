//! What pods ask their gateway: ARP and neighbour discovery, on trunk ports only.

use weir_packet::{IcmpKind, arp, nd};
use weir_tables::PortId;

use super::{Context, GATEWAY_MAC};
use crate::batch::{Packet, Verdict};
use crate::drops::Drop;

/// Answers an ARP request of a pod: every address but the pod's own is behind the gateway.
pub(super) fn answer_arp(packet: &mut Packet, cx: &mut Context<'_>) {
    let Some(endpoint) = cx.snapshot.endpoint_at(packet.port) else {
        packet.verdict = Verdict::Drop(Drop::NotIp);
        return;
    };
    let Some(request) = arp::parse_request(packet.frame.bytes()) else {
        packet.verdict = Verdict::Drop(Drop::LinkLocal);
        return;
    };
    // A probe for its own address (RFC 5227) must find nobody.
    if endpoint.addresses.contains(&request.target) {
        packet.verdict = Verdict::Drop(Drop::LinkLocal);
        return;
    }
    packet.frame.set_len(arp::FRAME_LEN);
    packet.verdict = match arp::emit_reply(packet.frame.bytes_mut(), &request, GATEWAY_MAC) {
        Some(len) => {
            packet.frame.set_len(len);
            Verdict::Reply
        }
        None => Verdict::Drop(Drop::HeaderMalformed),
    };
}

/// Decides ICMPv6 that belongs to the link: solicitations of pods are answered, the rest ends here.
pub(super) fn answer_nd(packet: &mut Packet, cx: &mut Context<'_>) {
    let is_nd = matches!(
        packet.headers.icmp,
        IcmpKind::NeighbourSolicitation
            | IcmpKind::NeighbourAdvertisement
            | IcmpKind::RouterSolicitation
    );
    if !is_nd || packet.port == PortId::UPLINK || packet.port == PortId::HOST {
        return;
    }
    packet.verdict = Verdict::Drop(Drop::LinkLocal);
    let Some(endpoint) = cx.snapshot.endpoint_at(packet.port) else { return };
    let Some(asked) = nd::parse_solicitation(packet.frame.bytes(), &packet.headers) else { return };
    // Duplicate address detection (RFC 4862 5.4) and questions about itself must find nobody.
    if asked.source.is_unspecified() || endpoint.addresses.contains(&asked.target) {
        return;
    }
    let capacity = packet.frame.capacity();
    packet.frame.set_len(capacity);
    if let Some(len) = nd::emit_advertisement(packet.frame.bytes_mut(), &asked, GATEWAY_MAC, true) {
        packet.frame.set_len(len);
        packet.verdict = Verdict::Reply;
    }
}
