//! Ways to the pods of other nodes, and the end of the way for addresses that no local pod has.
//!
//! ```text
//! 10.244.2.0/24 via 192.0.2.12 dev eth0         the pods of a node on the same link
//! unreachable 10.244.1.0/24 metric 4294967293   our own range, behind the routes of its pods
//! ```
//!
//! Without the second, a packet to a free address of our range would go to the default gateway,
//! which sends it back to us. A node that is not on a link of ours gets no route: the network
//! between must know its pods. Routes that others have made for a range stay, alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::route::{self, IPV6_DEFAULT_METRIC, Prefix, RouteSpec};
use super::state::{MAIN_TABLE, Route, RouteKind};
use super::{Error, HostPort, KernelState, Netlink};

/// Metric of the `unreachable` route of an own range: worse than any pod's, and not that of a
/// service range.
const UNREACHABLE_METRIC: u32 = u32::MAX - 2;

/// Pods of `destination` are reached by the node at `via`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodWay {
    /// Their range.
    pub destination: Prefix,
    /// The node, of the same family.
    pub via: IpAddr,
}

/// The routes that there shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodWays {
    routes: BTreeSet<RouteSpec>,
    /// Ways to nodes that no route at all leads to.
    pub without_route: Vec<PodWay>,
}

impl PodWays {
    /// The routes for these ranges of our own and these ways, as the network is now.
    pub fn plan(state: &KernelState, own: &[Prefix], ways: &[PodWay], uplinks: &[u32]) -> PodWays {
        let mut plan = PodWays::default();
        plan.routes.extend(own.iter().map(|range| RouteSpec {
            table: MAIN_TABLE,
            destination: *range,
            ifindex: None,
            gateway: None,
            source: None,
            metric: UNREACHABLE_METRIC,
        }));
        let foreign: BTreeSet<Prefix> =
            main_routes(state).filter(|route| !route.is_own).map(|r| r.destination).collect();
        for way in ways {
            if foreign.contains(&way.destination) || is_local(state, way.via) {
                continue;
            }
            match route_to(state, way.via) {
                None => plan.without_route.push(*way),
                Some(route) => plan.routes.extend(on_link(route, *way, uplinks)),
            }
        }
        plan
    }

    /// Whether the kernel has exactly these routes already.
    pub fn is_done(&self, state: &KernelState, port: &HostPort) -> bool {
        let own = main_routes(state).filter(|route| route.is_own).map(spec);
        own.filter(|spec| is_concerned(spec, port)).collect::<BTreeSet<_>>() == self.routes
    }
}

impl Netlink {
    /// Makes the routes of a plan the only ones of their kinds.
    ///
    /// # Errors
    /// The first refusal of the kernel, by route; the others are set all the same.
    pub async fn set_pod_ways(&self, ways: &PodWays, port: &HostPort) -> Result<(), Error> {
        route::set(&self.handle, &ways.routes, |spec| is_concerned(spec, port)).await
    }
}

fn is_concerned(spec: &RouteSpec, port: &HostPort) -> bool {
    let is_way = spec.gateway.is_some() && spec.ifindex != Some(port.host.ifindex);
    let is_end = spec.ifindex.is_none() && spec.metric == UNREACHABLE_METRIC;
    spec.table == MAIN_TABLE && (is_way || is_end)
}

fn on_link(route: &Route, way: PodWay, uplinks: &[u32]) -> Option<RouteSpec> {
    let hop = route.hops.first()?;
    let is_on_link = hop.gateway.is_none() && uplinks.contains(&hop.ifindex);
    is_on_link.then_some(RouteSpec {
        table: MAIN_TABLE,
        destination: way.destination,
        ifindex: Some(hop.ifindex),
        gateway: Some(way.via),
        source: None,
        metric: if way.via.is_ipv4() { 0 } else { IPV6_DEFAULT_METRIC },
    })
}

fn main_routes(state: &KernelState) -> impl Iterator<Item = &Route> {
    state.routes.iter().filter(|route| route.table == MAIN_TABLE)
}

/// The route that the main table has for an address, if it leads anywhere.
fn route_to(state: &KernelState, address: IpAddr) -> Option<&Route> {
    main_routes(state)
        .find(|route| route.destination.contains(address))
        .filter(|route| route.kind == RouteKind::Unicast)
}

fn is_local(state: &KernelState, address: IpAddr) -> bool {
    state.addresses.range((address, 0)..=(address, u32::MAX)).next().is_some()
}

fn spec(route: &Route) -> RouteSpec {
    let hop = route.hops.first();
    RouteSpec {
        table: route.table,
        destination: route.destination,
        ifindex: hop.map(|hop| hop.ifindex),
        gateway: hop.and_then(|hop| hop.gateway),
        source: None,
        metric: route.metric,
    }
}
