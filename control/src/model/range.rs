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
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - length)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                return Err(format!("{text:?} is an IPv4 range written as IPv6"));
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - length)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Ok(Self { address, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn max_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
