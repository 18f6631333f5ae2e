//! Last stage: the transform of the flow, applied.

use weir_packet::reply::IcmpError;
use weir_packet::{IcmpKind, Translation, clamp_mss, decrement_ttl, protocol, set_macs, tcp_flags};
use weir_tables::{Adjacency, BackendAddr, PortId};

use super::{Context, GATEWAY_MAC, refuse, related, tunnel};
use crate::batch::{Packet, Stage, Verdict};
use crate::drops::Drop;
use crate::flow::{Action, flow_flags};

/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// Applies transforms; packets without a flow get their MACs.
pub(super) fn run(packets: &mut [Packet], cx: &mut Context<'_>) {
    for packet in packets {
        match packet.verdict {
            Verdict::Flow { flow } => apply(packet, flow, cx),
            Verdict::Transmit { adjacency } if !matches!(packet.stage, Stage::Transmit { .. }) => {
                // Forwarded without a flow (a fragment, an ICMP error), or an answer of ours.
                if let Some(row) = cx.snapshot.adjacency(adjacency) {
                    address(packet, row);
                }
            }
            _ => {}
        }
    }
}

/// Writes the MACs of an adjacency. Towards a trunk the gateway is the sender.
fn address(packet: &mut Packet, row: &Adjacency) {
    let src = if row.link == weir_tables::Link::Trunk { GATEWAY_MAC } else { row.src_mac };
    set_macs(packet.frame.bytes_mut(), row.dst_mac, src);
}

/// What a router does to every packet before it leaves by an adjacency: the MTU holds, and the TTL
/// goes down, unless it comes from or goes to the host itself. Otherwise the sender is told.
#[inline]
fn route<'a>(packet: &mut Packet, adjacency: u16, cx: &mut Context<'a>) -> Option<&'a Adjacency> {
    let Some(row) = cx.snapshot.adjacency(adjacency) else {
        packet.verdict = Verdict::Drop(Drop::NoRoute);
        return None;
    };
    if packet.frame.len() > usize::from(row.mtu) + ETHERNET_BYTES {
        refuse::tell_router(packet, Drop::TooBig, IcmpError::TooBig { mtu: row.mtu }, cx);
        return None;
    }
    let is_host = packet.port == PortId::HOST || cx.snapshot.host_adjacency() == Some(adjacency);
    if !is_host && decrement_ttl(packet.frame.bytes_mut(), &packet.headers).is_err() {
        refuse::tell_router(packet, Drop::TtlExpired, IcmpError::TimeExceeded, cx);
        return None;
    }
    Some(row)
}

#[inline]
fn apply(packet: &mut Packet, flow: u32, cx: &mut Context<'_>) {
    let is_error = packet.headers.icmp == IcmpKind::Error;
    if !is_error {
        let length = packet.frame.len();
        cx.flows.note_packet(flow, length, packet.headers.tcp_flags, cx.now_ms);
    }
    let entry = cx.flows.entry(flow);
    let Some(action) = entry.action() else {
        packet.verdict = Verdict::Drop(Drop::NoRoute);
        return;
    };
    if let Action::Transmit { adjacency } = action
        && !is_error
        && !entry.has(flow_flags::FROM_DSR)
    {
        // Almost every packet.
        if let Some(row) = route(packet, adjacency, cx) {
            let entry = cx.flows.entry(flow);
            entry.translation.apply(packet.frame.bytes_mut(), &packet.headers);
            address(packet, row);
            packet.verdict = Verdict::Transmit { adjacency };
            return;
        }
    } else {
        let (translation, flags) = (entry.translation, entry.flags);
        carry_out(packet, &translation, action, flags, cx);
    }
    if let Verdict::Transmit { adjacency } = packet.verdict
        && let Some(row) = cx.snapshot.adjacency(adjacency)
    {
        address(packet, row);
    }
}

/// Carries out the action of a flow with these bits of `flow_flags`; the caller writes the MACs of
/// what is to be transmitted.
pub(super) fn carry_out(
    packet: &mut Packet,
    translation: &Translation,
    action: Action,
    flags: u16,
    cx: &mut Context<'_>,
) {
    let verdict = match action {
        Action::Transmit { adjacency } => {
            let Some(&row) = route(packet, adjacency, cx) else { return };
            translate(packet, translation);
            if flags & flow_flags::FROM_DSR != 0 {
                clamp_mss_of_opening(packet, &row, cx);
            }
            Verdict::Transmit { adjacency }
        }
        Action::ToKernel { adjacency } => {
            translate(packet, translation);
            Verdict::Transmit { adjacency }
        }
        Action::Deliver { worker } => {
            translate(packet, translation);
            Verdict::Handoff { worker, stage: Stage::Deliver }
        }
        Action::Direct { worker } => Verdict::Handoff { worker, stage: Stage::Direct },
        Action::Chosen { worker } => {
            let after = translation.key_after(&packet.key);
            let backend = BackendAddr { addr: after.dst, l4_port: after.dport };
            Verdict::Handoff { worker, stage: Stage::Chosen { backend } }
        }
        Action::Tunnel { adjacency, remote } => {
            return tunnel::send(packet, translation, adjacency, remote, cx);
        }
        Action::Pinned => Verdict::Drop(Drop::NoRoute),
    };
    packet.verdict = verdict;
}

fn translate(packet: &mut Packet, translation: &Translation) {
    match packet.headers.icmp {
        IcmpKind::Error => related::translate(translation, packet),
        _ => translation.apply(packet.frame.bytes_mut(), &packet.headers),
    }
}

/// What a backend offers as its MSS must fit the way from the client, which is a tunnel.
fn clamp_mss_of_opening(packet: &mut Packet, row: &Adjacency, cx: &Context<'_>) {
    if packet.headers.protocol == protocol::TCP
        && packet.headers.tcp_flags & tcp_flags::SYN != 0
        && row.link == weir_tables::Link::Uplink
    {
        let mss_max = tunnel::mss_max(packet, row, cx);
        clamp_mss(packet.frame.bytes_mut(), &packet.headers, mss_max);
    }
}
