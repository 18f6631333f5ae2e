//! Last stage: the transform of the flow, applied.

use weir_packet::{decrement_ttl, set_macs};
use weir_tables::{Adjacency, PortId};

use super::{Context, GATEWAY_MAC};
use crate::batch::{Packet, Stage, Verdict};
use crate::drops::Drop;
use crate::flow::Action;

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
/// goes down, unless it comes from or goes to the host itself.
#[inline]
pub(super) fn route<'a>(
    packet: &mut Packet,
    adjacency: u16,
    cx: &Context<'a>,
) -> Result<&'a Adjacency, Drop> {
    let row = cx.snapshot.adjacency(adjacency).ok_or(Drop::NoRoute)?;
    if packet.frame.len() > usize::from(row.mtu) + ETHERNET_BYTES {
        return Err(Drop::TooBig);
    }
    let is_host = packet.port == PortId::HOST || cx.snapshot.host_adjacency() == Some(adjacency);
    if !is_host && decrement_ttl(packet.frame.bytes_mut(), &packet.headers).is_err() {
        return Err(Drop::TtlExpired);
    }
    Ok(row)
}

#[inline]
fn apply(packet: &mut Packet, flow: u32, cx: &mut Context<'_>) {
    let length = packet.frame.len();
    cx.flows.note_packet(flow, length, packet.headers.tcp_flags, cx.now_ms);
    let entry = cx.flows.entry(flow);
    let Some(action) = entry.action() else {
        packet.verdict = Verdict::Drop(Drop::NoRoute);
        return;
    };
    packet.verdict = match action {
        Action::Transmit { adjacency } => match route(packet, adjacency, cx) {
            Ok(row) => {
                entry.translation.apply(packet.frame.bytes_mut(), &packet.headers);
                address(packet, row);
                Verdict::Transmit { adjacency }
            }
            Err(reason) => Verdict::Drop(reason),
        },
        Action::ToKernel { adjacency } => {
            entry.translation.apply(packet.frame.bytes_mut(), &packet.headers);
            if let Some(row) = cx.snapshot.adjacency(adjacency) {
                address(packet, row);
            }
            Verdict::Transmit { adjacency }
        }
        Action::Deliver { worker } => {
            entry.translation.apply(packet.frame.bytes_mut(), &packet.headers);
            Verdict::Handoff { worker, stage: Stage::Deliver }
        }
        Action::Direct { worker } => Verdict::Handoff { worker, stage: Stage::Direct },
        Action::Chosen { worker } => {
            Verdict::Handoff { worker, stage: Stage::Chosen { backend: entry.backend() } }
        }
    };
}
