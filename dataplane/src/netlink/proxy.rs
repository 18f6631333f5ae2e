//! Addresses that the kernel answers neighbours for although they are none of the host's: proxy
//! entries (`NTF_PROXY`), and the sysctls and the route into `weir0` that make them work.
//!
//! For IPv4 the kernel answers for a proxied address that its own route leads out of another
//! device (`arp_process` in `net/ipv4/arp.c`); service routes into `weir0` do. For IPv6 the entry
//! also joins the group of the address, and `proxy_ndp` of `all` is needed: probes of a neighbour
//! that asks again come to the address itself, on the way of forwarded packets (`ip6_forward`),
//! where the device's own is not looked at. weir's entries bear its mark (`NDA_PROTOCOL`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use futures::TryStreamExt;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::RouteProtocol;

use super::error::Error;
use super::{Netlink, PROTOCOL, SysctlChange, address, saved_sysctl};

/// A device and an address that it answers for.
pub type Proxy = (u32, IpAddr);

impl Netlink {
    /// Makes these the only ones of weir's entries; gives those that are new, and the first refusal
    /// of the kernel, despite which the others are set. Entries of others stay.
    pub async fn set_proxies(
        &self,
        wanted: &BTreeSet<Proxy>,
    ) -> (BTreeSet<Proxy>, Result<(), Error>) {
        let own = match own_proxies(&self.handle).await {
            Ok(own) => own,
            Err(error) => return (BTreeSet::new(), Err(error)),
        };
        let present: BTreeSet<Proxy> = own.iter().filter_map(proxy).collect();
        let mut first_error = Ok(());
        let mut added = BTreeSet::new();
        for (ifindex, ip) in wanted.difference(&present) {
            let mut request = self.handle.neighbours().add(*ifindex, *ip).replace();
            request.message_mut().header.flags = NeighbourFlags::Proxy;
            request.message_mut().attributes.push(mark());
            match request.execute().await {
                Ok(()) => _ = added.insert((*ifindex, *ip)),
                Err(error) => {
                    let object = format!("{ip} on interface {ifindex}");
                    let error = Error::refused("answer neighbours for", object)(error);
                    first_error = first_error.and(Err(error));
                }
            }
        }
        for message in own {
            if !proxy(&message).is_some_and(|proxy| wanted.contains(&proxy)) {
                first_error = first_error.and(delete(&self.handle, message).await);
            }
        }
        (added, first_error)
    }
}

/// Has the kernel answer at once, for every address that is asked for on these devices; what the
/// sysctls were before is noted in `saved`. What could not be done is told: the entries remain.
pub fn answer_at_once(devices: &[&str], saved: &Path) -> (Vec<SysctlChange>, Vec<String>) {
    let delay = |family: &str, device: &str| format!("net/{family}/neigh/{device}/proxy_delay");
    let delays = devices
        .iter()
        .flat_map(|device| [(delay("ipv4", device), "0"), (delay("ipv6", device), "0")]);
    let all = delays.chain([("net/ipv6/conf/all/proxy_ndp".to_owned(), "1")]);
    let (mut changes, mut warnings) = (Vec::new(), Vec::new());
    for (path, value) in all {
        match saved_sysctl::adjust(&path, saved, |_| Ok(value.to_owned())) {
            Ok(change) => changes.extend(change),
            Err(warning) => warnings.push(warning),
        }
    }
    (changes, warnings)
}

/// Deletes all of weir's entries.
pub(super) async fn delete_own(handle: &rtnetlink::Handle) -> Result<(), Error> {
    for message in own_proxies(handle).await? {
        delete(handle, message).await?;
    }
    Ok(())
}

async fn delete(handle: &rtnetlink::Handle, message: NeighbourMessage) -> Result<(), Error> {
    let object = format!("of others on interface {}", message.header.ifindex);
    address::delete_neighbour(handle, message, object).await
}

async fn own_proxies(handle: &rtnetlink::Handle) -> Result<Vec<NeighbourMessage>, Error> {
    let all: Vec<NeighbourMessage> = handle
        .neighbours()
        .get()
        .proxies()
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list", "proxy neighbours"))?;
    let is_own = |message: &NeighbourMessage| {
        message.header.flags.contains(NeighbourFlags::Proxy) && message.attributes.contains(&mark())
    };
    Ok(all.into_iter().filter(is_own).collect())
}

fn mark() -> NeighbourAttribute {
    NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL))
}

fn proxy(message: &NeighbourMessage) -> Option<Proxy> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
        _ => None,
    })?;
    Some((message.header.ifindex, ip))
}
