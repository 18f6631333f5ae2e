//! Refusals that the sender is told about, and pings of service addresses.

use weir_packet::reply::{
    IcmpError, write_echo_reply, write_icmp_error, write_tcp_abort, write_tcp_reset,
};
use weir_packet::{Addr, Parsed, parse, protocol};
use weir_tables::Egress;

use super::Context;
use super::classify::HOST_WORKER;
use crate::batch::{Packet, Stage, Verdict};
use crate::drops::Drop;

/// Drops a packet for `reason` and writes the refusal over it: a reset for TCP, else ICMP. Where no
/// refusal may be sent, or enough were sent lately, it is a plain drop.
pub(super) fn tell(packet: &mut Packet, reason: Drop, cx: &mut Context<'_>) {
    let (source, error) = (packet.key.dst, error_for(reason));
    answer(packet, reason, cx, |buffer, headers| match headers.protocol {
        protocol::TCP => write_tcp_reset(buffer, headers),
        _ => write_icmp_error(buffer, headers, error, source),
    });
}

/// Drops a packet for `reason` and tells its sender as a router of the way does, whatever its
/// protocol. Also packets that may be fragmented: weir does not fragment, and their sender can.
#[cold]
pub(super) fn tell_router(
    packet: &mut Packet,
    reason: Drop,
    error: IcmpError,
    cx: &mut Context<'_>,
) {
    let own = cx.snapshot.snat_addr(packet.headers.family == 4);
    let source = own.unwrap_or(packet.key.dst);
    answer(packet, reason, cx, |buffer, headers| write_icmp_error(buffer, headers, error, source));
}

fn answer(
    packet: &mut Packet,
    reason: Drop,
    cx: &mut Context<'_>,
    write: impl FnOnce(&mut [u8], &weir_packet::Headers) -> Option<usize>,
) {
    packet.verdict = Verdict::Drop(reason);
    if !may_answer(cx) {
        cx.counters.count_drop(Drop::ReplyRateLimited);
        cx.counters.count_originated();
        return;
    }
    let back_to = packet.key.src;
    let length = write_over(packet, write);
    let is_delivered = packet.stage == Stage::Deliver && is_by_policy(reason);
    let send = if is_delivered { hand_back } else { send_back };
    if length.is_some() && send(packet, &back_to, cx) {
        cx.counters.count_drop(reason);
        cx.counters.count_originated();
    }
}

/// Makes a TCP segment of a connection that `reason` ends a reset for its receiver, in the sender's
/// name; false where it cannot be one, and is as it was.
pub(super) fn abort(packet: &mut Packet, reason: Drop, cx: &mut Context<'_>) -> bool {
    if write_over(packet, write_tcp_abort).is_none() {
        return false;
    }
    let Ok(Parsed::Ip(reset)) = parse(packet.frame.bytes()) else { return false };
    packet.headers = reset.headers;
    cx.counters.count_drop(reason);
    cx.counters.count_originated();
    true
}

/// Answers a ping of a service address.
pub(super) fn answer_echo(packet: &mut Packet, cx: &mut Context<'_>) {
    packet.verdict = Verdict::Drop(Drop::ReplyRateLimited);
    if !may_answer(cx) {
        return;
    }
    packet.verdict = Verdict::Drop(Drop::NoFrontend);
    let back_to = packet.key.src;
    if write_over(packet, write_echo_reply).is_some() {
        send_back(packet, &back_to, cx);
    }
}

/// Answers are limited, so that nobody makes us flood those whose addresses he forges.
fn may_answer(cx: &mut Context<'_>) -> bool {
    let may = *cx.answers_left > 0;
    *cx.answers_left -= u32::from(may);
    may
}

fn error_for(reason: Drop) -> IcmpError {
    match reason {
        Drop::NoRoute => IcmpError::NoRoute,
        Drop::NeedsSnat => IcmpError::HostUnreachable,
        _ if is_by_policy(reason) => IcmpError::Prohibited,
        _ => IcmpError::PortUnreachable,
    }
}

/// Whether a pod's rules are the reason: they are asked after the translation.
pub(super) fn is_by_policy(reason: Drop) -> bool {
    matches!(reason, Drop::PolicyDenied | Drop::PolicyClosed | Drop::PolicyL7)
}

/// Runs a writer over the frame's whole buffer; the frame keeps its length where nothing was
/// written.
fn write_over(
    packet: &mut Packet,
    write: impl FnOnce(&mut [u8], &weir_packet::Headers) -> Option<usize>,
) -> Option<usize> {
    let before = packet.frame.len();
    packet.frame.set_len(packet.frame.capacity().max(before));
    let length = write(packet.frame.bytes_mut(), &packet.headers);
    packet.frame.set_len(length.unwrap_or(before));
    length
}

/// Sends a written answer where its destination is, from this worker.
fn send_back(packet: &mut Packet, to: &Addr, cx: &mut Context<'_>) -> bool {
    let adjacency = match cx.snapshot.resolve(to) {
        Egress::Pod { adjacency, .. }
        | Egress::Host { adjacency }
        | Egress::Uplink { adjacency } => Some(adjacency),
        Egress::Unresolved(_) | Egress::Kernel => cx.snapshot.host_adjacency(),
        Egress::NoRoute => None,
    };
    let Some(adjacency) = adjacency else { return false };
    packet.verdict = Verdict::Transmit { adjacency };
    true
}

/// Sends the answer to a delivered packet by the worker that it came from, as one of the pod that
/// was asked: that worker has translated the packet, and so it does the answer.
fn hand_back(packet: &mut Packet, to: &Addr, cx: &mut Context<'_>) -> bool {
    let worker = match cx.snapshot.resolve(to) {
        Egress::Pod { worker, .. } => worker,
        Egress::Host { .. } => HOST_WORKER,
        _ => cx.me,
    };
    let Egress::Pod { port, .. } = cx.snapshot.resolve(&packet.key.dst) else { return false };
    if worker == cx.me {
        return send_back(packet, to, cx);
    }
    packet.port = port;
    packet.verdict = Verdict::Handoff { worker, stage: Stage::Deliver };
    true
}
