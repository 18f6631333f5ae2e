//! ICMP errors: they belong to the flow of the packet that they quote, whoever sends them
//! (RFC 5508 section 4), and are translated with it, outside and inside.
//!
//! The key of an error is that of the flow in the direction in which the error travels, so every
//! stage finds the flow, its director and its worker as for any packet of it. Errors teach nothing:
//! no entry is made for them, and none lives longer by them.

use weir_packet::{Translation, parse_quote};
use weir_tables::PortId;

use super::classify::{self, Refusal};
use super::revalidate::{self, Judgement};
use super::{Context, learn, policy};
use crate::batch::{Packet, Verdict};
use crate::drops::Drop;
use crate::flow::Action;

/// Gives an error the key of its flow. One that quotes nothing useful keeps its own, without ports.
pub(super) fn adopt_key(packet: &mut Packet) {
    if let Some(quote) = parse_quote(packet.frame.bytes(), &packet.headers) {
        packet.key = quote.key.reversed();
    }
}

/// Takes the flow of an error, if the sender may send it and the flow still holds.
#[cold]
pub(super) fn take(packet: &mut Packet, number: u32, cx: &mut Context<'_>) {
    let entry = cx.flows.entry(number);
    let is_director = matches!(entry.action(), Some(Action::Direct { .. }));
    if is_director && !packet.stage.is_first_hand() {
        return;
    }
    if entry.revision != cx.snapshot.revision() {
        match revalidate::judge(entry, cx) {
            Judgement::Keep { .. } if !policy::still_admits(packet, number, cx) => return,
            Judgement::Keep { .. } => {}
            // Another worker may have the flow now, as where a pod's address moved to another pod.
            Judgement::Forget => return cx.flows.remove(number),
            Judgement::Refuse => {
                packet.verdict = Verdict::Drop(Drop::IcmpUnrelated);
                return;
            }
        }
    }
    // Pods are at the ends of ways, not on them, and between two of them nobody else is.
    let (came, comes) = (PortId(cx.flows.entry(number).in_port), packet.port);
    let ends_at_pod = classify::port_is_pod(came) || classify::port_is_pod(comes);
    if ends_at_pod && came != comes && comes != PortId::HOST {
        packet.verdict = Verdict::Drop(Drop::IcmpUnrelated);
        return;
    }
    let sender = learn::sender(packet);
    let checked = classify::check_source(packet.port, packet.stage, &sender, cx.snapshot);
    if let Err(Refusal::Drop(reason)) = checked {
        packet.verdict = Verdict::Drop(reason);
        return;
    }
    packet.verdict = Verdict::Flow { flow: number };
}

/// Translates an error as its flow's packets are, in both places.
pub(super) fn translate(translation: &Translation, packet: &mut Packet) {
    let (key, headers) = (packet.key, packet.headers);
    if let Some(quote) = parse_quote(packet.frame.bytes(), &headers) {
        translation.apply_to_error(&key, packet.frame.bytes_mut(), &headers, &quote);
    }
}
