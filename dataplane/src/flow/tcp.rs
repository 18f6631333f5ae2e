//! Enough TCP state to expire well: who has spoken, who has said goodbye. No windows, no sequence
//! numbers.
//!
//! Both directions of a flow hold the same facts, seen from their own side.

use weir_packet::tcp_flags::{ACK, FIN, RST, SYN};

use super::Timeouts;

/// The client went on after an answer: both sides have meant it. Less would let a flood of forged
/// SYNs, whose answers come by as well, look like connections.
pub const ESTABLISHED: u8 = 1;
/// This direction sent a FIN.
pub const FIN_OWN: u8 = 2;
/// The other direction sent a FIN.
pub const FIN_PEER: u8 = 4;
/// Either side sent a reset.
pub const RESET: u8 = 8;

/// The answering side has spoken; of a flow whose answers do not come by here: the client has
/// opened it properly, or gone on once.
pub const ANSWERED: u8 = 16;

/// The state of a new flow after its first packet.
pub fn first(flags: u8, is_alone: bool) -> u8 {
    let opened = if is_alone && is_opening(flags) { ANSWERED } else { 0 };
    opened | own(flags)
}

/// What a packet adds to the state of its own direction.
#[inline]
pub fn own(flags: u8) -> u8 {
    let mut bits = 0;
    if flags & FIN != 0 {
        bits |= FIN_OWN;
    }
    if flags & RST != 0 {
        bits |= RESET;
    }
    bits
}

/// The same facts as the other direction sees them.
pub fn mirrored(state: u8) -> u8 {
    let mut mirror = state & (ESTABLISHED | ANSWERED | RESET);
    if state & FIN_OWN != 0 {
        mirror |= FIN_PEER;
    }
    if state & FIN_PEER != 0 {
        mirror |= FIN_OWN;
    }
    mirror
}

/// The state after a packet of a direction, which answers (`is_reply`) or is the only one that
/// comes by here (`is_alone`).
#[inline]
pub fn next(state: u8, flags: u8, is_reply: bool, is_alone: bool) -> u8 {
    let mut next = state | own(flags);
    if is_reply {
        next |= ANSWERED;
    } else if is_continuing(flags) {
        if state & ANSWERED != 0 {
            next |= ESTABLISHED;
        } else if is_alone {
            next |= ANSWERED;
        }
    }
    next
}

/// Whether a connection is over: a reset, or goodbyes of both sides.
pub fn is_closing(state: u8) -> bool {
    state & RESET != 0 || state & (FIN_OWN | FIN_PEER) == FIN_OWN | FIN_PEER
}

/// Whether the sender may open a new connection on the same ports: the old one is over, or the
/// sender has said goodbye. A director sees no more than that of a connection's end.
pub fn is_reusable(state: u8) -> bool {
    is_closing(state) || state & FIN_OWN != 0
}

/// Whether the packet goes on with a connection, which only its answer makes possible.
#[inline]
pub fn is_continuing(flags: u8) -> bool {
    flags & (SYN | ACK | RST) == ACK
}

/// Whether the packet opens a connection.
#[inline]
pub fn is_opening(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// How long a flow in this state lives without a packet.
pub fn timeout_ms(state: u8, timeouts: &Timeouts) -> u32 {
    if is_closing(state) {
        timeouts.tcp_closing_ms
    } else if state & ESTABLISHED != 0 {
        timeouts.tcp_established_ms
    } else {
        timeouts.tcp_syn_ms
    }
}

/// The state's name, for people.
pub fn name(state: u8) -> &'static str {
    if state & RESET != 0 {
        "reset"
    } else if is_closing(state) {
        "closed"
    } else if state & (FIN_OWN | FIN_PEER) != 0 {
        "half-closed"
    } else if state & ESTABLISHED != 0 {
        "established"
    } else {
        "syn"
    }
}
