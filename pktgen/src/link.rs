//! What the kernel knows of an interface and of the way to a destination. All in the network
//! namespace of the calling thread.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weir_dataplane::netlink::{KernelState, KernelWatch, WatchConfig, next_hop};
use weir_packet::Mac;

/// How long an interface may take to run.
const UP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a neighbour may take to answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// An interface of this namespace.
#[derive(Clone, Debug)]
pub struct Link {
    pub name: String,
    pub ifindex: u32,
    pub mac: Mac,
    /// Bytes of a packet without its Ethernet header.
    pub mtu: u32,
    /// Of both families, link-local ones last.
    pub addresses: Vec<IpAddr>,
}

impl Link {
    /// Looks an interface up.
    ///
    /// # Errors
    /// If it is not there, or down.
    pub fn find(name: &str) -> Result<Link> {
        block_on(async {
            let watch = watch().await?;
            let mut states = watch.subscribe();
            // A veth that has just been set up takes a moment until it runs.
            let up = states.wait_for(|state| !is_down(state, name));
            let _ = tokio::time::timeout(UP_TIMEOUT, up).await;
            Self::of(&watch.current(), name)
        })
    }

    fn of(state: &KernelState, name: &str) -> Result<Link> {
        let link = state.links.values().find(|link| link.name == name);
        let link = link.with_context(|| {
            format!("{name}: no such interface in this network namespace: see `ip link`")
        })?;
        if !link.up {
            bail!("{name} is down: `ip link set {name} up`, on both ends of a veth");
        }
        let own = state.addresses.keys().filter(|(_, ifindex)| *ifindex == link.ifindex);
        let mut addresses: Vec<_> = own.map(|(address, _)| *address).collect();
        addresses.sort_by_key(|address| weir_packet::Addr::from(*address).is_link_local());
        let (name, mac) = (link.name.clone(), Mac(link.mac));
        Ok(Link { name, ifindex: link.ifindex, mac, mtu: link.mtu, addresses })
    }

    /// An own address of the family of `peer`.
    ///
    /// # Errors
    /// If it has none.
    pub fn address_towards(&self, peer: IpAddr) -> Result<IpAddr> {
        let same = |own: &&IpAddr| own.is_ipv4() == peer.is_ipv4();
        self.addresses.iter().find(same).copied().with_context(|| {
            format!("{} has no address of the family of {peer}: add one, or say --src", self.name)
        })
    }

    /// The MAC that packets to `destination` go to: the kernel's next hop, resolved by the kernel.
    ///
    /// # Errors
    /// If the route leads elsewhere or nowhere, or nobody answers.
    pub fn next_hop_mac(&self, destination: IpAddr) -> Result<Mac> {
        block_on(self.resolve(destination))
    }

    async fn resolve(&self, destination: IpAddr) -> Result<Mac> {
        let Link { name, ifindex, .. } = self;
        let watch = watch().await?;
        let hop = next_hop(&watch.current(), destination);
        let hop = hop.filter(|hop| hop.ifindex == *ifindex).with_context(|| {
            format!("no route to {destination} by {name}: add one, or say --dst-mac")
        })?;
        if let Some(mac) = hop.mac {
            return Ok(Mac(mac));
        }
        watch.request_neighbour(*ifindex, hop.via)?;
        let mut states = watch.subscribe();
        let resolved = states
            .wait_for(|state| next_hop(state, destination).is_some_and(|hop| hop.mac.is_some()));
        let state = tokio::time::timeout(RESOLVE_TIMEOUT, resolved).await;
        let state = state.map(|state| state.map(|state| state.clone()));
        watch.release_neighbour(*ifindex, hop.via);
        let state = state.with_context(|| {
            format!("{} on {name} answers neither ARP nor ND: is it up? Or say --dst-mac", hop.via)
        })??;
        let mac = next_hop(&state, destination).and_then(|hop| hop.mac);
        mac.map(Mac).with_context(|| format!("the route to {destination} went away"))
    }
}

fn is_down(state: &KernelState, name: &str) -> bool {
    state.links.values().any(|link| link.name == name && !link.up)
}

async fn watch() -> Result<KernelWatch> {
    Ok(KernelWatch::start(WatchConfig::default()).await?)
}

/// On this thread alone, so that its sockets are of this thread's network namespace.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the netlink runtime")?.block_on(work)
}
