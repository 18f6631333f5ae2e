//! Ranges of addresses to give out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_control::model::{Cidr, Family};

/// Addresses that are nobody's to give: what Kubernetes refuses as an endpoint, and 0.0.0.0/8.
const SPECIAL: [(&str, &str); 9] = [
    ("0.0.0.0", "0.255.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("169.254.0.0", "169.254.255.255"),
    ("224.0.0.0", "239.255.255.255"),
    ("255.255.255.255", "255.255.255.255"),
    ("::", "::1"),
    ("::ffff:0:0", "::ffff:ffff:ffff"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

/// Addresses of one family from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    family: Family,
    first: u128,
    last: u128,
}

impl Block {
    /// From the first to the last.
    ///
    /// # Errors
    /// Of two families, or in the wrong order, or with addresses that no Service may have.
    pub fn between(first: IpAddr, last: IpAddr) -> Result<Self, String> {
        let block = Self::new(first, last);
        if Family::of(first) != Family::of(last) {
            return Err(format!("{block}: one is IPv4, the other IPv6"));
        }
        if block.first > block.last {
            return Err(format!("{block}: give the lower address first"));
        }
        for (first, last) in SPECIAL {
            let parse = |text: &str| text.parse().expect("the constants are addresses");
            let special = Self::new(parse(first), parse(last));
            if special.overlaps(block) {
                return Err(format!("{block}: {special} cannot be given to Services"));
            }
        }
        Ok(block)
    }

    /// All addresses of a range, or all but the first and the last. A range of one or two
    /// addresses has no edges.
    ///
    /// # Errors
    /// As [`Self::between`].
    pub fn of_range(range: Cidr, avoid_edges: bool) -> Result<Self, String> {
        let mut block = Self::cover(range);
        if avoid_edges && block.last - block.first >= 2 {
            block.first += 1;
            block.last -= 1;
        }
        Self::between(block.first(), block.last())
    }

    fn new(first: IpAddr, last: IpAddr) -> Self {
        Self { family: Family::of(first), first: number(first), last: number(last) }
    }

    fn cover(range: Cidr) -> Self {
        let family = Family::of(range.address());
        let bits: u32 = if family == Family::V4 { 32 } else { 128 };
        let spare = bits - u32::from(range.length());
        let rest = 1_u128.checked_shl(spare).map_or(u128::MAX, |it| it - 1);
        let first = number(range.address());
        Self { family, first, last: first | rest }
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub fn family(self) -> Family {
        self.family
    }

    /// Its lowest address.
    #[must_use]
    pub fn first(self) -> IpAddr {
        address(self.family, self.first)
    }

    /// Its highest address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        address(self.family, self.last)
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.family == Family::of(address) && (self.first..=self.last).contains(&number(address))
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses it has; `u64::MAX` where it has more.
    #[must_use]
    pub fn size(self) -> u64 {
        u64::try_from((self.last - self.first).saturating_add(1)).unwrap_or(u64::MAX)
    }

    /// Its addresses from this one on; all of them where it is below.
    pub(super) fn iter_from(self, start: IpAddr) -> impl Iterator<Item = IpAddr> {
        let family = self.family;
        (number(start).max(self.first)..=self.last).map(move |it| address(family, it))
    }
}

/// `192.0.2.1-192.0.2.9`.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first(), self.last())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(it) => u128::from(u32::from(it)),
        IpAddr::V6(it) => u128::from(it),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        // Numbers of this family have 32 bits.
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_range(text: &str, avoid_edges: bool) -> Result<String, String> {
        Block::of_range(text.parse().unwrap(), avoid_edges).map(|it| it.to_string())
    }

    #[test]
    fn edges_are_left_out_where_there_are_any() {
        assert_eq!(of_range("192.0.2.0/24", false).unwrap(), "192.0.2.0-192.0.2.255");
        assert_eq!(of_range("192.0.2.0/24", true).unwrap(), "192.0.2.1-192.0.2.254");
        assert_eq!(of_range("192.0.2.0/30", true).unwrap(), "192.0.2.1-192.0.2.2");
        assert_eq!(of_range("192.0.2.0/31", true).unwrap(), "192.0.2.0-192.0.2.1");
        assert_eq!(of_range("192.0.2.7/32", true).unwrap(), "192.0.2.7-192.0.2.7");
        assert_eq!(of_range("2001:db8::/126", true).unwrap(), "2001:db8::1-2001:db8::2");
    }

    #[test]
    fn sizes_do_not_overflow() {
        let size = |text: &str| Block::of_range(text.parse().unwrap(), false).unwrap().size();
        assert_eq!(size("192.0.2.0/24"), 256);
        assert_eq!(size("2001:db8::/64"), u64::MAX);
        assert_eq!(size("2001:db8::/32"), u64::MAX);
        assert_eq!(Block::cover("::/0".parse().unwrap()).size(), u64::MAX);
    }

    #[test]
    fn blocks_that_cannot_be_are_refused() {
        let between = |first: &str, last: &str| {
            Block::between(first.parse().unwrap(), last.parse().unwrap()).unwrap_err()
        };
        assert!(between("192.0.2.9", "192.0.2.1").contains("the lower address first"));
        assert!(between("192.0.2.9", "2001:db8::1").contains("one is IPv4"));
        assert!(between("126.0.0.0", "128.0.0.0").contains("127.0.0.0-"));
        for text in ["0.0.0.0/0", "::/0", "127.1.0.0/16", "fe80::/64", "ff02::/16", "224.0.0.1/32"]
        {
            assert!(of_range(text, false).unwrap_err().contains("cannot be given"), "{text}");
        }
    }
}
