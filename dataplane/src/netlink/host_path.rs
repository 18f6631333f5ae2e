//! The host's own packets on their way through `weir0`.
//!
//! **To its own NodePorts and hostPorts.** The `local` table would deliver them at once. So rules
//! for locally made packets to these L4 ports go before it and lead to a table that holds the
//! node's own addresses, each through `weir0`:
//!
//! ```text
//!  50:  iif lo ipproto tcp dport 30000-32767 lookup 30565     ip route show table 30565:
//! 100:  lookup local            (was at 0)                    A via <gateway> dev weir0 src A
//! ```
//!
//! Other destinations with such a port (other nodes' NodePorts, 127.0.0.1) are not in the table and
//! take their usual way. What has no frontend is punted back through `weir0`. The source is the
//! destination itself, as it is without weir, so a wildcard UDP socket of the host answers from the
//! address that was asked.
//!
//! **To hostPorts at 127.0.0.1.** Their rules name exact ports and lead to a table of their own, or
//! else NodePorts at 127.0.0.1 and the host's own services there would pass weir as well:
//!
//! ```text
//!  50:  iif lo ipproto tcp dport 8081 lookup 30566     ip route show table 30566:
//! 100:  lookup local                           127.0.0.1 via <gateway> dev weir0 src 127.0.0.1
//! ```
//!
//! The source is loopback, as it is without weir. Kubelet's chain KUBE-FIREWALL drops everything
//! else that goes there and is not translated by conntrack, so sockets that are bound to another
//! address of a Kubernetes node do not get through. What has no frontend is punted here as well.
//! The answers come into `weir0` from 127.0.0.1, so it has `route_localnet`, as long as there are
//! such rules: no other interface takes packets from or to loopback addresses, and the pipeline
//! gives `weir0` none but these. IPv6 has no such way: the kernel takes ::1 from no interface but
//! `lo`.
//!
//! **As a backend** (hostNetwork). A client's packet reaches the host from the peer's address; the
//! host answers to the peer, through `weir0`. These routes name the node's address as source, or
//! else wildcard UDP sockets would answer from `weir0`'s.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::Handle;

use super::route::{self, IPV6_DEFAULT_METRIC, Prefix, RouteSpec};
use super::rule::{self, PortRule};
use super::state::MAIN_TABLE;
use super::{
    Error, GATEWAY_IPV4, GATEWAY_IPV6, HOST_PEER_IPV4, HOST_PEER_IPV6, HostPort, Netlink, sysctl,
};

/// weir's routing table ("we").
pub const TABLE: u32 = 0x7765;
/// The one for loopback addresses.
pub const LOOPBACK_TABLE: u32 = 0x7766;
/// Place of the rules that lead to them.
pub const PRIORITY: u32 = 50;
/// Most rules of a node: the kernel asks each of them for every packet of a socket without route.
pub const RULES_MAX: usize = 256;

const ROUTE_LOCALNET: &str = "net/ipv4/conf/weir0/route_localnet";

/// Which of the host's packets go through `weir0`: those to these L4 ports of these addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPaths {
    pub rules: BTreeSet<PortRule>,
    pub addresses: BTreeSet<IpAddr>,
}

impl Netlink {
    /// Leads exactly these packets of the host to addresses of its own, and these to loopback
    /// addresses (IPv4), through `port`. Without a rule of a family nothing of it is left, and its
    /// `local` table is first again.
    ///
    /// # Errors
    /// What the kernel refused, by rule, route or sysctl; calling again completes it.
    pub async fn set_host_paths(
        &self,
        port: &HostPort,
        own: &HostPaths,
        loopback: &HostPaths,
    ) -> Result<(), Error> {
        let is_own = |spec: &RouteSpec| [TABLE, LOOPBACK_TABLE].contains(&spec.table);
        let has_loopback = !loopback.rules.is_empty();
        let mut wanted = BTreeSet::new();
        for is_ipv4 in families(port) {
            if own.rules.iter().any(|rule| rule.is_ipv4 == is_ipv4) {
                let of_family = own.addresses.iter().filter(|addr| addr.is_ipv4() == is_ipv4);
                wanted.extend(of_family.map(|addr| own_route(port, *addr)));
            }
        }
        if has_loopback {
            let of_family = loopback.addresses.iter().filter(|addr| addr.is_ipv4());
            let route =
                |addr: &IpAddr| RouteSpec { table: LOOPBACK_TABLE, ..own_route(port, *addr) };
            wanted.extend(of_family.map(route));
            sysctl::set(ROUTE_LOCALNET, "1")?;
        }
        if !wanted.is_empty() {
            route::set(&self.handle, &wanted, is_own).await?;
        }
        for is_ipv4 in families(port) {
            let tables = [(TABLE, &own.rules), (LOOPBACK_TABLE, &loopback.rules)];
            rule::set_ports(&self.handle, PRIORITY, is_ipv4, &tables).await?;
        }
        if !has_loopback {
            sysctl::set(ROUTE_LOCALNET, "0")?;
        }
        route::set(&self.handle, &wanted, is_own).await
    }

    /// Routes the peer's addresses through `port`; the host answers from the first of `sources` of
    /// the family, or, without one, from `weir0`'s address.
    ///
    /// # Errors
    /// What the kernel refused, by route.
    pub async fn set_host_peer(&self, port: &HostPort, sources: &[IpAddr]) -> Result<(), Error> {
        let mut wanted = BTreeSet::new();
        for is_ipv4 in families(port) {
            let (peer, own) = if is_ipv4 {
                (IpAddr::from(HOST_PEER_IPV4), Some(IpAddr::from(port.ipv4)))
            } else {
                (HOST_PEER_IPV6.into(), port.ipv6.map(IpAddr::from))
            };
            let source = sources.iter().copied().find(|source| source.is_ipv4() == is_ipv4);
            wanted.insert(RouteSpec {
                table: MAIN_TABLE,
                destination: Prefix::host(peer),
                ifindex: Some(port.host.ifindex),
                gateway: None,
                source: source.or(own),
                metric: if is_ipv4 { 0 } else { IPV6_DEFAULT_METRIC },
            });
        }
        let peers = [IpAddr::from(HOST_PEER_IPV4), HOST_PEER_IPV6.into()];
        let is_peer = |spec: &RouteSpec| peers.contains(&spec.destination.address);
        route::set(&self.handle, &wanted, is_peer).await
    }
}

/// Deletes all rules and puts the `local` table first again.
pub(super) async fn remove_rules(handle: &Handle) -> Result<(), Error> {
    let none = BTreeSet::new();
    for is_ipv4 in [true, false] {
        let tables = [(TABLE, &none), (LOOPBACK_TABLE, &none)];
        rule::set_ports(handle, PRIORITY, is_ipv4, &tables).await?;
    }
    Ok(())
}

/// IPv4, and IPv6 where the kernel has it.
fn families(port: &HostPort) -> impl Iterator<Item = bool> + use<> {
    [true].into_iter().chain(port.ipv6.map(|_| false))
}

fn own_route(port: &HostPort, address: IpAddr) -> RouteSpec {
    let is_ipv4 = address.is_ipv4();
    RouteSpec {
        table: TABLE,
        destination: Prefix::host(address),
        ifindex: Some(port.host.ifindex),
        gateway: Some(if is_ipv4 { GATEWAY_IPV4.into() } else { GATEWAY_IPV6.into() }),
        source: Some(address),
        metric: if is_ipv4 { 0 } else { IPV6_DEFAULT_METRIC },
    }
}
