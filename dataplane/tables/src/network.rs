//! What the kernel knows of the network, in the form that workers look it up: routes, neighbours,
//! the uplinks and the host's own port.

use std::collections::BTreeMap;
use std::fmt;

use weir_packet::{Addr, Mac};

use crate::ids::PortId;

/// An address range. IPv4 lengths count from the start of the 16-byte form: /24 is 120.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: Addr,
    length: u8,
}

impl Prefix {
    /// A prefix of `length` bits of its family; bits behind it are cleared. `None` if too long.
    pub fn new(addr: Addr, length: u8) -> Option<Prefix> {
        let (most, offset) = if addr.is_v4() { (32, 96) } else { (128, 0) };
        if length > most {
            return None;
        }
        let length = length + offset;
        Some(Prefix { addr: mask(addr, length), length })
    }

    /// The range of one address alone.
    pub fn of_addr(addr: Addr) -> Prefix {
        Prefix { addr, length: 128 }
    }

    /// The first address.
    pub fn addr(&self) -> Addr {
        self.addr
    }

    /// Length in bits of its family.
    pub fn length(&self) -> u8 {
        if self.addr.is_v4() && self.length >= 96 { self.length - 96 } else { self.length }
    }

    /// The range of all addresses of a family.
    pub(crate) fn of_family(is_v4: bool) -> Prefix {
        Prefix { addr: Addr::unspecified(is_v4), length: if is_v4 { 96 } else { 0 } }
    }

    /// The last address.
    pub(crate) fn last_addr(&self) -> Addr {
        let host = u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
        Addr::from_v6((u128::from_be_bytes(self.addr.octets()) | host).to_be_bytes())
    }

    /// Whether another range lies in this one, or is the same.
    pub(crate) fn covers(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.contains(&other.addr)
    }

    /// The first `length` bits of its family.
    pub(crate) fn shortened(&self, length: u8) -> Prefix {
        let length = length + (self.length - self.length());
        Prefix { addr: mask(self.addr, length), length }
    }

    /// The prefix of `length` bits with the same `base` bits in front and then those of `branch`,
    /// of which there are four.
    pub(crate) fn sibling(&self, base: u8, branch: u8, length: u8) -> Prefix {
        let offset = self.length - self.length();
        let bits = u128::from_be_bytes(mask(self.addr, offset + base).octets());
        let bits = bits | u128::from(branch) << (124 - u32::from(offset + base));
        let length = offset + length;
        Prefix { addr: mask(Addr::from_v6(bits.to_be_bytes()), length), length }
    }

    /// Whether it is the range of one address.
    pub fn is_single(&self) -> bool {
        self.length == 128
    }

    /// Whether the address lies in the range.
    pub fn contains(&self, addr: &Addr) -> bool {
        mask(*addr, self.length) == self.addr && (self.length >= 96 || !addr.is_v4())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.length())
    }
}

fn mask(addr: Addr, length: u8) -> Addr {
    let bits = u128::from_be_bytes(addr.octets());
    let kept = if length == 0 { 0 } else { bits & (u128::MAX << (128 - u32::from(length))) };
    Addr::from_v6(kept.to_be_bytes())
}

/// An interface to the network outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub port: PortId,
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// The host's port: the outer end of `weir0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub port: PortId,
    /// Of `weir0`.
    pub mac: Mac,
    pub mtu: u16,
}

/// One route of the kernel's main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: Prefix,
    pub target: RouteTarget,
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Out of an uplink: to a gateway, or straight to the destination.
    Uplink { port: PortId, gateway: Option<Addr> },
    /// Somewhere that only the kernel reaches.
    Kernel,
    /// Nowhere.
    Unreachable,
}

/// A next hop on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    pub port: PortId,
    pub addr: Addr,
}

/// Everything above, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub host: Option<HostPort>,
    pub uplinks: Vec<Uplink>,
    /// The node's own addresses on any interface.
    pub addresses: Vec<Addr>,
    /// Those of uplinks among them: translated packets may have one of these as source.
    pub uplink_addresses: Vec<Addr>,
    /// MACs of other interfaces, such as a virtual router's macvlan: frames for them are for this
    /// node, too.
    pub other_macs: Vec<Mac>,
    pub routes: Vec<Route>,
    /// Resolved neighbours on uplinks.
    pub neighbours: BTreeMap<NextHop, Mac>,
}

/// Values by prefix, for look-up by longest match.
#[derive(Debug)]
pub(crate) struct PrefixMap<T> {
    /// (length, masked address) -> value, per length that exists, longest first.
    levels: Vec<(u8, BTreeMap<Addr, T>)>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        PrefixMap { levels: Vec::new() }
    }
}

impl<T: Copy> PrefixMap<T> {
    /// Of two values for one prefix the last holds.
    pub(crate) fn new(entries: impl IntoIterator<Item = (Prefix, T)>) -> PrefixMap<T> {
        let mut by_length: BTreeMap<u8, BTreeMap<Addr, T>> = BTreeMap::new();
        for (prefix, value) in entries {
            by_length.entry(prefix.length).or_default().insert(prefix.addr, value);
        }
        PrefixMap { levels: by_length.into_iter().rev().collect() }
    }

    /// Longest match. An IPv4 address never matches an IPv6 default route.
    pub(crate) fn lookup(&self, dst: &Addr) -> Option<T> {
        self.levels
            .iter()
            .filter(|(length, _)| *length >= 96 || !dst.is_v4())
            .find_map(|(length, level)| level.get(&mask(*dst, *length)).copied())
    }
}

/// Routes by destination; of several to one prefix, the one of lowest metric, the first of these.
pub(crate) fn index_routes(routes: &[Route]) -> PrefixMap<RouteTarget> {
    let mut best: BTreeMap<Prefix, Route> = BTreeMap::new();
    for route in routes {
        let slot = best.entry(route.prefix).or_insert(*route);
        if route.metric < slot.metric {
            *slot = *route;
        }
    }
    PrefixMap::new(best.into_values().map(|route| (route.prefix, route.target)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        let (addr, length) = text.split_once('/').expect("addr/length");
        Prefix::new(addr.parse().expect("an address"), length.parse().expect("a length"))
            .expect("not too long")
    }

    fn route(text: &str, via: u32, metric: u32) -> Route {
        let target = RouteTarget::Uplink { port: PortId(via), gateway: None };
        Route { prefix: prefix(text), target, metric }
    }

    #[test]
    fn longest_prefix_then_lowest_metric_and_families_apart() {
        let table = index_routes(&[
            route("0.0.0.0/0", 1, 0),
            route("10.0.0.0/8", 2, 10),
            route("10.0.0.0/8", 3, 5),
            route("10.1.0.0/16", 4, 0),
            route("::/0", 5, 0),
        ]);
        let via = |addr: &str| match table.lookup(&addr.parse().expect("an address")) {
            Some(RouteTarget::Uplink { port, .. }) => port.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(via("192.0.2.1"), 1);
        assert_eq!(via("10.9.0.1"), 3);
        assert_eq!(via("10.1.2.3"), 4);
        assert_eq!(via("2001:db8::1"), 5);
        let v6_only = index_routes(&[route("::/0", 5, 0)]);
        assert_eq!(v6_only.lookup(&"10.0.0.1".parse().expect("an address")), None);
    }

    #[test]
    fn prefixes_print_in_their_family() {
        assert_eq!(prefix("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(prefix("fd00::1/64").to_string(), "fd00::/64");
        assert!(Prefix::new("10.0.0.1".parse().expect("an address"), 33).is_none());
        assert!(!prefix("::/0").contains(&"10.0.0.1".parse().expect("an address")));
    }

    proptest! {
        #[test]
        fn lookup_equals_a_scan_of_all_routes(
            routes in prop::collection::vec((any::<[u8; 4]>(), 0u8..=32, 0u32..4), 0..40),
            dst in any::<[u8; 4]>(),
        ) {
            let number = routes.into_iter().enumerate();
            let routes: Vec<Route> = number.map(|(at, (addr, length, metric))| {
                let prefix = Prefix::new(Addr::from_v4(addr), length).expect("at most 32");
                Route {
                    prefix,
                    target: RouteTarget::Uplink { port: PortId(at as u32), gateway: None },
                    metric,
                }
            }).collect();
            let dst = Addr::from_v4(dst);
            let naive = routes.iter().filter(|route| route.prefix.contains(&dst))
                .min_by_key(|route| (255 - route.prefix.length(), route.metric))
                .map(|route| route.target);
            prop_assert_eq!(index_routes(&routes).lookup(&dst), naive);
        }
    }
}
