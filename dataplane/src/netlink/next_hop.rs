//! Where a packet to some address goes: a pure look-up in a [`KernelState`].

use std::net::IpAddr;

use super::KernelState;
use super::state::{MAIN_TABLE, RouteKind};

/// The neighbour that a packet is to be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface to send on.
    pub ifindex: u32,
    /// Gateway, or the destination itself where it is on the link.
    pub via: IpAddr,
    /// MAC of `via`; `None` until it is resolved: see
    /// [`KernelWatch::request_neighbour`](super::KernelWatch::request_neighbour).
    pub mac: Option<[u8; 6]>,
    /// MAC of the interface.
    pub src_mac: [u8; 6],
    /// Bytes: the smaller of the link's and the route's.
    pub mtu: u32,
}

/// The next hop towards `destination` by the main table.
pub fn next_hop(state: &KernelState, destination: IpAddr) -> Option<NextHop> {
    next_hop_in(state, MAIN_TABLE, destination)
}

/// The next hop towards `destination` by one table: longest prefix, then lowest metric.
///
/// `None` if there is no route, if the route is not unicast, if the destination is the node itself,
/// and if the interface is down or has no MAC. Of several ways of one route the first whose
/// interface is up is taken, for all packets: flows are not spread. IPv6 router preferences
/// (RFC 4191) are not looked at. IPv6 link-local destinations have no next hop: they mean nothing
/// without an interface.
pub fn next_hop_in(state: &KernelState, table: u32, destination: IpAddr) -> Option<NextHop> {
    let is_unroutable = match destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local(),
    };
    if is_unroutable || destination.is_loopback() || is_local(state, destination) {
        return None;
    }
    let route = state
        .routes
        .iter()
        .find(|route| route.table == table && route.destination.contains(destination))
        .filter(|route| route.kind == RouteKind::Unicast)?;
    let (hop, link) = route.hops.iter().find_map(|hop| {
        let link = state.links.get(&hop.ifindex)?;
        (link.up && link.mac != [0; 6]).then_some((hop, link))
    })?;
    let via = hop.gateway.unwrap_or(destination);
    let neighbour = state.neighbours.get(&(hop.ifindex, via));
    Some(NextHop {
        ifindex: hop.ifindex,
        via,
        mac: neighbour.and_then(|neighbour| neighbour.usable_mac()),
        src_mac: link.mac,
        mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
    })
}

fn is_local(state: &KernelState, destination: IpAddr) -> bool {
    state.addresses.range((destination, 0)..=(destination, u32::MAX)).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::super::state::{Hop, Neighbour, NeighbourState, Route};
    use super::super::{Link, Prefix};
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(prefix: &str, metric: u32, kind: RouteKind, hops: &[(u32, Option<&str>)]) -> Route {
        let (address, len) = prefix.split_once('/').unwrap();
        Route {
            table: MAIN_TABLE,
            destination: Prefix::new(ip(address), len.parse().unwrap()),
            metric,
            kind,
            hops: hops
                .iter()
                .map(|(ifindex, gateway)| Hop { ifindex: *ifindex, gateway: gateway.map(ip) })
                .collect(),
            mtu: None,
            is_own: false,
        }
    }

    /// Two uplinks (2 up, 3 up, 4 down), routes in the order that a dump would be sorted into.
    fn state(routes: Vec<Route>) -> KernelState {
        let link = |ifindex: u32, up| Link {
            ifindex,
            name: format!("eth{ifindex}"),
            mac: [2, 0, 0, 0, 1, ifindex as u8],
            mtu: 1500,
            up,
        };
        let mut state = KernelState {
            links: [(2, link(2, true)), (3, link(3, true)), (4, link(4, false))].into(),
            addresses: [((ip("192.0.2.10"), 2), 24)].into(),
            routes,
            ..KernelState::default()
        };
        let reachable = Neighbour { mac: Some(MAC), state: NeighbourState::Reachable };
        for gateway in ["192.0.2.1", "fe80::1"] {
            state.neighbours.insert((2, ip(gateway)), reachable);
        }
        state
    }

    #[test]
    fn the_default_route_goes_through_its_gateway() {
        let state = state(vec![
            route("192.0.2.0/24", 0, RouteKind::Unicast, &[(2, None)]),
            route("0.0.0.0/0", 100, RouteKind::Unicast, &[(2, Some("192.0.2.1"))]),
        ]);
        let hop = next_hop(&state, ip("8.8.8.8")).unwrap();
        assert_eq!((hop.ifindex, hop.via, hop.mac), (2, ip("192.0.2.1"), Some(MAC)));
        assert_eq!((hop.src_mac, hop.mtu), ([2, 0, 0, 0, 1, 2], 1500));
        assert_eq!(next_hop(&state, ip("2001:db8::1")), None, "no IPv6 route");
    }

    #[test]
    fn an_on_link_destination_is_its_own_next_hop_and_unresolved_at_first() {
        let state = state(vec![route("192.0.2.0/24", 0, RouteKind::Unicast, &[(2, None)])]);
        let hop = next_hop(&state, ip("192.0.2.77")).unwrap();
        assert_eq!((hop.via, hop.mac), (ip("192.0.2.77"), None));
        assert_eq!(next_hop(&state, ip("192.0.2.10")), None, "the node's own address");
    }

    #[test]
    fn the_longest_prefix_wins_even_if_it_refuses() {
        for kind in [RouteKind::Blackhole, RouteKind::Unreachable, RouteKind::Prohibit] {
            let state = state(vec![
                route("10.1.0.0/16", 0, kind, &[]),
                route("10.0.0.0/8", 0, RouteKind::Unicast, &[(2, Some("192.0.2.1"))]),
            ]);
            assert_eq!(next_hop(&state, ip("10.1.2.3")), None);
            assert!(next_hop(&state, ip("10.2.2.3")).is_some());
        }
    }

    #[test]
    fn sorting_puts_the_lower_metric_first() {
        let mut unsorted = state(Vec::new());
        let dump = [(200, 3, [203, 0, 113, 3]), (100, 2, [203, 0, 113, 2])].map(
            |(metric, ifindex, gateway)| {
                rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .priority(metric)
                    .output_interface(ifindex)
                    .gateway(gateway.into())
                    .build()
            },
        );
        assert!(unsorted.replace_routes(&dump, &[MAIN_TABLE]));
        assert!(!unsorted.replace_routes(&dump, &[MAIN_TABLE]), "nothing new");
        assert_eq!(next_hop(&unsorted, ip("8.8.8.8")).unwrap().via, ip("203.0.113.2"));
        assert_eq!(next_hop_in(&unsorted, 100, ip("8.8.8.8")), None, "another table");
    }

    #[test]
    fn ipv6_goes_through_link_local_gateways_of_the_right_interface() {
        let state = state(vec![route("::/0", 1024, RouteKind::Unicast, &[(2, Some("fe80::1"))])]);
        let hop = next_hop(&state, ip("2001:db8::1")).unwrap();
        assert_eq!((hop.ifindex, hop.via, hop.mac), (2, ip("fe80::1"), Some(MAC)));
        assert_eq!(next_hop(&state, ip("fe80::1")), None, "needs an interface");
        let mut elsewhere = state.clone();
        elsewhere.routes[0].hops[0].ifindex = 3;
        assert_eq!(next_hop(&elsewhere, ip("2001:db8::1")).unwrap().mac, None);
    }

    #[test]
    fn multipath_takes_the_first_way_that_is_up() {
        let ways = [(4, Some("203.0.113.4")), (3, Some("203.0.113.3")), (2, Some("192.0.2.1"))];
        let mut state = state(vec![route("0.0.0.0/0", 0, RouteKind::Unicast, &ways)]);
        assert_eq!(next_hop(&state, ip("8.8.8.8")).unwrap().ifindex, 3);
        state.links.get_mut(&3).unwrap().mac = [0; 6];
        assert_eq!(next_hop(&state, ip("8.8.8.8")).unwrap().ifindex, 2);
        state.links.clear();
        assert_eq!(next_hop(&state, ip("8.8.8.8")), None);
    }

    #[test]
    fn a_failed_neighbour_has_no_mac_and_a_stale_one_has() {
        let mut state =
            state(vec![route("0.0.0.0/0", 0, RouteKind::Unicast, &[(2, Some("192.0.2.1"))])]);
        for (nud, expected) in [
            (NeighbourState::Failed, None),
            (NeighbourState::Incomplete, None),
            (NeighbourState::Stale, Some(MAC)),
            (NeighbourState::Delay, Some(MAC)),
            (NeighbourState::Probe, Some(MAC)),
            (NeighbourState::Permanent, Some(MAC)),
            (NeighbourState::Noarp, Some(MAC)),
        ] {
            let neighbour = Neighbour { mac: Some(MAC), state: nud };
            state.neighbours.insert((2, ip("192.0.2.1")), neighbour);
            assert_eq!(next_hop(&state, ip("8.8.8.8")).unwrap().mac, expected, "{nud}");
        }
    }

    #[test]
    fn a_routes_mtu_lowers_the_links() {
        let mut state = state(vec![route("0.0.0.0/0", 0, RouteKind::Unicast, &[(2, None)])]);
        state.routes[0].mtu = Some(1400);
        assert_eq!(next_hop(&state, ip("8.8.8.8")).unwrap().mtu, 1400);
        state.routes[0].mtu = Some(9000);
        assert_eq!(next_hop(&state, ip("8.8.8.8")).unwrap().mtu, 1500);
    }
}
