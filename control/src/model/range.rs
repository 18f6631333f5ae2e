//! Ranges of addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use weir_api::convert::address_bytes;
use weir_api::v1::Prefix;

/// An address and a prefix length; the bits behind the length are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// The range of one address.
    #[must_use]
    pub fn of_host(address: IpAddr) -> Self {
        Self { address, length: max_length(address) }
    }

    /// Its first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Number of leading bits that all its addresses share.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        mask(address, self.length) == Some(self.address)
    }

    /// Whether every address of the other is in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// As the state protocol writes it.
    #[must_use]
    pub fn to_prefix(self) -> Prefix {
        Prefix { address: address_bytes(self.address), length: u32::from(self.length) }
    }
}

/// `10.96.0.0/12`. Like Kubernetes, it takes an address inside the range for the range.
impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = || format!("{text:?} is not a range: write it as 10.96.0.0/12");
        let (address, length) = text.split_once('/').ok_or_else(example)?;
        let address: IpAddr = address.parse().map_err(|_| example())?;
        let max = max_length(address);
        let length = match length.parse() {
            Ok(length) if length <= max => length,
            _ => return Err(format!("{text:?}: the prefix length must be 0..{max}")),
        };
        if let IpAddr::V6(v6) = address
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(format!("{text:?} is an IPv4 range written as IPv6"));
        }
        let address = mask(address, length).ok_or_else(example)?;
        Ok(Self { address, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The address without the bits behind a length; `None` where it is too long for the family.
fn mask(address: IpAddr, length: u8) -> Option<IpAddr> {
    let spare = u32::from(max_length(address).checked_sub(length)?);
    Some(match address {
        IpAddr::V4(v4) => {
            IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(spare).unwrap_or(0)).into())
        }
        IpAddr::V6(v6) => {
            IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(spare).unwrap_or(0)).into())
        }
    })
}

fn max_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_know_what_is_in_them() {
        for (outer, inner, is_in) in [
            ("0.0.0.0/0", "255.255.255.255/32", true),
            ("0.0.0.0/0", "::/0", false),
            ("::/0", "0.0.0.0/0", false),
            ("::/0", "2001:db8::/32", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.0.0.0/8", "10.255.0.0/16", true),
            ("10.0.0.0/8", "11.0.0.0/16", false),
            ("10.0.0.0/8", "0.0.0.0/0", false),
            ("2001:db8::1/128", "2001:db8::1/128", true),
            ("2001:db8::1/128", "2001:db8::/127", false),
        ] {
            assert_eq!(range(outer).covers(range(inner)), is_in, "{inner} in {outer}");
            let is_inside = range(outer).contains(range(inner).address());
            assert!(is_inside >= is_in, "{inner} in {outer}");
        }
        assert!(range("10.1.2.3/8").contains("10.200.0.1".parse().unwrap()));
        assert!(!range("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert_eq!(range("10.1.2.3/8").to_string(), "10.0.0.0/8");
    }
}
