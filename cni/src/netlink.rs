//! The kernel's links, addresses, routes and neighbours, in the namespace of the calling thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;

use crate::error::{CniError, KERNEL};

/// A connection; its task ends with the runtime.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

/// What matters of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address, zero where it has none of six bytes.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub is_up: bool,
    /// Index of a veth's other end, in the namespace of that.
    pub peer: u32,
}

/// A route through one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// First address; the unspecified one for the default route.
    pub destination: IpAddr,
    /// Prefix length.
    pub length: u8,
    /// `None`: on the link itself.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// Opens a connection.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, CniError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
            let details = "weir-cni must run as root of the host";
            CniError::new(KERNEL, format!("cannot talk to the kernel: {error}"), details)
        })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The link of this name.
    ///
    /// # Errors
    /// What the kernel refuses, as in all of the following.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, CniError> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.as_ref().map(read_link)),
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(refused("look up link", name, &error)),
        }
    }

    /// All links.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn links(&self) -> Result<Vec<Link>, CniError> {
        let all = self.handle.link().get().execute().map_ok(|it| read_link(&it));
        all.try_collect().await.map_err(|error| refused("list", "links", &error))
    }

    /// Makes a veth pair, both ends down: `near` here, `far` in the namespace of `fd`. An MTU of 0
    /// is the kernel's default.
    ///
    /// # Errors
    /// See [`Self::find`]; either name exists.
    pub async fn create_veth(
        &self,
        near: (&str, [u8; 6]),
        far: (&str, [u8; 6]),
        mtu: u32,
        fd: i32,
    ) -> Result<(), CniError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(far.0.into()),
            LinkAttribute::Address(far.1.to_vec()),
            LinkAttribute::NetNsFd(fd),
        ];
        let mtu = (mtu > 0).then_some(LinkAttribute::Mtu(mtu));
        peer.attributes.extend(mtu.clone());
        let mut pair = LinkMessageBuilder::<LinkVeth>::new(near.0, far.0)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(near.1.to_vec());
        if let Some(mtu) = mtu {
            pair = pair.append_extra_attribute(mtu);
        }
        let made = self.handle.link().add(pair.build()).execute().await;
        made.map_err(|error| {
            refused("create veth pair", &format!("{} / {}", near.0, far.0), &error)
        })
    }

    /// Deletes a link by name, with its other end; false where there was none.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn delete(&self, name: &str) -> Result<bool, CniError> {
        let Some(link) = self.find(name).await? else { return Ok(false) };
        match self.handle.link().del(link.index).execute().await {
            Ok(()) => Ok(true),
            Err(error) if is(&error, Errno::NODEV) => Ok(false),
            Err(error) => Err(refused("delete link", name, &error)),
        }
    }

    /// Takes a link up.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn set_up(&self, link: &Link) -> Result<(), CniError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let done = self.handle.link().change(message).execute().await;
        done.map_err(|error| refused("take up link", &link.name, &error))
    }

    /// Takes a link down.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn set_down(&self, link: &Link) -> Result<(), CniError> {
        let message = LinkUnspec::new_with_index(link.index).down().build();
        let done = self.handle.link().change(message).execute().await;
        done.map_err(|error| refused("take down link", &link.name, &error))
    }

    /// Adds an address, usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn add_address(&self, link: &Link, ip: IpAddr, length: u8) -> Result<(), CniError> {
        let mut request = self.handle.address().add(link.index, ip, length).replace();
        if ip.is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        let done = request.execute().await;
        done.map_err(|error| refused("add address", &format!("{ip} of {}", link.name), &error))
    }

    /// Adds a permanent neighbour.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn add_neighbour(
        &self,
        link: &Link,
        ip: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), CniError> {
        let request = self.handle.neighbours().add(link.index, ip).replace();
        let done =
            request.state(NeighbourState::Permanent).link_layer_address(&mac).execute().await;
        done.map_err(|error| refused("add neighbour", &format!("{ip} of {}", link.name), &error))
    }

    /// Adds a route, or replaces that to the same destination.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn add_route(&self, link: &Link, route: Route) -> Result<(), CniError> {
        let message = write_route(link, route);
        let done = self.handle.route().add(message).replace().execute().await;
        let object = format!("{}/{} of {}", route.destination, route.length, link.name);
        done.map_err(|error| refused("add route", &object, &error))
    }

    /// Addresses of a link, with their prefix lengths.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn addresses(&self, link: &Link) -> Result<Vec<(IpAddr, u8)>, CniError> {
        let list = self.handle.address().get().set_link_index_filter(link.index).execute();
        let read = |message: AddressMessage| {
            let length = message.header.prefix_len;
            let addresses = message.attributes.iter().filter_map(move |it| match it {
                AddressAttribute::Address(ip) => Some((*ip, length)),
                _ => None,
            });
            addresses.collect::<Vec<_>>()
        };
        let all: Result<Vec<_>, _> = list.map_ok(read).try_collect().await;
        let all = all.map_err(|error| refused("list addresses of", &link.name, &error))?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Routes of the main table through a link.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn routes(&self, link: &Link) -> Result<Vec<Route>, CniError> {
        let mut routes = Vec::new();
        let all = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        for filter in all {
            let list = self.handle.route().get(filter).execute();
            let list: Result<Vec<RouteMessage>, _> = list.try_collect().await;
            let list = list.map_err(|error| refused("list routes of", &link.name, &error))?;
            routes.extend(list.iter().filter_map(|it| read_route(it, link.index)));
        }
        Ok(routes)
    }

    /// Permanent neighbours of a link.
    ///
    /// # Errors
    /// See [`Self::find`].
    pub async fn neighbours(&self, link: &Link) -> Result<Vec<(IpAddr, [u8; 6])>, CniError> {
        let list = self.handle.neighbours().get().execute();
        let list: Result<Vec<_>, _> = list.try_collect().await;
        let list = list.map_err(|error| refused("list neighbours of", &link.name, &error))?;
        let own = list.into_iter().filter(|it| {
            it.header.ifindex == link.index && it.header.state == NeighbourState::Permanent
        });
        let read = own.filter_map(|message| {
            let (mut ip, mut mac) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                        ip = Some(v4.into());
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                        ip = Some(v6.into());
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
                    _ => {}
                }
            }
            Some((ip?, mac?))
        });
        Ok(read.collect())
    }
}

fn read_link(message: &LinkMessage) -> Link {
    let is_up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: message.header.index, is_up, ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(peer) => link.peer = *peer,
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().unwrap_or_default();
            }
            _ => {}
        }
    }
    link
}

fn write_route(link: &Link, route: Route) -> RouteMessage {
    let scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let mut message = match route.destination {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(ip, route.length)
            .output_interface(link.index)
            .scope(scope)
            .build(),
        // IPv6 routes have no scope.
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(ip, route.length)
            .output_interface(link.index)
            .build(),
    };
    let gateway = route.gateway.map(|it| match it {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    });
    message.attributes.extend(gateway.map(RouteAttribute::Gateway));
    message
}

fn read_route(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut is_own = false;
    let mut route = Route {
        destination: match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        },
        length: header.destination_prefix_length,
        gateway: None,
    };
    let read = |it: &RouteAddress| match it {
        RouteAddress::Inet(ip) => Some(IpAddr::from(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::from(*ip)),
        _ => None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => is_own = *oif == index,
            RouteAttribute::Destination(it) => route.destination = read(it)?,
            RouteAttribute::Gateway(it) => route.gateway = read(it),
            _ => {}
        }
    }
    is_own.then_some(route)
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    raw_errno(error) == Some(errno.raw_os_error())
}

fn raw_errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

fn refused(action: &str, object: &str, error: &rtnetlink::Error) -> CniError {
    let reason = match raw_errno(error) {
        Some(errno) => Errno::from_raw_os_error(errno).to_string(),
        None => error.to_string(),
    };
    let details = "see the kernel's log (dmesg); weir-cni must run as root of the host";
    CniError::new(KERNEL, format!("cannot {action} {object}: {reason}"), details)
}
