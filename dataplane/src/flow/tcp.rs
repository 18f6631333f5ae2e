//! Enough TCP state to expire well: who has spoken, who has said goodbye. No windows, no sequence
//! numbers.
//!
//! Both directions of a flow hold the same facts, seen from their own side.

use weir_packet::tcp_flags::{ACK, FIN, RST, SYN};

use super::Timeouts;

/// Both directions have been seen, or the flow was picked up in its middle.
pub const ESTABLISHED: u8 = 1;
/// This direction sent a FIN.
pub const FIN_OWN: u8 = 2;
/// The other direction sent a FIN.
pub const FIN_PEER: u8 = 4;
/// Either side sent a reset.
pub const RESET: u8 = 8;

/// The state of a new flow after its first packet.
pub fn first(flags: u8) -> u8 {
    let start = if flags & SYN != 0 { 0 } else { ESTABLISHED };
    start | own(flags)
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
    let mut mirror = state & (ESTABLISHED | RESET);
    if state & FIN_OWN != 0 {
        mirror |= FIN_PEER;
    }
    if state & FIN_PEER != 0 {
        mirror |= FIN_OWN;
    }
    mirror
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
