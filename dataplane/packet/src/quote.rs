//! ICMP errors, by the packet that they quote (RFC 5508 section 4): finding it and translating it.
//!
//! An error belongs to the flow of the packet that it is about, whichever router sent it. What it
//! quotes is the packet as it was where the error arose, so that for the receiver the quote has to
//! be translated back, together with the addresses outside.

use crate::addr::Addr;
use crate::checksum::{self, Delta};
use crate::flow_key::FlowKey;
use crate::headers::{Fragment, Headers, IcmpKind};
use crate::parse::{check_ipv4_options, icmp_kind, is_extension, walk_extensions};
use crate::protocol;
use crate::rewrite::Translation;
use crate::wire::*;

/// The packet inside an ICMP error: what it was, and where it lies in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The flow of the quoted packet, in its own direction and as quoted; `zone` 0. The error
    /// itself travels with the packets of `key.reversed()`.
    pub key: FlowKey,
    /// `None` or `First`: a later fragment has no ports, and its quote is not a [`Quote`].
    pub fragment: Fragment,
    /// Start of the quoted IP header, in bytes from the start of the frame.
    pub l3: u16,
    /// Start of the quoted L4 header, of which at least 8 bytes are there.
    pub l4: u16,
}

/// Of the L4 header that every error quotes: RFC 792. Enough for ports and echo identifiers.
const L4_MIN: usize = 8;

/// Finds the packet that an ICMP or ICMPv6 error is about.
///
/// `None` where the frame is no such error (a redirect is none), where the quote is too short, of
/// another family, a later fragment or an error itself, and where the error is not addressed to the
/// quoted packet's source: nobody else can have a flow with it, so it is forged.
///
/// The quoted lengths are not looked at, because a quote is usually cut.
#[cold]
pub fn parse_quote(frame: &[u8], headers: &Headers) -> Option<Quote> {
    if headers.icmp != IcmpKind::Error {
        return None;
    }
    let l3 = usize::from(headers.l4) + ICMP_LEN;
    let datagram = frame.get(l3..headers.end.into())?;
    let outer = frame.get(headers.l3.into()..)?;
    let is_v4 = headers.family == 4;
    let (src, dst, protocol, fragment, header_len) =
        if is_v4 { parse_ipv4(datagram)? } else { parse_ipv6(datagram)? };
    let is_to_sender = if is_v4 {
        outer.get(16..20)? == src.last_octets()
    } else {
        outer.get(24..40)? == src.octets()
    };
    let l4 = header_at::<L4_MIN>(datagram, header_len)?;
    let (mut sport, mut dport) = (0, 0);
    match (protocol, headers.family) {
        (protocol::TCP | protocol::UDP | protocol::SCTP, _) => {
            (sport, dport) = (u16_at(l4, 0), u16_at(l4, 2));
        }
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {
            match icmp_kind(headers.family, l4[0], fragment) {
                IcmpKind::EchoRequest => sport = u16_at(l4, 4),
                IcmpKind::EchoReply => dport = u16_at(l4, 4),
                // RFC 1122 section 3.2.2: never an error about an error.
                IcmpKind::Error | IcmpKind::Redirect => return None,
                _ => {}
            }
        }
        _ => {}
    }
    let family = headers.family;
    is_to_sender.then_some(Quote {
        key: FlowKey { src, dst, sport, dport, protocol, family, zone: 0 },
        fragment,
        // The casts hold: both lie before `headers.end`.
        l3: l3 as u16,
        l4: (l3 + header_len) as u16,
    })
}

/// Source, destination, protocol, fragment, and the length of all headers before L4.
type Network = (Addr, Addr, u8, Fragment, usize);

fn parse_ipv4(datagram: &[u8]) -> Option<Network> {
    let ip = datagram.first_chunk::<IPV4_LEN>()?;
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let options = datagram.get(IPV4_LEN..header_len)?;
    let field = u16_at(ip, 6);
    if ip[0] >> 4 != 4 || field & 0x1fff != 0 || check_ipv4_options(options).is_err() {
        return None;
    }
    let fragment = if field & 0x2000 == 0 { Fragment::None } else { Fragment::First };
    let (src, dst) = (Addr::from_v4(octets_at(ip, 12)), Addr::from_v4(octets_at(ip, 16)));
    Some((src, dst, ip[9], fragment, header_len))
}

fn parse_ipv6(datagram: &[u8]) -> Option<Network> {
    let (ip, payload) = datagram.split_first_chunk::<IPV6_LEN>()?;
    let (src, dst) = (Addr::from_v6(octets_at(ip, 8)), Addr::from_v6(octets_at(ip, 24)));
    if ip[0] >> 4 != 6 || src.is_v4() || dst.is_v4() {
        return None;
    }
    if !is_extension(ip[6]) {
        return Some((src, dst, ip[6], Fragment::None, IPV6_LEN));
    }
    let found = walk_extensions(ip[6], payload, true).ok()?;
    let is_later = found.fragment == Fragment::Later;
    (!is_later).then_some((src, dst, found.protocol, found.fragment, IPV6_LEN + found.len))
}

impl Translation {
    /// Translates an ICMP error together with its quote, as [`Translation::apply`] translates the
    /// packets of `flow`, for which `self` was made: the flow in whose direction the error travels,
    /// which is `quote.key.reversed()`.
    ///
    /// The error gets the flow's new destination, and its new source where the flow changes it, as
    /// answers do: behind the translation nobody need have a way to the router that sent it, and if
    /// that router forwards its own error, it drops it as coming from itself. Where the flow keeps
    /// its source, so does the error. In the quote the two ends are the other way round. All
    /// checksums are corrected by difference, a quoted one only where the quote reaches that far,
    /// and a quoted SCTP checksum not at all: it is a CRC over what is cut off.
    ///
    /// `headers` and `quote` must come from parsing this frame.
    #[cold]
    pub fn apply_to_error(
        &self,
        flow: &FlowKey,
        frame: &mut [u8],
        headers: &Headers,
        quote: &Quote,
    ) {
        // Only what belongs to the datagram is under its checksum.
        let Some(frame) = frame.get_mut(..usize::from(headers.end)) else { return };
        if self.flags == 0 {
            return;
        }
        let to = self.key_after(flow);
        let outside = write_outside(frame, headers, flow, &to);
        let before = sum_of_quote(frame, quote);
        self.write_quoted_l3(frame, quote, &to);
        self.write_quoted_l4(frame, quote, &to);
        let inside = Delta::of_sums(before, sum_of_quote(frame, quote));
        if let Some(icmp) = header_at_mut::<ICMP_LEN>(frame, headers.l4.into()) {
            // ICMP over IPv4 does not cover addresses.
            let delta = if headers.family == 4 { inside } else { inside.and(outside) };
            put_u16(icmp, 2, checksum::apply(u16_at(icmp, 2), delta));
        }
    }

    /// The quote has both ends of the flow the other way round: the same words change as in the
    /// flow's packets, so the flow's differences hold.
    fn write_quoted_l3(&self, frame: &mut [u8], quote: &Quote, to: &FlowKey) {
        let l3 = usize::from(quote.l3);
        if quote.key.family == 4 {
            let Some(ip) = header_at_mut::<IPV4_LEN>(frame, l3) else { return };
            ip[12..16].copy_from_slice(&to.dst.last_octets());
            ip[16..20].copy_from_slice(&to.src.last_octets());
            put_u16(ip, 10, checksum::apply(u16_at(ip, 10), Delta(self.l3_delta)));
        } else {
            let Some(ip) = header_at_mut::<IPV6_LEN>(frame, l3) else { return };
            ip[8..24].copy_from_slice(&to.dst.octets());
            ip[24..40].copy_from_slice(&to.src.octets());
        }
    }

    fn write_quoted_l4(&self, frame: &mut [u8], quote: &Quote, to: &FlowKey) {
        let Some(l4) = header_at_mut::<L4_MIN>(frame, quote.l4.into()) else { return };
        let delta = Delta(self.l4_delta);
        match (quote.key.protocol, quote.key.family) {
            (protocol::UDP, _) => {
                write_ports(l4, to);
                put_u16(l4, 6, checksum::apply_udp(u16_at(l4, 6), delta));
            }
            (protocol::SCTP, _) => write_ports(l4, to),
            (protocol::TCP, _) => {
                write_ports(l4, to);
                if let Some(check) = header_at_mut::<2>(frame, usize::from(quote.l4) + 16) {
                    put_u16(check, 0, checksum::apply(u16_at(check, 0), delta));
                }
            }
            (protocol::ICMP, 4) => write_echo(l4, quote, to, Delta::NONE),
            (protocol::ICMPV6, 6) => write_echo(l4, quote, to, delta),
            _ => {}
        }
    }
}

fn write_ports(l4: &mut [u8; L4_MIN], to: &FlowKey) {
    put_u16(l4, 0, to.dport);
    put_u16(l4, 2, to.sport);
}

fn write_echo(l4: &mut [u8; L4_MIN], quote: &Quote, to: &FlowKey, addresses: Delta) {
    let identifier = match icmp_kind(quote.key.family, l4[0], quote.fragment) {
        IcmpKind::EchoRequest => to.dport,
        IcmpKind::EchoReply => to.sport,
        _ => u16_at(l4, 4),
    };
    let delta = addresses.and(Delta::of_word(u16_at(l4, 4), identifier));
    put_u16(l4, 4, identifier);
    put_u16(l4, 2, checksum::apply(u16_at(l4, 2), delta));
}

/// Writes the addresses of the error itself, and says what that changes.
fn write_outside(frame: &mut [u8], headers: &Headers, flow: &FlowKey, to: &FlowKey) -> Delta {
    let l3 = usize::from(headers.l3);
    if headers.family == 4 {
        let Some(ip) = header_at_mut::<IPV4_LEN>(frame, l3) else { return Delta::NONE };
        let before = checksum::sum(&ip[12..20]);
        if to.src != flow.src {
            ip[12..16].copy_from_slice(&to.src.last_octets());
        }
        ip[16..20].copy_from_slice(&to.dst.last_octets());
        let delta = Delta::of_sums(before, checksum::sum(&ip[12..20]));
        put_u16(ip, 10, checksum::apply(u16_at(ip, 10), delta));
        delta
    } else {
        let Some(ip) = header_at_mut::<IPV6_LEN>(frame, l3) else { return Delta::NONE };
        let before = checksum::sum(&ip[8..40]);
        if to.src != flow.src {
            ip[8..24].copy_from_slice(&to.src.octets());
        }
        ip[24..40].copy_from_slice(&to.dst.octets());
        Delta::of_sums(before, checksum::sum(&ip[8..40]))
    }
}

/// The sum of all that may change in the quote. It starts at an even offset of the ICMP message;
/// where its end is odd, that is the message's end.
fn sum_of_quote(frame: &[u8], quote: &Quote) -> u64 {
    let end = frame.len().min(usize::from(quote.l4) + TCP_LEN);
    frame.get(usize::from(quote.l3)..end).map_or(0, checksum::sum)
}
