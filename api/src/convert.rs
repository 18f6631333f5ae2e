//! Addresses and MACs to and from their wire form.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// A value that is not what its field must hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// Not 4 or 16 bytes.
    #[error("an address must be 4 or 16 bytes, not {0}")]
    AddressLength(usize),
    /// Not 6 bytes.
    #[error("a MAC address must be 6 bytes, not {0}")]
    MacLength(usize),
    /// Not six pairs of hex digits.
    #[error("{0:?} is not a MAC address: write it as 02:00:00:00:00:01")]
    MacText(String),
    /// Multicast or all zero: no interface has such an address.
    #[error("{0} is a multicast or zero MAC address: give the address of the pod's interface")]
    MacNotUnicast(Mac),
    /// A port outside 1..65535.
    #[error("port {0} is outside 1..65535")]
    Port(u32),
    /// Longer than its address family allows.
    #[error("prefix length {length} is more than {max}")]
    PrefixLength {
        /// As given.
        length: u32,
        /// 32 or 128.
        max: u32,
    },
}

/// Reads an address of 4 or 16 bytes in network order.
///
/// # Errors
/// Any other length.
pub fn parse_address(bytes: &[u8]) -> Result<IpAddr, ConvertError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(v4));
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ok(IpAddr::from(v6)),
        Err(_) => Err(ConvertError::AddressLength(bytes.len())),
    }
}

/// Writes an address as 4 or 16 bytes in network order.
#[must_use]
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Reads an L4 port from its wide wire field.
///
/// # Errors
/// Zero, or more than 65535.
pub fn parse_l4_port(port: u32) -> Result<u16, ConvertError> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(ConvertError::Port(port)),
    }
}

/// Reads an address and a prefix length that fits it.
///
/// # Errors
/// A bad address, or a length beyond 32 (IPv4) or 128 (IPv6).
pub fn parse_prefix(prefix: &crate::v1::Prefix) -> Result<(IpAddr, u8), ConvertError> {
    let address = parse_address(&prefix.address)?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    match u8::try_from(prefix.length) {
        Ok(length) if u32::from(length) <= max => Ok((address, length)),
        _ => Err(ConvertError::PrefixLength { length: prefix.length, max }),
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads 6 bytes.
    ///
    /// # Errors
    /// Another length, or an address that no interface can have (multicast, all zero).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ConvertError> {
        let octets =
            <[u8; 6]>::try_from(bytes).map_err(|_| ConvertError::MacLength(bytes.len()))?;
        Self(octets).check_unicast()
    }

    fn check_unicast(self) -> Result<Self, ConvertError> {
        let multicast = self.0[0] & 1 == 1;
        if multicast || self.0 == [0; 6] {
            return Err(ConvertError::MacNotUnicast(self));
        }
        Ok(self)
    }
}

impl FromStr for Mac {
    type Err = ConvertError;

    fn from_str(text: &str) -> Result<Self, ConvertError> {
        let bad = || ConvertError::MacText(text.to_owned());
        let mut octets = [0_u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Self(octets).check_unicast()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Prefix;

    #[test]
    fn addresses_survive_the_wire_and_other_lengths_do_not() {
        for text in ["10.0.0.1", "fd00::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(parse_address(&address_bytes(address)), Ok(address));
        }
        for length in [0, 3, 5, 15, 17] {
            assert_eq!(parse_address(&vec![1; length]), Err(ConvertError::AddressLength(length)));
        }
    }

    #[test]
    fn macs_are_read_strictly() {
        let mac: Mac = "02:AB:00:00:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ab:00:00:00:01");
        assert_eq!(Mac::from_bytes(&mac.0), Ok(mac));
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:+1", "2:0:0:0:0:1"]
        {
            assert_eq!(bad.parse::<Mac>(), Err(ConvertError::MacText(bad.to_owned())));
        }
        for bad in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"] {
            assert!(matches!(bad.parse::<Mac>(), Err(ConvertError::MacNotUnicast(_))));
        }
    }

    #[test]
    fn ports_and_prefixes_have_bounds() {
        assert_eq!(parse_l4_port(65535), Ok(65535));
        assert_eq!(parse_l4_port(0), Err(ConvertError::Port(0)));
        assert_eq!(parse_l4_port(65536), Err(ConvertError::Port(65536)));
        let prefix = |length| Prefix { address: vec![10, 0, 0, 0], length };
        assert_eq!(parse_prefix(&prefix(32)), Ok(("10.0.0.0".parse().unwrap(), 32)));
        assert_eq!(
            parse_prefix(&prefix(33)),
            Err(ConvertError::PrefixLength { length: 33, max: 32 })
        );
    }
}
