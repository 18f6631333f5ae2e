//! The addresses outside: one of each range that some policy tells apart.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use crate::model::{Cidr, Family};

/// An address range in the space of IPv6, where IPv4 is `::ffff:0:0/96`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    first: u128,
    /// Larger ranges first.
    length: u8,
}

impl Span {
    fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => Self { first: v4.to_ipv6_mapped().into(), length: length + 96 },
            IpAddr::V6(v6) => Self { first: v6.into(), length },
        }
    }

    fn last(self) -> u128 {
        self.first | u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0)
    }
}

/// Addresses in a range and in no smaller one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    /// The range.
    pub(super) cidr: Cidr,
    /// One that is nobody's in the cluster.
    pub(super) address: IpAddr,
    /// It is all addresses of its family but those of smaller ranges.
    pub(super) is_rest: bool,
}

/// What `ranges` (address, length) tell apart, for these families.
pub(super) fn list_regions(
    ranges: impl IntoIterator<Item = (IpAddr, u8)>,
    families: &[Family],
    is_taken: impl Fn(IpAddr) -> bool,
) -> Vec<Region> {
    let mut spans: BTreeSet<Span> =
        ranges.into_iter().map(|(address, length)| Span::new(address, length)).collect();
    spans.extend(Family::ALL.map(|it| Span::new(it.unspecified(), 0)));
    let spans: Vec<Span> = spans.into_iter().collect();
    let mut regions = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        let Some(address) = find_free(&spans, index, &is_taken) else { continue };
        let first = to_address(span.first);
        let offset = if first.is_ipv4() && span.length >= 96 { 96 } else { 0 };
        let length = span.length - offset;
        let cidr = format!("{first}/{length}").parse();
        let cidr: Cidr = cidr.expect("a range of addresses in the form that it was read from");
        if families.contains(&Family::of(address)) {
            regions.push(Region { cidr, address, is_rest: length == 0 });
        }
    }
    regions
}

fn find_free(spans: &[Span], index: usize, is_taken: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let whole = spans[index];
    let mut cursor = whole.first;
    let mut next = index + 1;
    loop {
        let inner = spans.get(next).filter(|it| it.first <= whole.last());
        let gap_end = match inner {
            Some(inner) if inner.first <= cursor => None,
            Some(inner) => Some(inner.first - 1),
            None => Some(whole.last()),
        };
        // The first address of a network is nobody's, where there are more than two.
        let is_network = cursor == whole.first && gap_end.is_some_and(|it| it > cursor + 1);
        let mut candidate = cursor + u128::from(is_network);
        while gap_end.is_some_and(|end| candidate <= end) {
            if !is_taken(to_address(candidate)) {
                return Some(to_address(candidate));
            }
            candidate = candidate.checked_add(1)?;
        }
        cursor = inner?.last().checked_add(1)?;
        if cursor > whole.last() {
            return None;
        }
        next += spans[next..].partition_point(|it| it.first < cursor);
    }
}

fn to_address(bits: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bits)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(ranges: &[&str], taken: &[&str]) -> Vec<String> {
        let ranges = ranges.iter().map(|it| {
            let (address, length) = it.split_once('/').unwrap();
            (address.parse().unwrap(), length.parse().unwrap())
        });
        let taken: Vec<IpAddr> = taken.iter().map(|it| it.parse().unwrap()).collect();
        let found = list_regions(ranges, &Family::ALL, |it| taken.contains(&it));
        found.iter().map(|it| format!("{} {}", it.cidr, it.address)).collect()
    }

    #[test]
    fn each_range_has_an_address_that_no_smaller_one_has() {
        assert_eq!(regions(&[], &[]), ["::/0 ::1", "0.0.0.0/0 0.0.0.1"]);
        let nested = regions(&["10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "fd00::/8"], &[]);
        let expected = [
            "::/0 ::1",
            "0.0.0.0/0 0.0.0.1",
            "10.0.0.0/8 10.2.0.0",
            "10.0.0.0/16 10.0.0.1",
            "10.1.0.0/16 10.1.0.1",
            "fd00::/8 fd00::1",
        ];
        assert_eq!(nested, expected);
    }

    #[test]
    fn ranges_without_an_address_of_their_own_are_left_out() {
        let halves = regions(&["192.0.2.0/31", "192.0.2.0/32", "192.0.2.1/32"], &[]);
        assert_eq!(halves[2..], ["192.0.2.0/32 192.0.2.0", "192.0.2.1/32 192.0.2.1"]);
        let all = ["192.0.2.0", "192.0.2.1", "192.0.2.2"];
        let taken = regions(&["192.0.2.0/30", "192.0.2.0/31"], &all);
        assert_eq!(taken[2..], ["192.0.2.0/30 192.0.2.3"]);
    }
}
