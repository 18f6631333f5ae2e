//! The node's own addresses: which of their packets are ours.

use aya_ebpf::programs::XdpContext;
use weir_xdp_redirect::{L4Port, Settings};

use crate::{maps, packet::read, steer::Otherwise};

pub const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// What follows the IP headers.
#[derive(Clone, Copy)]
pub enum L4 {
    /// A fragment, the first included: its whole may be ours.
    Fragment,
    /// A transport header.
    At {
        /// IP protocol number.
        protocol: u8,
        /// Where it starts in the frame.
        offset: usize,
        /// Where the packet ends in the frame, by its own length field.
        end: usize,
    },
    /// Headers that lie or end too early.
    Malformed,
    /// More extension headers than are worth following.
    TooDeep,
}

/// Whether a packet for the node is ours.
pub enum Verdict {
    /// Ours, and what holds while no worker runs.
    Ours(Otherwise),
    /// The kernel's.
    Kernel,
    /// Nobody's.
    Malformed,
}

/// Judges a packet to an address of the node; `icmp` is the protocol number of ICMP in its IP
/// version, and in the other one it means nothing.
#[inline(always)]
pub fn judge(ctx: &XdpContext, settings: &Settings, icmp: u8, l4: L4) -> Verdict {
    let (protocol, offset, end) = match l4 {
        L4::Fragment => return Verdict::Ours(Otherwise::NODE),
        L4::TooDeep => return Verdict::Kernel,
        L4::Malformed => return Verdict::Malformed,
        L4::At { protocol, offset, end } => (protocol, offset, end),
    };
    let is_icmp = protocol == icmp;
    if !is_icmp && protocol != TCP && protocol != UDP && protocol != SCTP {
        return Verdict::Kernel;
    }
    if offset + 8 > end {
        return Verdict::Malformed;
    }
    let Some(header) = read::<8>(ctx, offset) else { return Verdict::Malformed };
    if is_icmp {
        return judge_icmp(settings, icmp, header);
    }
    let l4_port_be = [header[2], header[3]];
    if maps::is_node_l4_port(&L4Port { protocol, zero: 0, l4_port_be }) {
        Verdict::Ours(Otherwise::NODE_PORT)
    } else if settings.is_snat_port(u16::from_be_bytes(l4_port_be)) {
        Verdict::Ours(Otherwise::SNAT)
    } else {
        Verdict::Kernel
    }
}

/// Errors may quote a flow of ours; an echo reply is ours if its identifier is in the SNAT range,
/// as a masqueraded pod's ping chose it there. ICMPv6 types below 128 are errors, and those not
/// known go to the flow they quote as well (RFC 4443 section 2.4).
#[inline(always)]
fn judge_icmp(settings: &Settings, icmp: u8, header: [u8; 8]) -> Verdict {
    let kind = header[0];
    let (is_error, is_echo_reply) = if icmp == ICMP {
        (matches!(kind, 3 | 4 | 5 | 11 | 12), kind == 0)
    } else {
        (kind < 128, kind == 129)
    };
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    if is_error {
        Verdict::Ours(Otherwise::NODE)
    } else if is_echo_reply && settings.is_snat_port(identifier) {
        Verdict::Ours(Otherwise::SNAT)
    } else {
        Verdict::Kernel
    }
}
