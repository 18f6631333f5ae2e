//! Addresses from the podCIDRs of this node's Node object.
//!
//! The next free one behind the last one given, around the range: an address that was freed is
//! given again as late as possible.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::ipam::{Ipam, IpamError, Space};
use crate::model::{Cidr, Family};

/// How long an address rests after the dataplane has let go of it, where there are others: peers
/// elsewhere still have connections to the pod that had it.
pub const QUARANTINE: Duration = Duration::from_secs(5);

/// The allocator.
#[derive(Debug, Default)]
pub struct PodCidrIpam {
    space: Space,
    used: BTreeMap<IpAddr, String>,
    owned: BTreeMap<String, Vec<IpAddr>>,
    cooling: BTreeMap<IpAddr, Cooling>,
    last: BTreeMap<Family, IpAddr>,
}

/// An address that nobody has any more.
#[derive(Debug, Clone, Copy)]
struct Cooling {
    freed_at: Duration,
    /// The first one without the address.
    revision: u64,
    is_acknowledged: bool,
}

/// The addresses of a range that pods can have, as numbers.
#[derive(Debug, Clone, Copy)]
struct Usable {
    family: Family,
    first: u128,
    last: u128,
}

impl Usable {
    /// Without the network's and the broadcast address, or the subnet-router anycast address (RFC
    /// 4291, 2.6.1), except where a range is too small to have them (RFC 3021, RFC 6164).
    fn of(range: Cidr) -> Self {
        let family = Family::of(range.address());
        let (first, bits) = match range.address() {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let spare = bits - u32::from(range.length());
        let last = first | 1_u128.checked_shl(spare).map_or(u128::MAX, |it| it - 1);
        match (spare, family) {
            (0 | 1, _) => Self { family, first, last },
            (_, Family::V4) => Self { family, first: first + 1, last: last - 1 },
            (_, Family::V6) => Self { family, first: first + 1, last },
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }

    fn find(self, from: u128, to: u128, is_free: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        // As many steps as there are taken addresses, and one more.
        (from.max(self.first)..=to.min(self.last))
            .map(|it| self.address(it))
            .find(|it| is_free(*it))
    }
}

impl PodCidrIpam {
    fn usable(&self, family: Family) -> impl Iterator<Item = Usable> {
        self.space.ranges.iter().map(|it| Usable::of(*it)).filter(move |it| it.family == family)
    }

    fn choose(&self, family: Family) -> Option<IpAddr> {
        let is_ours =
            |ip: IpAddr| !self.used.contains_key(&ip) && !self.space.reserved.contains(&ip);
        let is_free = |ip: IpAddr| is_ours(ip) && !self.cooling.contains_key(&ip);
        let ranges: Vec<Usable> = self.usable(family).collect();
        let last = self.last.get(&family).map_or(0, |it| number(*it));
        let is_in = |it: &Usable| (it.first..=it.last).contains(&last);
        let current = ranges.iter().position(is_in).unwrap_or(0);
        let (before, behind) = ranges.split_at(current);
        let around = behind.iter().skip(1).chain(before).map(|it| (*it, 0, u128::MAX));
        let start = behind.first().into_iter();
        let mut turns = start
            .clone()
            .map(|it| (*it, last.saturating_add(1), u128::MAX))
            .chain(around)
            .chain(start.map(|it| (*it, 0, last)));
        turns.find_map(|(range, from, to)| range.find(from, to, &is_free)).or_else(|| {
            // There is no other: whoever has rested longest.
            let is_inside = |ip: IpAddr| ranges.iter().any(|it| it.contains(ip));
            let mut rested: Vec<_> = self
                .cooling
                .iter()
                .filter(|(ip, it)| it.is_acknowledged && is_ours(**ip) && is_inside(**ip))
                .collect();
            rested.sort_by_key(|(ip, it)| (it.freed_at, **ip));
            rested.first().map(|(ip, _)| **ip)
        })
    }

    fn explain(&self, family: Family) -> IpamError {
        let of_family = |it: &&IpAddr| Family::of(**it) == family;
        let all = self.space.ranges.iter().filter(|it| Family::of(it.address()) == family);
        let ranges: Vec<String> = all.map(ToString::to_string).collect();
        let size = |it: Usable| (it.last - it.first).saturating_add(1);
        IpamError::Exhausted {
            ranges: ranges.join(" and "),
            used: self.used.keys().filter(of_family).count(),
            waiting: self.cooling.keys().filter(of_family).count(),
            capacity: self.usable(family).map(size).fold(0, u128::saturating_add),
        }
    }
}

impl Usable {
    fn contains(self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family && (self.first..=self.last).contains(&number(ip))
    }
}

impl Ipam for PodCidrIpam {
    fn follow(&mut self, space: &Space) {
        if self.space != *space {
            self.space.clone_from(space);
        }
    }

    fn allocate(&mut self, owner: &str, now: Duration) -> Result<Vec<IpAddr>, IpamError> {
        if let Some(addresses) = self.owned.get(owner) {
            return Ok(addresses.clone());
        }
        let mut families: Vec<Family> = Vec::new();
        for range in &self.space.ranges {
            let family = Family::of(range.address());
            if !families.contains(&family) {
                families.push(family);
            }
        }
        if families.is_empty() {
            return Err(IpamError::NoRange);
        }
        self.cooling
            .retain(|_, it| !it.is_acknowledged || now.saturating_sub(it.freed_at) < QUARANTINE);
        let choose = |family: &Family| self.choose(*family).ok_or_else(|| self.explain(*family));
        let addresses: Vec<IpAddr> = families.iter().map(choose).collect::<Result<_, _>>()?;
        for address in &addresses {
            self.cooling.remove(address);
            self.used.insert(*address, owner.to_owned());
            self.last.insert(Family::of(*address), *address);
        }
        self.owned.insert(owner.to_owned(), addresses.clone());
        Ok(addresses)
    }

    fn adopt(&mut self, owner: &str, addresses: &[IpAddr]) -> Result<(), IpamError> {
        for address in addresses {
            if let Some(other) = self.used.get(address).filter(|it| *it != owner) {
                return Err(IpamError::Taken { address: *address, owner: other.clone() });
            }
        }
        for address in addresses {
            self.cooling.remove(address);
            self.used.insert(*address, owner.to_owned());
        }
        self.owned.insert(owner.to_owned(), addresses.to_vec());
        Ok(())
    }

    fn release(&mut self, owner: &str, revision: u64, now: Duration) {
        for address in self.owned.remove(owner).unwrap_or_default() {
            self.used.remove(&address);
            let cooling = Cooling { freed_at: now, revision, is_acknowledged: false };
            self.cooling.insert(address, cooling);
        }
    }

    fn acknowledge(&mut self, revision: u64) {
        for cooling in self.cooling.values_mut() {
            cooling.is_acknowledged |= cooling.revision <= revision;
        }
    }

    fn last_given(&self) -> Vec<IpAddr> {
        self.last.values().copied().collect()
    }

    fn resume(&mut self, last: &[IpAddr]) {
        self.last.extend(last.iter().map(|it| (Family::of(*it), *it)));
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}
