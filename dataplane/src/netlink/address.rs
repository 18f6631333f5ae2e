//! Addresses of weir's links, and permanent neighbours.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressScope, CacheInfo};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::RouteProtocol;
use rustix::io::Errno;

use super::error::{Error, errno};
use super::{Link, PROTOCOL, display_mac, host_prefix_len};

/// Gives the link exactly these addresses, each alone in its prefix, `scope link`; link-local IPv6
/// addresses stay. IPv6 addresses are not probed (nodad), and deprecated, so that the kernel takes
/// them as a source only where a route says so.
pub(super) async fn set(handle: &Handle, link: &Link, wanted: &[IpAddr]) -> Result<(), Error> {
    let question = handle.address().get().set_link_index_filter(link.ifindex);
    let present: Vec<_> = question
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list addresses of", &link.name))?;
    for message in present {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        let is_link_local = matches!(address, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
        if address.is_some_and(|a| !wanted.contains(&a)) && !is_link_local {
            let done = handle.address().del(message).execute().await;
            done.map_err(Error::refused("delete an address of", &link.name))?;
        }
    }
    for address in wanted {
        let len = host_prefix_len(*address);
        let mut request = handle.address().add(link.ifindex, *address, len).replace();
        let message = request.message_mut();
        message.header.scope = AddressScope::Link;
        if address.is_ipv6() {
            message.header.scope = AddressScope::Universe;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_valid = u32::MAX;
            lifetime.ifa_preferred = 0;
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        let object = format!("{address} on {}", link.name);
        request.execute().await.map_err(Error::refused("add address", object))?;
    }
    Ok(())
}

/// Makes the kernel know `address` on `link` under `mac` for good.
pub(super) async fn ensure_neighbour(
    handle: &Handle,
    link: &Link,
    address: IpAddr,
    mac: [u8; 6],
) -> Result<(), Error> {
    let mut request =
        handle.neighbours().add(link.ifindex, address).link_layer_address(&mac).replace();
    let mark = NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
    request.message_mut().attributes.push(mark);
    let object = format!("{address} lladdr {} on {}", display_mac(mac), link.name);
    request.execute().await.map_err(Error::refused("add neighbour", object))
}

/// Deletes a neighbour, if it is there.
pub(super) async fn delete_neighbour(
    handle: &Handle,
    message: NeighbourMessage,
    object: String,
) -> Result<(), Error> {
    let gone =
        [Errno::NOENT.raw_os_error(), Errno::NODEV.raw_os_error(), Errno::NXIO.raw_os_error()];
    match handle.neighbours().del(message).execute().await {
        Err(error) if gone.contains(&errno(&error)) => Ok(()),
        done => done.map_err(Error::refused("delete neighbour", object)),
    }
}

/// Deletes all neighbours with weir's mark.
pub(super) async fn delete_own_neighbours(handle: &Handle) -> Result<(), Error> {
    let all: Vec<NeighbourMessage> = handle
        .neighbours()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list", "neighbours"))?;
    let mark = NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
    for message in all.into_iter().filter(|message| message.attributes.contains(&mark)) {
        let object = format!("on interface {}", message.header.ifindex);
        delete_neighbour(handle, message, object).await?;
    }
    Ok(())
}
