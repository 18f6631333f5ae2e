//! Addresses: one 16-byte type for IPv4 and IPv6, and Ethernet MACs.

use core::fmt;
use core::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv4 or IPv6 address as 16 bytes in network order; IPv4 is held as `::ffff:a.b.c.d`.
///
/// The two families never collide: the parser refuses IPv6 packets that carry an IPv4-mapped
/// address on the wire ([`crate::Malformed::MappedAddress`]).
#[repr(transparent)]
#[derive(
    Default,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct Addr([u8; 16]);

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Addr {
    /// `::`, also the value of "no address".
    pub const UNSPECIFIED: Addr = Addr([0; 16]);

    /// All zeros in a family's form: 0.0.0.0 or ::.
    pub const fn unspecified(is_v4: bool) -> Addr {
        if is_v4 { Addr::from_v4([0; 4]) } else { Addr::UNSPECIFIED }
    }

    #[inline]
    pub const fn from_v4([a, b, c, d]: [u8; 4]) -> Addr {
        Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    #[inline]
    pub const fn from_v6(octets: [u8; 16]) -> Addr {
        Addr(octets)
    }

    #[inline]
    pub fn is_v4(&self) -> bool {
        self.0[..12] == MAPPED
    }

    /// The four IPv4 octets, if this is an IPv4 address.
    #[inline]
    pub fn v4_octets(&self) -> Option<[u8; 4]> {
        self.is_v4().then(|| self.last_octets())
    }

    /// All 16 octets (IPv4: with the mapped prefix).
    #[inline]
    pub const fn octets(&self) -> [u8; 16] {
        self.0
    }

    /// 4 or 6.
    #[inline]
    pub fn family(&self) -> u8 {
        if self.is_v4() { 4 } else { 6 }
    }

    /// The last four octets: the whole address for IPv4.
    #[inline]
    pub(crate) const fn last_octets(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0;
        [a, b, c, d]
    }

    /// `0.0.0.0` or `::`.
    pub fn is_unspecified(&self) -> bool {
        *self == Addr::UNSPECIFIED || *self == Addr::from_v4([0; 4])
    }

    /// `127.0.0.0/8` or `::1`.
    pub fn is_loopback(&self) -> bool {
        IpAddr::from(*self).is_loopback()
    }

    /// `169.254.0.0/16` (RFC 3927) or `fe80::/10` (RFC 4291).
    pub fn is_link_local(&self) -> bool {
        match self.v4_octets() {
            Some([a, b, ..]) => a == 169 && b == 254,
            None => self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80,
        }
    }

    /// `224.0.0.0/4` or `ff00::/8`. The IPv4 limited broadcast is not multicast.
    pub fn is_multicast(&self) -> bool {
        match self.v4_octets() {
            Some([a, ..]) => a >> 4 == 0xe,
            None => self.0[0] == 0xff,
        }
    }

    /// `255.255.255.255`. IPv6 has none.
    pub fn is_broadcast(&self) -> bool {
        *self == Addr::from_v4([255; 4])
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(addr: Ipv4Addr) -> Addr {
        Addr::from_v4(addr.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(addr: Ipv6Addr) -> Addr {
        Addr::from_v6(addr.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(addr: IpAddr) -> Addr {
        match addr {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> IpAddr {
        match addr.v4_octets() {
            Some(v4) => IpAddr::V4(v4.into()),
            None => IpAddr::V6(addr.0.into()),
        }
    }
}

impl FromStr for Addr {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Addr, AddrParseError> {
        text.parse::<IpAddr>().map(Addr::from)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ethernet address.
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    pub const ZERO: Mac = Mac([0; 6]);

    /// The group bit; true for the broadcast address too.
    #[inline]
    pub const fn is_multicast(&self) -> bool {
        self.0[0] & 1 != 0
    }

    #[inline]
    pub const fn octets(&self) -> [u8; 6] {
        self.0
    }
}

impl From<[u8; 6]> for Mac {
    #[inline]
    fn from(octets: [u8; 6]) -> Mac {
        Mac(octets)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not six two-digit hexadecimal octets with colons between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacParseError;

impl fmt::Display for MacParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six two-digit hex octets, like 02:00:00:00:00:01")
    }
}

impl core::error::Error for MacParseError {}

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Mac, MacParseError> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(MacParseError)?;
            // from_str_radix alone would accept "+1".
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacParseError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacParseError)?;
        }
        if parts.next().is_some() { Err(MacParseError) } else { Ok(Mac(octets)) }
    }
}
