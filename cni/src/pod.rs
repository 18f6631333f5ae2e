//! The inside of a pod: made, and compared with what it should be. Runs in the pod's namespace.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{CniError, KERNEL};
use crate::netlink::{Link, Netlink, Route};
use crate::result::{Address, Interface, write_mac};

/// What a pod has under the interface's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The interface.
    pub link: Link,
    /// What differs from what should be there.
    pub differences: Vec<String>,
}

/// Configures the interface, which is there and down, and `lo`.
///
/// # Errors
/// What the kernel refuses.
pub async fn configure(interface: &Interface) -> Result<(), CniError> {
    let netlink = Netlink::open()?;
    if let Some(lo) = netlink.find("lo").await? {
        netlink.set_up(&lo).await?;
    }
    let link = netlink.find(&interface.name).await?;
    let link = link.ok_or_else(|| {
        let message = format!("interface {} has gone from the pod", interface.name);
        CniError::new(KERNEL, message, "somebody else changes this pod: try again")
    })?;
    set_sysctls(interface)?;
    netlink.set_up(&link).await?;
    for address in &interface.addresses {
        netlink.add_address(&link, address.ip, address.length).await?;
        netlink.add_neighbour(&link, address.gateway, interface.host_mac).await?;
        for route in routes_of(address) {
            netlink.add_route(&link, route).await?;
        }
    }
    Ok(())
}

/// The gateway is on the link, everything else behind it.
fn routes_of(address: &Address) -> [Route; 2] {
    let (all, host): (IpAddr, u8) = match address.ip {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 32),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 128),
    };
    [
        Route { destination: address.gateway, length: host, gateway: None },
        Route { destination: all, length: 0, gateway: Some(address.gateway) },
    ]
}

/// Routers are not asked and not obeyed (RFC 4861): the only one is the gateway. Addresses need no
/// detection of duplicates: they are given by one allocator. Where there is no IPv6 address, the
/// interface does not speak IPv6 by itself either.
fn set_sysctls(interface: &Interface) -> Result<(), CniError> {
    let name = &interface.name;
    let has_v6 = interface.addresses.iter().any(|it| it.ip.is_ipv6());
    let settings: &[(&str, &str)] = match has_v6 {
        // Some runtimes switch IPv6 off in new namespaces.
        true => &[
            ("disable_ipv6", "0"),
            ("accept_ra", "0"),
            ("router_solicitations", "0"),
            ("accept_dad", "0"),
        ],
        false => &[("accept_ra", "0"), ("router_solicitations", "0"), ("addr_gen_mode", "1")],
    };
    for (key, value) in settings {
        write_sysctl(&format!("net/ipv6/conf/{name}/{key}"), value, has_v6)?;
    }
    Ok(())
}

/// Writes below `/proc/sys`, in the namespace of the calling thread. A kernel without IPv6 has no
/// such files: an error only where IPv6 `is_needed`.
///
/// # Errors
/// What the kernel refuses.
pub fn write_sysctl(path: &str, value: &str, is_needed: bool) -> Result<(), CniError> {
    match std::fs::write(format!("/proc/sys/{path}"), value) {
        Err(error) if error.kind() == ErrorKind::NotFound && !is_needed => Ok(()),
        Err(error) => {
            let message = format!("cannot set /proc/sys/{path} to {value}: {error}");
            let details = "an IPv6 address needs a kernel with IPv6; /proc/sys must be writable";
            Err(CniError::new(KERNEL, message, details))
        }
        Ok(()) => Ok(()),
    }
}

/// What is there under the interface's name, if anything.
///
/// # Errors
/// The kernel does not answer.
pub async fn inspect(interface: &Interface) -> Result<Option<Found>, CniError> {
    let netlink = Netlink::open()?;
    let Some(link) = netlink.find(&interface.name).await? else { return Ok(None) };
    let name = &interface.name;
    let mut differences = Vec::new();
    let mut expect = |is_so: bool, what: String| {
        if !is_so {
            differences.push(format!("{name} in the pod {what}"));
        }
    };
    let (mac, wanted) = (write_mac(link.mac), write_mac(interface.mac));
    expect(link.mac == interface.mac, format!("has MAC {mac}, not {wanted}"));
    let is_right = interface.mtu == 0 || link.mtu == interface.mtu;
    expect(is_right, format!("has MTU {}, not {}", link.mtu, interface.mtu));
    expect(link.is_up, "is down".into());
    let addresses = netlink.addresses(&link).await?;
    let routes = netlink.routes(&link).await?;
    let neighbours = netlink.neighbours(&link).await?;
    for address in &interface.addresses {
        let Address { ip, length, gateway } = address;
        expect(addresses.contains(&(*ip, *length)), format!("has no address {ip}/{length}"));
        let is_known = neighbours.contains(&(*gateway, interface.host_mac));
        expect(is_known, format!("has no permanent neighbour {gateway}"));
        for route in routes_of(address) {
            let Route { destination, length, .. } = route;
            expect(routes.contains(&route), format!("has no route to {destination}/{length}"));
        }
    }
    Ok(Some(Found { link, differences }))
}
