//! The part of the kernel's networking state that a dataplane needs, and how messages change it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
pub use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
};

use super::route::{Prefix, destination, to_ip};
use super::{Link, PROTOCOL};

/// The kernel's main routing table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// Links, addresses, routes and neighbours of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    /// The node's own addresses, with the length of their prefix.
    pub addresses: BTreeMap<(IpAddr, u32), u8>,
    /// Routes of the watched tables: by table, then longest prefix first, then lowest metric.
    pub routes: Vec<Route>,
    /// By interface index and address.
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// How often events were lost and everything was read anew.
    pub resyncs: u64,
    /// How often a link went down, with which the kernel forgets entries that nobody is told of.
    pub downs: u64,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it to a next hop.
    Unicast,
    /// It is for the node itself.
    Local,
    /// Drops it without a word.
    Blackhole,
    /// Refuses it: unreachable.
    Unreachable,
    /// Refuses it: prohibited.
    Prohibit,
    /// Says that this table has no route.
    Throw,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Destinations.
    pub destination: Prefix,
    /// Lower wins among equal prefixes.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Ways to go, in the kernel's order; empty unless unicast.
    pub hops: Vec<Hop>,
    /// MTU of the route, if it sets one.
    pub mtu: Option<u32>,
    /// Made by weir: it bears [`PROTOCOL`].
    pub is_own: bool,
}

/// One way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface index.
    pub ifindex: u32,
    /// `None`: the destination is on the link. May be IPv6 for an IPv4 route (RFC 5549).
    pub gateway: Option<IpAddr>,
}

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The last MAC known, whether or not it still holds: see [`Neighbour::usable_mac`].
    pub mac: Option<[u8; 6]>,
    /// The kernel's `NUD_*` state.
    pub state: NeighbourState,
}

impl Neighbour {
    /// The MAC, if packets may be sent to it: also stale ones may, the kernel checks them then
    /// (RFC 4861 section 7.3.2); failed and incomplete ones may not.
    pub fn usable_mac(&self) -> Option<[u8; 6]> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        match self.state {
            Reachable | Stale | Delay | Probe | Permanent | Noarp => self.mac,
            _ => None,
        }
    }
}

/// What a message did to the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Something differs.
    pub(super) is_changed: bool,
    /// The routes must be read anew. Messages about routes do not suffice: the kernel removes IPv4
    /// routes without one when a link goes down or an address goes, and a message about one way of
    /// a multipath route does not say what remains.
    pub(super) needs_routes: bool,
}

impl KernelState {
    /// Applies one multicast message or one line of a dump (of anything but routes).
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage) -> Effect {
        use RouteNetlinkMessage as M;
        let mut effect = Effect::default();
        match message {
            M::NewLink(link) => {
                let Some(link) = Link::from_message(link) else { return effect };
                let old = self.links.insert(link.ifindex, link.clone());
                effect.needs_routes = old.as_ref().is_some_and(|old| old.up != link.up);
                self.downs += u64::from(old.as_ref().is_some_and(|old| old.up && !link.up));
                effect.is_changed = old != Some(link);
            }
            M::DelLink(link) if Link::from_message(link).is_some() => {
                effect.is_changed = self.links.remove(&link.header.index).is_some();
                effect.needs_routes = effect.is_changed;
                self.addresses.retain(|(_, ifindex), _| *ifindex != link.header.index);
                self.neighbours.retain(|(ifindex, _), _| *ifindex != link.header.index);
            }
            M::NewAddress(message) => {
                let Some(address) = address(message) else { return effect };
                let old = self.addresses.insert(address, message.header.prefix_len);
                effect.is_changed = old != Some(message.header.prefix_len);
            }
            M::DelAddress(message) => {
                let Some(address) = address(message) else { return effect };
                effect.is_changed = self.addresses.remove(&address).is_some();
                effect.needs_routes = effect.is_changed;
            }
            M::NewNeighbour(message) => {
                let Some((key, neighbour)) = neighbour(message) else { return effect };
                effect.is_changed = self.neighbours.insert(key, neighbour) != Some(neighbour);
            }
            M::DelNeighbour(message) => {
                let Some((key, _)) = neighbour(message) else { return effect };
                effect.is_changed = self.neighbours.remove(&key).is_some();
            }
            M::NewRoute(_) | M::DelRoute(_) => effect.needs_routes = true,
            _ => {}
        }
        effect
    }

    /// Takes a dump of all routes; keeps those of `tables`. Whether anything differs.
    pub(super) fn replace_routes(&mut self, dump: &[RouteMessage], tables: &[u32]) -> bool {
        let mut routes: Vec<Route> = dump.iter().filter_map(Route::from_message).collect();
        routes.retain(|route| tables.contains(&route.table));
        routes.sort_by_key(|r| {
            (r.table, u8::MAX - r.destination.len, r.destination.address, r.metric)
        });
        let is_changed = routes != self.routes;
        self.routes = routes;
        is_changed
    }
}

impl Route {
    /// `None` for cached, multicast, broadcast and anycast routes, and for those that depend on
    /// more than the destination (TOS, source prefix).
    fn from_message(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let is_special = header.tos != 0 || header.source_prefix_length != 0;
        if is_special || header.flags.intersects(RouteFlags::Cloned | RouteFlags::Dead) {
            return None;
        }
        let kind = match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Local => RouteKind::Local,
            RouteType::BlackHole => RouteKind::Blackhole,
            RouteType::Unreachable => RouteKind::Unreachable,
            RouteType::Prohibit => RouteKind::Prohibit,
            RouteType::Throw => RouteKind::Throw,
            _ => return None,
        };
        let destination = destination(message).filter(|p| !p.address.is_multicast())?;
        let mut route = Self {
            table: header.table.into(),
            destination,
            metric: 0,
            kind,
            hops: Vec::new(),
            mtu: None,
            is_own: header.protocol == RouteProtocol::Other(PROTOCOL),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::MultiPath(hops) => {
                    route.hops.extend(hops.iter().filter_map(multipath_hop));
                }
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        route.hops.extend(single_hop(&message.attributes));
        if kind != RouteKind::Unicast {
            route.hops.clear();
        }
        Some(route)
    }
}

fn single_hop(attributes: &[RouteAttribute]) -> Option<Hop> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => {
            Some(Hop { ifindex: *ifindex, gateway: gateway(attributes) })
        }
        _ => None,
    })
}

fn multipath_hop(hop: &RouteNextHop) -> Option<Hop> {
    let is_dead = hop.flags.contains(RouteNextHopFlags::Dead);
    (!is_dead).then(|| Hop { ifindex: hop.interface_index, gateway: gateway(&hop.attributes) })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => to_ip(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

/// The local address: on point-to-point links `IFA_ADDRESS` is the peer's.
fn address(message: &AddressMessage) -> Option<(IpAddr, u32)> {
    let find =
        |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    (!address.is_multicast()).then_some((address, message.header.index))
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::from(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::from(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let address = address.filter(|a| !a.is_multicast() && !a.is_unspecified())?;
    let is_group = mac.is_some_and(|mac: [u8; 6]| mac[0] & 1 != 0);
    let neighbour = Neighbour { mac, state: message.header.state };
    (!is_group).then_some(((message.header.ifindex, address), neighbour))
}
