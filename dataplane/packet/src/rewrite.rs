//! Rewriting in place: addresses, ports, TTL and MACs, with checksums by difference.
//!
//! Everything that can be computed once per flow is computed once per flow ([`Translation::new`]);
//! per packet there are only copies of fixed size and two additions.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr, Mac};
use crate::checksum::{self, Delta};
use crate::crc32c;
use crate::flow_key::FlowKey;
use crate::headers::{Fragment, Headers, IcmpKind};
use crate::protocol;
use crate::wire::*;

/// What to write into every packet of one direction of a flow. Plain data, as [`FlowKey`] is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Translation {
    /// Addresses and ports as they shall be, also where they stay as they are.
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
    /// Difference of the IPv4 header checksum, see [`Delta`].
    pub l3_delta: u16,
    /// Difference of a checksum that covers addresses and, where there are any, ports. An ICMP
    /// identifier is not in it: which messages have one is seen in the packet.
    pub l4_delta: u16,
    /// What changes: [`Translation::SRC`] and the like. 0: nothing does, and the rest is 0 too.
    pub flags: u16,
}

const _: () = assert!(size_of::<Translation>() == 42);

impl Translation {
    pub const SRC: u16 = 1;
    pub const DST: u16 = 2;
    pub const SPORT: u16 = 4;
    pub const DPORT: u16 = 8;

    /// Changes nothing.
    pub const NONE: Translation = Translation {
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        sport: 0,
        dport: 0,
        l3_delta: 0,
        l4_delta: 0,
        flags: 0,
    };

    /// Gives packets of `key` a new source, a new destination, or both. New addresses must be of
    /// the key's family. Ports are ignored for protocols without.
    ///
    /// An ICMP echo has its identifier as in [`FlowKey`]: the source port of a request, the
    /// destination port of a reply. The other port is ignored.
    pub fn new(
        key: &FlowKey,
        new_src: Option<(Addr, u16)>,
        new_dst: Option<(Addr, u16)>,
    ) -> Translation {
        let (src, sport) = new_src.unwrap_or((key.src, key.sport));
        let (dst, dport) = new_dst.unwrap_or((key.dst, key.dport));
        Translation::between(key, &FlowKey { src, dst, sport, dport, ..*key })
    }

    /// Turns packets of `from` into packets of `to`, which must have the same family and protocol.
    pub fn between(from: &FlowKey, to: &FlowKey) -> Translation {
        debug_assert_eq!((from.family, from.protocol), (to.family, to.protocol));
        debug_assert_eq!((from.src.is_v4(), from.dst.is_v4()), (to.src.is_v4(), to.dst.is_v4()));
        let has_ports = protocol::has_ports(from.protocol);
        let (sport, dport) =
            if has_ports { (to.sport, to.dport) } else { identifiers_between(from, to) };
        let mut flags = 0;
        let mut addresses = Delta::NONE;
        if from.src != to.src {
            flags |= Translation::SRC;
            addresses = addresses.and(Delta::of_bytes(&from.src.octets(), &to.src.octets()));
        }
        if from.dst != to.dst {
            flags |= Translation::DST;
            addresses = addresses.and(Delta::of_bytes(&from.dst.octets(), &to.dst.octets()));
        }
        let mut all = addresses;
        if from.sport != sport {
            flags |= Translation::SPORT;
            all = all.and(Delta::of_word(from.sport, sport));
        }
        if from.dport != dport {
            flags |= Translation::DPORT;
            all = all.and(Delta::of_word(from.dport, dport));
        }
        if flags == 0 {
            return Translation::NONE;
        }
        let (l3_delta, l4_delta) = (addresses.0, if has_ports { all.0 } else { addresses.0 });
        Translation { src: to.src, dst: to.dst, sport, dport, l3_delta, l4_delta, flags }
    }

    /// The translation of the opposite direction, where `key` is what `self` was made for: it turns
    /// replies to the translated packets into replies to the original ones.
    #[must_use]
    pub fn for_replies(&self, key: &FlowKey) -> Translation {
        Translation::between(&self.key_after(key).reversed(), &key.reversed())
    }

    /// The key that a packet of `key` has after [`Translation::apply`].
    #[inline]
    #[must_use]
    pub fn key_after(&self, key: &FlowKey) -> FlowKey {
        let pick = |flag: u16| self.flags & flag != 0;
        FlowKey {
            src: if pick(Translation::SRC) { self.src } else { key.src },
            dst: if pick(Translation::DST) { self.dst } else { key.dst },
            sport: if pick(Translation::SPORT) { self.sport } else { key.sport },
            dport: if pick(Translation::DPORT) { self.dport } else { key.dport },
            ..*key
        }
    }

    /// Writes what changes and corrects the checksums by difference: a wrong checksum stays wrong.
    /// A partial one must have been completed before ([`checksum::complete_l4`]).
    ///
    /// `headers` must come from parsing this frame. A later fragment gets addresses only.
    #[inline]
    pub fn apply(&self, frame: &mut [u8], headers: &Headers) {
        if self.flags != 0 {
            self.apply_l3(frame, headers);
            if headers.fragment != Fragment::Later {
                self.apply_l4(frame, headers);
            }
        }
    }

    #[inline]
    fn apply_l3(&self, frame: &mut [u8], headers: &Headers) {
        let l3 = usize::from(headers.l3);
        if headers.family == 4 {
            let Some(ip) = header_at_mut::<IPV4_LEN>(frame, l3) else { return };
            if self.flags & Translation::SRC != 0 {
                ip[12..16].copy_from_slice(&self.src.last_octets());
            }
            if self.flags & Translation::DST != 0 {
                ip[16..20].copy_from_slice(&self.dst.last_octets());
            }
            put_u16(ip, 10, checksum::apply(u16_at(ip, 10), Delta(self.l3_delta)));
        } else {
            let Some(ip) = header_at_mut::<IPV6_LEN>(frame, l3) else { return };
            if self.flags & Translation::SRC != 0 {
                ip[8..24].copy_from_slice(&self.src.octets());
            }
            if self.flags & Translation::DST != 0 {
                ip[24..40].copy_from_slice(&self.dst.octets());
            }
        }
    }

    #[inline]
    fn apply_l4(&self, frame: &mut [u8], headers: &Headers) {
        let l4 = usize::from(headers.l4);
        let delta = Delta(self.l4_delta);
        match headers.protocol {
            protocol::TCP => {
                let Some(tcp) = header_at_mut::<TCP_LEN>(frame, l4) else { return };
                self.write_ports(tcp);
                put_u16(tcp, 16, checksum::apply(u16_at(tcp, 16), delta));
            }
            protocol::UDP => {
                let Some(udp) = header_at_mut::<UDP_LEN>(frame, l4) else { return };
                self.write_ports(udp);
                put_u16(udp, 6, checksum::apply_udp(u16_at(udp, 6), delta));
            }
            protocol::SCTP => self.apply_sctp(frame, headers),
            // ICMP over IPv4 does not cover addresses.
            protocol::ICMP if headers.family == 4 => {
                self.apply_icmp(frame, headers, Delta::NONE);
            }
            protocol::ICMPV6 if headers.family == 6 => self.apply_icmp(frame, headers, delta),
            _ => {}
        }
    }

    #[inline]
    fn write_ports<const N: usize>(&self, header: &mut [u8; N]) {
        if self.flags & Translation::SPORT != 0 {
            put_u16(header, 0, self.sport);
        }
        if self.flags & Translation::DPORT != 0 {
            put_u16(header, 2, self.dport);
        }
    }

    #[cold]
    fn apply_icmp(&self, frame: &mut [u8], headers: &Headers, addresses: Delta) {
        let Some(icmp) = header_at_mut::<ICMP_LEN>(frame, headers.l4.into()) else { return };
        let identifier = match headers.icmp {
            IcmpKind::EchoRequest if self.flags & Translation::SPORT != 0 => self.sport,
            IcmpKind::EchoReply if self.flags & Translation::DPORT != 0 => self.dport,
            _ => u16_at(icmp, 4),
        };
        if addresses == Delta::NONE && identifier == u16_at(icmp, 4) {
            return;
        }
        let delta = addresses.and(Delta::of_word(u16_at(icmp, 4), identifier));
        put_u16(icmp, 4, identifier);
        put_u16(icmp, 2, checksum::apply(u16_at(icmp, 2), delta));
        // An echo reply may be nothing but zeros, the one sum whose complement is not 0.
        if *icmp == [0; ICMP_LEN] {
            let end = usize::from(headers.end);
            let message = frame.get_mut(headers.l4.into()..end).unwrap_or_default();
            if message.iter().all(|byte| *byte == 0)
                && let Some(check) = header_at_mut::<2>(message, 2)
            {
                *check = [0xff; 2];
            }
        }
    }

    /// A CRC over all fragments cannot be corrected from the first alone, whose length is not the
    /// datagram's: SCTP fragments with translated ports arrive with a wrong CRC and are dropped
    /// there.
    #[cold]
    fn apply_sctp(&self, frame: &mut [u8], headers: &Headers) {
        let len = usize::from(headers.end.saturating_sub(headers.l4));
        let Some(sctp) = header_at_mut::<SCTP_LEN>(frame, usize::from(headers.l4)) else { return };
        let old = u32_at(sctp, 0);
        self.write_ports(sctp);
        let change = old ^ u32_at(sctp, 0);
        if change != 0 {
            let crc = u32::from_le_bytes(octets_at(sctp, 8));
            let crc = crc ^ crc32c::port_delta(change.to_be_bytes(), len);
            sctp[8..12].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// The ports of `to` where they hold an ICMP echo identifier, and else those of `from`. An
/// identifier of 0 does not tell a request from a reply: then the new one does.
#[cold]
fn identifiers_between(from: &FlowKey, to: &FlowKey) -> (u16, u16) {
    match (from.protocol, from.family) {
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {}
        _ => return (from.sport, from.dport),
    }
    let is_reply = from.sport == 0 && (from.dport != 0 || to.sport == 0);
    if is_reply { (from.sport, to.dport) } else { (to.sport, from.dport) }
}

/// The TTL or hop limit is used up: the packet must not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlExpired;

impl core::fmt::Display for TtlExpired {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("time to live exceeded")
    }
}

impl core::error::Error for TtlExpired {}

/// Takes one from the TTL or hop limit, as a router must; the frame is unchanged on error.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], headers: &Headers) -> Result<(), TtlExpired> {
    let l3 = usize::from(headers.l3);
    if headers.family == 4 {
        let ip = header_at_mut::<IPV4_LEN>(frame, l3).ok_or(TtlExpired)?;
        if ip[8] <= 1 {
            return Err(TtlExpired);
        }
        let old = u16_at(ip, 8);
        ip[8] -= 1;
        let delta = Delta::of_word(old, u16_at(ip, 8));
        put_u16(ip, 10, checksum::apply(u16_at(ip, 10), delta));
    } else {
        let ip = header_at_mut::<IPV6_LEN>(frame, l3).ok_or(TtlExpired)?;
        if ip[7] <= 1 {
            return Err(TtlExpired);
        }
        ip[7] -= 1;
    }
    Ok(())
}

/// Writes both Ethernet addresses.
#[inline]
pub fn set_macs(frame: &mut [u8], dst: Mac, src: Mac) {
    if let Some(ethernet) = frame.first_chunk_mut::<12>() {
        ethernet[..6].copy_from_slice(&dst.0);
        ethernet[6..].copy_from_slice(&src.0);
    }
}

/// The Ethernet destination, or zeros for a frame too short to have one.
#[inline]
pub fn dst_mac(frame: &[u8]) -> Mac {
    header_at(frame, 0).map_or(Mac::ZERO, |octets| Mac(*octets))
}

/// The Ethernet source, or zeros for a frame too short to have one.
#[inline]
pub fn src_mac(frame: &[u8]) -> Mac {
    header_at(frame, 6).map_or(Mac::ZERO, |octets| Mac(*octets))
}
