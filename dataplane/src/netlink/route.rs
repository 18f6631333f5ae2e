//! weir's own routes in the kernel's tables: compared, added and deleted as plain values.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use rustix::io::Errno;

use super::error::{Error, errno};
use super::{PROTOCOL, host_prefix_len};

/// The metric that the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`).
pub(super) const IPV6_DEFAULT_METRIC: u32 = 1024;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// First address; bits beyond `len` are zero.
    pub address: IpAddr,
    /// Bits that count.
    pub len: u8,
}

impl Prefix {
    /// The prefix of `len` bits around `address` (bits beyond are cleared, `len` is capped).
    pub fn new(address: IpAddr, len: u8) -> Self {
        let len = len.min(host_prefix_len(address));
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Self { address, len }
    }

    /// The prefix that holds one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: host_prefix_len(address) }
    }

    /// Whether `address` is of the family and in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.len) == *self
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// A route that weir makes: through an interface, or `unreachable` where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteSpec {
    pub(super) table: u32,
    pub(super) destination: Prefix,
    pub(super) ifindex: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) metric: u32,
}

impl RouteSpec {
    /// The route of a dumped message of weir's; `None` for a kind weir does not make.
    pub(super) fn from_message(message: &RouteMessage) -> Option<Self> {
        let mut spec = Self {
            table: message.header.table.into(),
            destination: destination(message)?,
            ifindex: None,
            gateway: None,
            source: None,
            metric: 0,
        };
        let is_unicast = match message.header.kind {
            RouteType::Unicast => true,
            RouteType::Unreachable => false,
            _ => return None,
        };
        for attribute in &message.attributes {
            match attribute {
                // The kernel names the loopback device on IPv6 unreachable routes.
                RouteAttribute::Oif(ifindex) if is_unicast => spec.ifindex = Some(*ifindex),
                RouteAttribute::Gateway(gateway) => spec.gateway = to_ip(gateway),
                RouteAttribute::PrefSource(source) => spec.source = to_ip(source),
                RouteAttribute::Priority(metric) => spec.metric = *metric,
                RouteAttribute::Table(table) => spec.table = *table,
                _ => {}
            }
        }
        Some(spec)
    }

    pub(super) fn to_message(self) -> RouteMessage {
        let is_unicast = self.ifindex.is_some();
        let mut message = match self.destination.address {
            IpAddr::V4(a) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(a, self.destination.len)
                .build(),
            IpAddr::V6(a) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(a, self.destination.len)
                .build(),
        };
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        match u8::try_from(self.table) {
            Ok(table) => message.header.table = table,
            Err(_) => {
                message.header.table = RouteHeader::RT_TABLE_UNSPEC;
                message.attributes.push(RouteAttribute::Table(self.table));
            }
        }
        if !is_unicast {
            message.header.kind = RouteType::Unreachable;
        } else if self.gateway.is_none() {
            message.header.scope = RouteScope::Link;
        } else {
            message.header.flags |= rtnetlink::packet_route::route::RouteFlags::Onlink;
        }
        let attributes = [
            self.ifindex.map(RouteAttribute::Oif),
            self.gateway.map(|a| RouteAttribute::Gateway(a.into())),
            self.source.map(|a| RouteAttribute::PrefSource(a.into())),
            (self.metric != 0).then_some(RouteAttribute::Priority(self.metric)),
        ];
        message.attributes.extend(attributes.into_iter().flatten());
        message
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        match self.ifindex {
            Some(ifindex) => write!(f, " dev {ifindex} metric {}", self.metric),
            None => write!(f, " unreachable metric {}", self.metric),
        }
    }
}

/// Makes these the only ones of weir's routes that `is_concerned`. New ones first: a destination
/// whose route changes is never without one. What is there already costs nothing.
pub(super) async fn set(
    handle: &Handle,
    wanted: &BTreeSet<RouteSpec>,
    is_concerned: impl Fn(&RouteSpec) -> bool,
) -> Result<(), Error> {
    let mut first_error = Ok(());
    let mut own = own_routes(handle).await?;
    let present: BTreeSet<RouteSpec> = own.iter().filter_map(RouteSpec::from_message).collect();
    let mut missing = wanted.difference(&present).peekable();
    if missing.peek().is_some() {
        for spec in missing {
            first_error = first_error.and(ensure(handle, spec).await);
        }
        // Anew: a route that was just replaced must not be deleted in the shape it had.
        own = own_routes(handle).await?;
    }
    for message in own {
        let Some(spec) = RouteSpec::from_message(&message) else { continue };
        if is_concerned(&spec) && !wanted.contains(&spec) {
            first_error = first_error.and(delete(handle, message).await);
        }
    }
    first_error
}

/// Adds the route, or replaces the one of the same prefix and metric.
pub(super) async fn ensure(handle: &Handle, spec: &RouteSpec) -> Result<(), Error> {
    let done = handle.route().add(spec.to_message()).replace().execute().await;
    done.map_err(Error::refused("set", spec.to_string()))
}

/// Deletes the route of a dumped message, if it is still there.
pub(super) async fn delete(handle: &Handle, message: RouteMessage) -> Result<(), Error> {
    let object = destination(&message).map_or_else(String::new, |prefix| prefix.to_string());
    let gone = [Errno::SRCH.raw_os_error(), Errno::NODEV.raw_os_error()];
    match handle.route().del(message).execute().await {
        Err(error) if gone.contains(&errno(&error)) => Ok(()),
        done => done.map_err(Error::refused("delete route", object)),
    }
}

/// All routes with weir's mark.
pub(super) async fn own_routes(handle: &Handle) -> Result<Vec<RouteMessage>, Error> {
    let mut own = Vec::new();
    for message in dump(handle).await? {
        if message.header.protocol == RouteProtocol::Other(PROTOCOL) {
            own.push(message);
        }
    }
    Ok(own)
}

/// All routes of both families and all tables.
pub(super) async fn dump(handle: &Handle) -> Result<Vec<RouteMessage>, Error> {
    let mut all = Vec::new();
    for question in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let dumped: Result<Vec<_>, _> = handle.route().get(question).execute().try_collect().await;
        all.extend(dumped.map_err(Error::refused("list", "routes"))?);
    }
    Ok(all)
}

/// Destination of a route; the default route has no attribute for it.
pub(super) fn destination(message: &RouteMessage) -> Option<Prefix> {
    let len = message.header.destination_prefix_length;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            return Some(Prefix::new(to_ip(address)?, len));
        }
    }
    match message.header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => {
            Some(Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0))
        }
        rtnetlink::packet_route::AddressFamily::Inet6 => {
            Some(Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0))
        }
        _ => None,
    }
}

/// An IP address of a route attribute.
pub(super) fn to_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::MAIN_TABLE;
    use super::*;

    #[test]
    fn a_prefix_clears_what_does_not_count_and_keeps_to_its_family() {
        let prefix = Prefix::new(IpAddr::from([10, 1, 2, 3]), 16);
        assert_eq!(prefix.to_string(), "10.1.0.0/16");
        assert!(prefix.contains(IpAddr::from([10, 1, 255, 255])));
        assert!(!prefix.contains(IpAddr::from([10, 2, 0, 0])));
        let all_v4 = Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        assert!(all_v4.contains(IpAddr::from([1, 2, 3, 4])));
        assert!(!all_v4.contains(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(Prefix::new(Ipv6Addr::LOCALHOST.into(), 200).len, 128);
    }

    #[test]
    fn a_route_survives_the_message() {
        for spec in [
            RouteSpec {
                table: 700,
                destination: Prefix::new(IpAddr::from([10, 96, 0, 0]), 16),
                ifindex: Some(3),
                gateway: Some(IpAddr::from([169, 254, 1, 1])),
                source: Some(IpAddr::from([169, 254, 64, 1])),
                metric: 0,
            },
            RouteSpec {
                table: MAIN_TABLE,
                destination: Prefix::new("fd10::".parse().unwrap(), 108),
                ifindex: None,
                gateway: None,
                source: None,
                metric: 9,
            },
        ] {
            assert_eq!(RouteSpec::from_message(&spec.to_message()), Some(spec));
        }
    }
}
