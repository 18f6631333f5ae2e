//! Fragments: the first names the ports, and the others follow it.
//!
//! All fragments of a datagram meet at one worker first, whichever queues they came in by, and pass
//! every worker in the order in which they passed that one. So each worker sees the first before
//! the others, under the same addresses, and remembers its ports ([`crate::flow::Fragments`]).

use weir_packet::Fragment;
use weir_tables::{PortId, WorkerId};

use super::Context;
use crate::batch::{Packet, Stage, Verdict};
use crate::flow::Fragments;

/// Gives a later fragment the ports of its datagram, where its first was seen.
pub(super) fn match_ports(packet: &mut Packet, cx: &mut Context<'_>) {
    if packet.port == PortId::UPLINK && packet.stage == Stage::Arrived {
        let hash = Fragments::hash(&packet.key, &packet.headers);
        let worker = WorkerId((hash % u64::from(cx.workers)) as u8);
        if worker != cx.me {
            packet.verdict = Verdict::Handoff { worker, stage: Stage::Gathered };
            return;
        }
    }
    let (key, headers) = (&mut packet.key, &packet.headers);
    match headers.fragment {
        Fragment::First => cx.flows.fragments.note(key, headers, packet.port.0, cx.now_ms),
        Fragment::Later => {
            if let Some(ports) = cx.flows.fragments.ports(key, headers, packet.port.0, cx.now_ms) {
                (key.sport, key.dport) = ports;
            }
        }
        Fragment::None => {}
    }
}
