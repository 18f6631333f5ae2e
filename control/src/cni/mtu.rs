//! The MTU of pods: what the links of the node carry.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use tracing::warn;

/// The dataplane's port of the host: it carries what the dataplane carries.
const HOST_PORT: &str = "weir0";
/// Where the kernel tells nothing: Ethernet's.
const MTU_DEFAULT: u32 = 1500;

/// The smallest MTU of the links with the node's addresses and of the dataplane's own, bytes.
/// Reading links needs no privileges.
pub(super) async fn find_mtu(node: Vec<IpAddr>) -> u32 {
    match read_links(&node).await {
        Ok(mtu) => mtu.unwrap_or(MTU_DEFAULT),
        Err(error) => {
            warn!("cannot read the MTU of this node's links: {error}: {MTU_DEFAULT} it is");
            MTU_DEFAULT
        }
    }
}

async fn read_links(
    node: &[IpAddr],
) -> Result<Option<u32>, Box<dyn std::error::Error + Send + Sync>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    let is_of_node = |it: &AddressAttribute| match it {
        AddressAttribute::Address(ip) | AddressAttribute::Local(ip) => node.contains(ip),
        _ => false,
    };
    let of_node = addresses.iter().filter(|it| it.attributes.iter().any(is_of_node));
    let indexes: Vec<u32> = of_node.map(|it| it.header.index).collect();
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    connection.abort();
    let mtus = links.iter().filter_map(|link| {
        let attributes = link.attributes.iter();
        let is_host_port =
            attributes.clone().any(|it| *it == LinkAttribute::IfName(HOST_PORT.into()));
        if !is_host_port && !indexes.contains(&link.header.index) {
            return None;
        }
        attributes.clone().find_map(|it| match it {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
    });
    Ok(mtus.min())
}
