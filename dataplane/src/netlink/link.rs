//! Finding, making and deleting links.

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::io::Errno;

use super::error::{Error, errno};

/// A network interface of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
    /// MAC; all zero for links that have none of six bytes (loopback, tunnels).
    pub mac: [u8; 6],
    /// Bytes of a packet without its Ethernet header.
    pub mtu: u32,
    /// Administratively up, and running as far as the device can tell.
    pub up: bool,
}

/// What tells a veth of the right shape from another link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    is_veth: bool,
    /// Peer, if it is in the same namespace.
    peer_ifindex: Option<u32>,
    queues: (u32, u32),
}

impl Link {
    /// The link of an rtnetlink message; `None` if the message is about something else (bridge
    /// ports, for example, have messages of their own under another family).
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        if message.header.interface_family != Default::default() {
            return None;
        }
        let running = LinkFlags::Up | LinkFlags::Running;
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            up: message.header.flags.contains(running),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().unwrap_or_default();
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

impl Shape {
    fn from_message(message: &LinkMessage) -> Self {
        let mut shape = Self { is_veth: false, peer_ifindex: None, queues: (0, 0) };
        let mut is_peer_elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::LinkInfo(infos) => {
                    shape.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                }
                LinkAttribute::Link(peer) => shape.peer_ifindex = Some(*peer),
                LinkAttribute::LinkNetNsId(_) => is_peer_elsewhere = true,
                LinkAttribute::NumTxQueues(n) => shape.queues.0 = *n,
                LinkAttribute::NumRxQueues(n) => shape.queues.1 = *n,
                _ => {}
            }
        }
        if is_peer_elsewhere {
            shape.peer_ifindex = None;
        }
        shape
    }
}

/// A veth pair inside this namespace.
pub(super) struct VethPair<'a> {
    pub(super) a: &'a str,
    pub(super) b: &'a str,
    /// Exactly one transmit and one receive queue at each end (a veth has one per CPU otherwise).
    pub(super) is_single_queue: bool,
}

impl VethPair<'_> {
    /// Adopts the pair if it has this shape. Otherwise deletes what bears its names and makes it.
    pub(super) async fn ensure(&self, handle: &Handle) -> Result<(Link, Link), Error> {
        let found = (message(handle, self.a).await?, message(handle, self.b).await?);
        if let (Some(a), Some(b)) = &found
            && self.is_right_shape(a, b)
        {
            return Ok((require(handle, self.a).await?, require(handle, self.b).await?));
        }
        if found.0.is_some() || found.1.is_some() {
            tracing::info!(a = self.a, b = self.b, "replacing links of another shape");
        }
        delete_by_name(handle, self.a).await?;
        delete_by_name(handle, self.b).await?;
        self.create(handle).await?;
        Ok((require(handle, self.a).await?, require(handle, self.b).await?))
    }

    fn is_right_shape(&self, a: &LinkMessage, b: &LinkMessage) -> bool {
        let (shape_a, shape_b) = (Shape::from_message(a), Shape::from_message(b));
        let is_pair = shape_a.is_veth
            && shape_b.is_veth
            && shape_a.peer_ifindex == Some(b.header.index)
            && shape_b.peer_ifindex == Some(a.header.index);
        is_pair && (!self.is_single_queue || [shape_a, shape_b].iter().all(|s| s.queues == (1, 1)))
    }

    async fn create(&self, handle: &Handle) -> Result<(), Error> {
        let queues = if self.is_single_queue {
            vec![LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)]
        } else {
            Vec::new()
        };
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(self.b.into()));
        peer.attributes.extend(queues.iter().cloned());
        let mut pair = LinkMessageBuilder::<LinkVeth>::new(self.a, self.b)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        for attribute in queues {
            pair = pair.append_extra_attribute(attribute);
        }
        let made = handle.link().add(pair.build()).execute().await;
        made.map_err(Error::refused("create veth pair", format!("{} / {}", self.a, self.b)))
    }
}

/// Sets the MTU and takes the link up; `arp` false also switches ARP and ND off.
pub(super) async fn set_up(handle: &Handle, link: &Link, mtu: u32, arp: bool) -> Result<(), Error> {
    let mut message = LinkUnspec::new_with_index(link.ifindex).mtu(mtu).up();
    if !arp {
        message = message.arp(false);
    }
    let done = handle.link().change(message.build()).execute().await;
    done.map_err(Error::refused("set MTU and flags of", &link.name))
}

/// Gives the link a MAC, if it has another.
pub(super) async fn set_mac(handle: &Handle, link: &Link, mac: [u8; 6]) -> Result<(), Error> {
    if link.mac == mac {
        return Ok(());
    }
    let message = LinkUnspec::new_with_index(link.ifindex).address(mac.to_vec()).build();
    let done = handle.link().change(message).execute().await;
    done.map_err(Error::refused("set the MAC of", &link.name))
}

/// The link of that name, which must exist.
pub(super) async fn require(handle: &Handle, name: &str) -> Result<Link, Error> {
    let message = message(handle, name).await?;
    message.as_ref().and_then(Link::from_message).ok_or_else(|| Error::NoLink(name.into()))
}

/// The link of that index, which must exist.
pub(super) async fn require_index(handle: &Handle, ifindex: u32) -> Result<Link, Error> {
    let object = format!("interface {ifindex}");
    let found = handle.link().get().match_index(ifindex).execute().try_next().await;
    match found {
        Ok(message) => message.as_ref().and_then(Link::from_message).ok_or(Error::NoLink(object)),
        Err(error) if errno(&error) == Errno::NODEV.raw_os_error() => Err(Error::NoLink(object)),
        Err(error) => Err(Error::refused("read", object)(error)),
    }
}

/// Names of all links.
pub(super) async fn names(handle: &Handle) -> Result<Vec<String>, Error> {
    let all: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list", "links"))?;
    Ok(all.iter().filter_map(Link::from_message).map(|link| link.name).collect())
}

/// Deletes a link, if it exists. With one end of a veth goes the other.
pub(super) async fn delete_by_name(handle: &Handle, name: &str) -> Result<(), Error> {
    let Some(message) = message(handle, name).await? else { return Ok(()) };
    match handle.link().del(message.header.index).execute().await {
        Err(error) if errno(&error) == Errno::NODEV.raw_os_error() => Ok(()),
        done => done.map_err(Error::refused("delete link", name)),
    }
}

async fn message(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(message) => Ok(message),
        Err(error) if errno(&error) == Errno::NODEV.raw_os_error() => Ok(None),
        Err(error) => Err(Error::refused("read link", name)(error)),
    }
}
