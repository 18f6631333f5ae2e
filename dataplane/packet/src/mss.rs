//! The maximum segment size that a TCP end announces (RFC 9293 section 3.7.1), lowered in passing.

use crate::checksum::{self, Delta};
use crate::headers::{Fragment, Headers};
use crate::protocol;
use crate::wire::*;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;

/// Lowers the MSS option of a SYN or SYN-ACK to `mss_max` bytes of TCP payload, with the checksum
/// by difference, and says whether anything changed.
///
/// Never raises and never adds: without the option a sender keeps to the default of 536 or 1220
/// bytes. Malformed options stay, and all behind them.
#[inline]
pub fn clamp_mss(frame: &mut [u8], headers: &Headers, mss_max: u16) -> bool {
    headers.tcp_flags & tcp_flags::SYN != 0 && clamp_syn(frame, headers, mss_max)
}

#[cold]
fn clamp_syn(frame: &mut [u8], headers: &Headers, mss_max: u16) -> bool {
    let (l4, end) = (usize::from(headers.l4), usize::from(headers.end));
    if headers.protocol != protocol::TCP || headers.fragment == Fragment::Later {
        return false;
    }
    let Some(segment) = frame.get_mut(l4..end) else { return false };
    let Some(data_at) = segment.get(12).map(|octet| usize::from(octet >> 4) * 4) else {
        return false;
    };
    let Some(tcp) = segment.get_mut(..data_at) else { return false };
    let (mut at, mut change) = (TCP_LEN, None);
    // At most 40 bytes, and each round takes at least one.
    while let Some(&kind) = tcp.get(at) {
        let len = match kind {
            END => break,
            NOP => 1,
            _ => tcp.get(at + 1).map_or(0, |len| usize::from(*len)),
        };
        if kind != NOP && len < 2 || at + len > tcp.len() {
            break;
        }
        if kind == MSS
            && len == MSS_LEN
            && let Some(value) = header_at_mut::<2>(tcp, at + 2)
            && u16_at(value, 0) > mss_max
        {
            let delta = lower(value, mss_max, !at.is_multiple_of(2));
            change = Some(change.unwrap_or(Delta::NONE).and(delta));
        }
        at += len;
    }
    let Some(change) = change else { return false };
    if let Some(check) = header_at_mut::<2>(tcp, 16) {
        put_u16(check, 0, checksum::apply(u16_at(check, 0), change));
    }
    true
}

fn lower(value: &mut [u8; 2], mss_max: u16, is_odd: bool) -> Delta {
    let old = u16_at(value, 0);
    put_u16(value, 0, mss_max);
    // At an odd offset each byte is the other half of its word (RFC 1071 section 2B).
    if is_odd {
        Delta::of_word(old.swap_bytes(), mss_max.swap_bytes())
    } else {
        Delta::of_word(old, mss_max)
    }
}
