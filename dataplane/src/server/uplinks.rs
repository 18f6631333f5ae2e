//! Which interfaces lead to the network outside, and what follows from them: the MTU of pods.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::netlink::state::{MAIN_TABLE, RouteKind};
use crate::netlink::{KernelState, KernelWatch, Link, host_port};

/// The name that stands for whatever interfaces the node uses.
pub const AUTO: &str = "auto";
/// Largest IP packet that fits a frame: a chunk of 2048 bytes, less 256 of headroom (the kernel's
/// `XDP_PACKET_HEADROOM`) and an Ethernet header.
pub const MTU_MAX: u32 = 1778;
/// Of a node without uplinks.
const MTU_DEFAULT: u32 = 1500;
/// A machine that has just booted gets its addresses within this time.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The uplinks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplinks {
    /// In the order of their numbers.
    pub links: Vec<Link>,
    /// Largest IP packet of pods, bytes.
    pub mtu: u32,
    /// What is less than it could be, for people.
    pub degraded: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Interfaces, or [`AUTO`].
    pub names: Vec<String>,
    /// The node's addresses, whose interfaces [`AUTO`] means; without any, those of the default
    /// routes.
    pub node_ips: Vec<IpAddr>,
    /// `None`: the smallest of the uplinks'.
    pub mtu: Option<u32>,
}

/// Finds the uplinks. With [`AUTO`] it waits a while for them to be there.
///
/// # Errors
/// An interface that is not there, by name or by what it was looked for.
pub async fn find(wanted: &Wanted, watch: &KernelWatch) -> Result<Uplinks> {
    let mut news = watch.subscribe();
    let first = choose(&news.borrow_and_update(), wanted);
    let is_auto = wanted.names.iter().any(|name| name == AUTO);
    let mut missing = match first {
        Ok(links) => return Ok(with_mtu(links, wanted.mtu)),
        Err(missing) if !is_auto => bail!("{missing}"),
        Err(missing) => missing,
    };
    let seconds = WAIT_MAX.as_secs();
    tracing::info!("--uplink auto: {missing}; waiting for it, at most {seconds} s");
    let found = async {
        loop {
            news.changed().await.context("the watch of the kernel's links ended")?;
            match choose(&news.borrow_and_update(), wanted) {
                Ok(links) => return anyhow::Ok(links),
                Err(still) => missing = still,
            }
        }
    };
    match tokio::time::timeout(WAIT_MAX, found).await {
        Ok(links) => Ok(with_mtu(links?, wanted.mtu)),
        Err(_) => bail!("--uplink auto: {missing}, and did not come within {seconds} s"),
    }
}

/// The wanted links of now, or what is missing.
fn choose(state: &KernelState, wanted: &Wanted) -> Result<Vec<Link>, String> {
    let mut links: Vec<Link> = Vec::new();
    for name in &wanted.names {
        let found = match name.as_str() {
            AUTO => automatic(state, &wanted.node_ips)?,
            name => {
                let link = state.links.values().find(|link| link.name == name);
                let missing = || format!("{name}: no such interface in this network namespace");
                vec![link.ok_or_else(missing)?]
            }
        };
        for link in found {
            if !links.iter().any(|known| known.ifindex == link.ifindex) {
                links.push(link.clone());
            }
        }
    }
    Ok(links)
}

fn automatic<'a>(state: &'a KernelState, node_ips: &[IpAddr]) -> Result<Vec<&'a Link>, String> {
    let mut links = Vec::new();
    for ip in node_ips {
        let of_ip = state.addresses.range((*ip, 0)..=(*ip, u32::MAX));
        let mut holders = of_ip.filter_map(|((_, ifindex), _)| state.links.get(ifindex)).peekable();
        if holders.peek().is_none() {
            return Err(format!("no interface has the node's address {ip}"));
        }
        // One on loopback is reached by whatever routes lead here.
        links.extend(holders.filter(|link| is_to_outside(link)));
    }
    if links.is_empty() {
        links.extend(default_links(state));
    }
    match links.is_empty() {
        true => Err("there is no default route that leads out of an Ethernet interface".into()),
        false => Ok(links),
    }
}

fn default_links(state: &KernelState) -> impl Iterator<Item = &Link> {
    let is_default = |route: &&crate::netlink::state::Route| {
        let is_main = route.table == MAIN_TABLE && route.kind == RouteKind::Unicast;
        is_main && route.destination.len == 0
    };
    let hops = state.routes.iter().filter(is_default).flat_map(|route| &route.hops);
    hops.filter_map(|hop| state.links.get(&hop.ifindex)).filter(|link| is_to_outside(link))
}

/// Ethernet, and not weir's own.
fn is_to_outside(link: &Link) -> bool {
    link.mac != [0; 6] && link.name != host_port::HOST_NAME
}

fn with_mtu(links: Vec<Link>, wanted: Option<u32>) -> Uplinks {
    let least = links.iter().map(|link| link.mtu).min().unwrap_or(MTU_DEFAULT);
    let mtu = wanted.unwrap_or(least).min(MTU_MAX);
    let large = links.iter().filter(|link| link.mtu > MTU_MAX);
    let degraded = large.map(|link| {
        let Link { name, mtu, .. } = link;
        format!(
            "{name} has MTU {mtu}: packets larger than {MTU_MAX} bytes from outside are not \
             received (frames have one buffer); ip link set {name} mtu {MTU_MAX}, or less, on all \
             machines of this network"
        )
    });
    Uplinks { degraded: degraded.collect(), links, mtu }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Prefix;
    use crate::netlink::state::{Hop, Route};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Two uplinks and loopback with an address of the node; the default route leads out of eth2.
    fn state() -> KernelState {
        let link = |ifindex: u32, name: &str, mtu, last| Link {
            ifindex,
            name: name.into(),
            mac: if last == 0 { [0; 6] } else { [2, 0, 0, 0, 0, last] },
            mtu,
            up: true,
        };
        let default = Route {
            table: MAIN_TABLE,
            destination: Prefix::new(ip("0.0.0.0"), 0),
            metric: 100,
            kind: RouteKind::Unicast,
            hops: vec![Hop { ifindex: 3, gateway: Some(ip("198.51.100.1")) }],
            mtu: None,
            is_own: false,
        };
        let links = [link(1, "lo", 65_536, 0), link(2, "eth1", 1500, 1), link(3, "eth2", 9001, 2)];
        KernelState {
            links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
            addresses: [((ip("192.0.2.10"), 2), 24), ((ip("203.0.113.1"), 1), 32)].into(),
            routes: vec![default],
            ..KernelState::default()
        }
    }

    fn chosen(names: &[&str], node_ips: &[&str]) -> Result<Vec<String>, String> {
        let wanted = Wanted {
            names: names.iter().map(|name| (*name).into()).collect(),
            node_ips: node_ips.iter().map(|text| ip(text)).collect(),
            mtu: None,
        };
        let links = choose(&state(), &wanted)?;
        Ok(links.into_iter().map(|link| link.name).collect())
    }

    #[test]
    fn auto_means_the_interfaces_of_the_nodes_addresses_or_of_the_default_routes() {
        assert_eq!(chosen(&["auto"], &["192.0.2.10"]).unwrap(), ["eth1"]);
        assert_eq!(chosen(&["auto"], &[]).unwrap(), ["eth2"]);
        assert_eq!(chosen(&["auto"], &["203.0.113.1"]).unwrap(), ["eth2"], "on loopback");
        assert_eq!(chosen(&["eth1", "auto"], &[]).unwrap(), ["eth1", "eth2"]);
        assert_eq!(chosen(&["eth1", "auto"], &["192.0.2.10"]).unwrap(), ["eth1"]);
        assert_eq!(chosen(&[], &[]).unwrap(), [""; 0]);
        let missing = chosen(&["auto"], &["192.0.2.10", "192.0.2.99"]).unwrap_err();
        assert!(missing.contains("192.0.2.99"), "{missing}");
        let missing = chosen(&["eth7"], &[]).unwrap_err();
        assert!(missing.contains("eth7"), "{missing}");
        assert!(automatic(&KernelState::default(), &[]).is_err());
    }

    #[test]
    fn the_mtu_is_the_smallest_that_all_uplinks_carry_and_a_frame_holds() {
        let links = |range: std::ops::RangeInclusive<u32>| -> Vec<Link> {
            state().links.range(range).map(|(_, link)| link.clone()).collect()
        };
        assert_eq!(with_mtu(links(2..=3), None).mtu, 1500);
        assert_eq!(with_mtu(links(2..=3), Some(1400)).mtu, 1400);
        assert_eq!(with_mtu(Vec::new(), None).mtu, 1500);
        let large = with_mtu(links(3..=3), None);
        assert_eq!(large.mtu, MTU_MAX);
        let [problem] = &large.degraded[..] else { panic!("{large:?}") };
        assert!(problem.contains("eth2") && problem.contains("9001"), "{problem}");
    }
}
