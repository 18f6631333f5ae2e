//! The host's port: `weir0`, through which the node's own sockets reach services and through which
//! punted packets reach the node.
//!
//! `weir0` has the addresses and the routes; its peer `weir0p` is treated like the host-side veth
//! of a pod: its tcx program steers into a trunk, and a worker sends to the host through it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_xdp_redirect::Settings;

use super::route::{self, Prefix, RouteSpec};
use super::state::MAIN_TABLE;
use super::{
    Error, GATEWAY_IPV4, GATEWAY_IPV6, HOST_PEER_IPV4, HOST_PEER_IPV6, Link, Netlink, SysctlChange,
    address, link, offload, sysctl,
};

/// Name of the host's end.
pub const HOST_NAME: &str = "weir0";
/// Name of the other end.
pub const OUTER_NAME: &str = "weir0p";

/// Metric of the `unreachable` route behind a service route: worse than any other.
const UNREACHABLE_METRIC: u32 = u32::MAX - 1;

/// How the host port is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPortConfig {
    /// Bytes; as large as the trunks'.
    pub mtu: u32,
    /// The gateway's MAC, under which the host finds both gateway addresses.
    pub gateway_mac: [u8; 6],
    /// The host's IPv4 address towards services whose backends are asked to answer the node.
    pub ipv4: Ipv4Addr,
    /// The same for IPv6. Not a link-local address: a pod could answer that only with the scope of
    /// its own interface and after neighbour discovery, and proxies and logs lose the scope.
    pub ipv6: Ipv6Addr,
}

impl Default for HostPortConfig {
    fn default() -> Self {
        Self {
            mtu: 1500,
            gateway_mac: Settings::DEFAULT.gateway_mac,
            ipv4: Ipv4Addr::new(169, 254, 64, 1),
            ipv6: Ipv6Addr::new(0xfd77, 0x6569, 0x7200, 0, 0, 0, 0, 1),
        }
    }
}

/// The host port as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `weir0`.
    pub host: Link,
    /// `weir0p`.
    pub outer: Link,
    /// `weir0`'s own address.
    pub ipv4: Ipv4Addr,
    /// `weir0`'s own address; `None` on a kernel without IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Sysctls that had to be changed just now.
    pub changed: Vec<SysctlChange>,
    /// `net.ipv4.conf.all.rp_filter` is 1 (strict). The kernel takes the larger of `all` and the
    /// device's own value, so `weir0`, set to 2, is loose nevertheless; other devices, the uplink
    /// among them, are strict. It is reported, not changed.
    pub is_strict_rp_filter: bool,
}

impl Netlink {
    /// Makes or adopts the host port: link, addresses, gateway and peer as permanent neighbours,
    /// sysctls. The routes to the peer are [`Netlink::set_host_peer`]'s.
    ///
    /// # Errors
    /// What the kernel refused, by object.
    pub async fn ensure_host_port(&self, config: &HostPortConfig) -> Result<HostPort, Error> {
        let pair = link::VethPair { a: HOST_NAME, b: OUTER_NAME, is_single_queue: false };
        let (host, outer) = pair.ensure(&self.handle).await?;
        sysctl::disable_ipv6(OUTER_NAME)?;
        offload::set(OUTER_NAME, offload::Offload::Gro, false)?;
        let changed = set_sysctls()?;
        link::set_up(&self.handle, &outer, config.mtu, false).await?;
        link::set_up(&self.handle, &host, config.mtu, true).await?;

        let host = link::require(&self.handle, HOST_NAME).await?;
        let has_ipv6 = sysctl::read("net/ipv6/conf/all/forwarding")?.is_some();
        let mut own: Vec<IpAddr> = vec![config.ipv4.into()];
        let mut beyond: Vec<IpAddr> = vec![GATEWAY_IPV4.into(), HOST_PEER_IPV4.into()];
        if has_ipv6 {
            own.push(config.ipv6.into());
            beyond.extend([IpAddr::from(GATEWAY_IPV6), HOST_PEER_IPV6.into()]);
        }
        address::set(&self.handle, &host, &own).await?;
        for neighbour in beyond {
            address::ensure_neighbour(&self.handle, &host, neighbour, config.gateway_mac).await?;
        }
        let is_strict_rp_filter =
            sysctl::read("net/ipv4/conf/all/rp_filter")?.as_deref() == Some("1");
        if is_strict_rp_filter {
            tracing::warn!(
                "net.ipv4.conf.all.rp_filter is 1 (strict): packets to NodePorts that \
                arrive on one uplink and are answered on another will be dropped by the kernel"
            );
        }
        Ok(HostPort {
            host,
            outer: link::require(&self.handle, OUTER_NAME).await?,
            ipv4: config.ipv4,
            ipv6: has_ipv6.then_some(config.ipv6),
            changed,
            is_strict_rp_filter,
        })
    }

    /// Routes exactly these prefixes (of services) from the host into `port`, with `unreachable`
    /// routes behind them for when it is down; withdraws earlier ones. `source` is the address that
    /// the host's sockets get; without one of a prefix's family, `weir0`'s own.
    ///
    /// # Errors
    /// What the kernel refused, by route. The other routes are set all the same.
    pub async fn set_service_ranges(
        &self,
        port: &HostPort,
        ranges: &[Prefix],
        sources: &[IpAddr],
    ) -> Result<(), Error> {
        let mut first_error = Ok(());
        let mut wanted = BTreeSet::new();
        for range in ranges {
            match service_routes(port, *range, sources) {
                Ok(routes) => wanted.extend(routes),
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        let is_service = |spec: &RouteSpec| {
            let is_through = spec.ifindex == Some(port.host.ifindex) && spec.gateway.is_some();
            let is_behind = spec.ifindex.is_none() && spec.metric == UNREACHABLE_METRIC;
            spec.table == MAIN_TABLE && (is_through || is_behind)
        };
        first_error.and(route::set(&self.handle, &wanted, is_service).await)
    }
}

/// The two routes of a service range.
fn service_routes(
    port: &HostPort,
    range: Prefix,
    sources: &[IpAddr],
) -> Result<[RouteSpec; 2], Error> {
    let own: Option<IpAddr> = match range.address {
        IpAddr::V4(_) => Some(port.ipv4.into()),
        IpAddr::V6(_) => port.ipv6.map(IpAddr::from),
    };
    let own = own.ok_or_else(|| Error::NoSource(range.to_string()))?;
    let same_family = |address: &&IpAddr| address.is_ipv4() == range.address.is_ipv4();
    let gateway = if own.is_ipv4() { GATEWAY_IPV4.into() } else { GATEWAY_IPV6.into() };
    let through = RouteSpec {
        table: MAIN_TABLE,
        destination: range,
        ifindex: Some(port.host.ifindex),
        gateway: Some(gateway),
        source: Some(*sources.iter().find(same_family).unwrap_or(&own)),
        metric: if own.is_ipv4() { 0 } else { route::IPV6_DEFAULT_METRIC },
    };
    let behind = RouteSpec {
        table: MAIN_TABLE,
        destination: range,
        ifindex: None,
        gateway: None,
        source: None,
        metric: UNREACHABLE_METRIC,
    };
    Ok([through, behind])
}

/// Loose reverse-path filter (the sources of punted packets are anywhere), and the node's own
/// address as a source (of its own NodePort's replies).
fn set_sysctls() -> Result<Vec<SysctlChange>, Error> {
    let mut changed = Vec::new();
    for (path, value) in [
        ("net/ipv4/conf/weir0/rp_filter", "2"),
        ("net/ipv4/conf/weir0/accept_local", "1"),
        ("net/ipv6/conf/weir0/addr_gen_mode", "1"),
        ("net/ipv6/conf/weir0/accept_ra", "0"),
    ] {
        changed.extend(sysctl::set(path, value)?);
    }
    changed.extend(sysctl::enable_forwarding()?);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> HostPort {
        let link = |ifindex, name: &str| Link {
            ifindex,
            name: name.into(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
        };
        let config = HostPortConfig::default();
        HostPort {
            host: link(7, HOST_NAME),
            outer: link(8, OUTER_NAME),
            ipv4: config.ipv4,
            ipv6: None,
            changed: Vec::new(),
            is_strict_rp_filter: false,
        }
    }

    #[test]
    fn a_source_of_the_ranges_family_goes_before_weir0s_own() {
        let range = Prefix::new(IpAddr::from([10, 96, 0, 0]), 16);
        let node = IpAddr::from([192, 0, 2, 1]);
        let other: IpAddr = Ipv6Addr::LOCALHOST.into();
        let [through, behind] = service_routes(&port(), range, &[other, node]).unwrap();
        assert_eq!(through.source, Some(node));
        assert_eq!(through.gateway, Some(GATEWAY_IPV4.into()));
        assert!(behind.metric > through.metric && behind.ifindex.is_none());
        let [through, _] = service_routes(&port(), range, &[other]).unwrap();
        assert_eq!(through.source, Some(port().ipv4.into()));
    }

    #[test]
    fn a_range_without_an_address_of_its_family_is_refused_by_name() {
        let range = Prefix::new("fd10::".parse().unwrap(), 108);
        let error = service_routes(&port(), range, &[]).unwrap_err().to_string();
        assert!(error.contains("fd10::/108"), "{error}");
    }
}
