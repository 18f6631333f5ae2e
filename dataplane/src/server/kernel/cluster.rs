//! What the node does for the cluster around it: ways to other nodes' pods, and addresses of load
//! balancers that it answers neighbours for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weir_packet::Addr;
use weir_tables::{NodeConfig, PodRoute, Prefix};

use super::Kernel;
use crate::netlink::announce::Announcer;
use crate::netlink::proxy::{self, Proxy};
use crate::netlink::{self, KernelState, Link, PodWay, PodWays};

/// When an address that is new here is announced; the last two for neighbours that were busy.
const ANNOUNCE_AT_MS: [u64; 3] = [0, 300, 1000];

/// What was done last, so that a change of something else costs nothing.
#[derive(Default)]
pub struct Cluster {
    /// The network and the configuration that the routes were last made for.
    ways_for: Option<(Arc<KernelState>, Vec<Prefix>, Vec<PodRoute>)>,
    /// The uplinks and addresses that the entries were last made for, and how often links had gone
    /// down until then.
    announced_for: Option<(Vec<Link>, Vec<Addr>, u64)>,
    /// What this node answers for now; announcements under way look here.
    answered: Arc<Mutex<BTreeSet<Proxy>>>,
    /// What is not done, for people.
    routes_missing: Vec<String>,
    not_answered: Vec<String>,
}

impl Kernel {
    /// What the kernel does not do for the node's configuration, for people.
    pub fn problems(&self) -> Vec<String> {
        let Cluster { routes_missing, not_answered, .. } = &self.cluster;
        routes_missing.iter().chain(not_answered).cloned().collect()
    }

    /// Makes the routes to other nodes' pods, and behind those of our own.
    pub(super) async fn sync_ways(&mut self, node: &NodeConfig) {
        let state = self.watch.current();
        let is_same = self.cluster.ways_for.as_ref().is_some_and(|(before, ranges, routes)| {
            (ranges, routes) == (&node.pod_ranges, &node.pod_routes)
                && (Arc::ptr_eq(before, &state) || is_same_network(before, &state))
        });
        if is_same {
            return;
        }
        let ranges: Vec<netlink::Prefix> = node.pod_ranges.iter().map(kernels).collect();
        let ways: Vec<PodWay> = node
            .pod_routes
            .iter()
            .map(|route| PodWay {
                destination: kernels(&route.destination),
                via: IpAddr::from(route.via),
            })
            .collect();
        let plan = PodWays::plan(&state, &ranges, &ways, &self.uplinks);
        let mut problems: Vec<String> = plan.without_route.iter().map(no_route).collect();
        let mut is_done = true;
        if !plan.is_done(&state, &self.host)
            && let Err(error) = self.netlink.set_pod_ways(&plan, &self.host).await
        {
            tracing::warn!(%error, "not all pods of other nodes are reached directly");
            problems.push(format!("pods of other nodes: {error}"));
            is_done = false;
        }
        self.cluster.routes_missing = problems;
        let made_for = (state, node.pod_ranges.clone(), node.pod_routes.clone());
        self.cluster.ways_for = is_done.then_some(made_for);
    }

    /// Answers neighbours for the announced addresses, on every uplink.
    pub(super) async fn sync_announced(&mut self, node: &NodeConfig) {
        let state = self.watch.current();
        let up = |ifindex: &u32| state.links.get(ifindex).filter(|link| link.up).cloned();
        let links: Vec<Link> = self.uplinks.iter().filter_map(up).collect();
        let is_same = self.cluster.announced_for.as_ref().is_some_and(|(before, addrs, downs)| {
            let is_network_same = *before == links && *downs == state.downs;
            *addrs == node.announced && (is_network_same || addrs.is_empty())
        });
        if is_same {
            return;
        }
        let has_ipv6 = self.host.ipv6.is_some();
        let addrs = node.announced.iter().filter(|addr| addr.is_v4() || has_ipv6);
        let ips: Vec<IpAddr> = addrs.map(|addr| IpAddr::from(*addr)).collect();
        let wanted: BTreeSet<Proxy> =
            links.iter().flat_map(|link| ips.iter().map(|ip| (link.ifindex, *ip))).collect();
        if !wanted.is_empty() {
            let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            let (_, warnings) = proxy::answer_at_once(&names, &self.saved_sysctls);
            for warning in warnings {
                tracing::warn!("announced addresses: {warning}");
            }
        }
        *lock(&self.cluster.answered) = wanted.clone();
        let (added, result) = self.netlink.set_proxies(&wanted).await;
        self.cluster.not_answered.clear();
        self.cluster.announced_for = Some((links.clone(), node.announced.clone(), state.downs));
        if let Err(error) = result {
            tracing::warn!(%error, "not all announced addresses are answered for");
            self.cluster.not_answered.push(format!("announced addresses: {error}"));
            self.cluster.announced_for = None;
        }
        if !added.is_empty() {
            for (ifindex, ip) in &added {
                tracing::info!(%ip, ifindex, "answers neighbours for this address from now on");
            }
            tokio::spawn(announce(added, links, Arc::clone(&self.cluster.answered)));
        }
    }
}

/// Tells the neighbours of new addresses, as long as they are ours.
async fn announce(added: BTreeSet<Proxy>, links: Vec<Link>, answered: Arc<Mutex<BTreeSet<Proxy>>>) {
    let announcer = match Announcer::open() {
        Ok(announcer) => announcer,
        Err(error) => {
            tracing::warn!(%error, "new addresses are not announced: CAP_NET_RAW is needed");
            return;
        }
    };
    let mut passed_ms = 0;
    for at_ms in ANNOUNCE_AT_MS {
        tokio::time::sleep(Duration::from_millis(at_ms - passed_ms)).await;
        passed_ms = at_ms;
        let still: Vec<Proxy> = added.intersection(&lock(&answered)).copied().collect();
        for (ifindex, ip) in still {
            let Some(link) = links.iter().find(|link| link.ifindex == ifindex) else { continue };
            if let Err(error) = announcer.announce(ifindex, link.mac, ip) {
                tracing::warn!(%error, %ip, device = link.name, "not announced");
            }
        }
    }
}

/// Whether two states are the same but for neighbours.
fn is_same_network(a: &KernelState, b: &KernelState) -> bool {
    (&a.links, &a.addresses, &a.routes) == (&b.links, &b.addresses, &b.routes)
}

fn kernels(prefix: &Prefix) -> netlink::Prefix {
    netlink::Prefix::new(IpAddr::from(prefix.addr()), prefix.length())
}

fn no_route(way: &PodWay) -> String {
    let PodWay { destination, via } = way;
    format!("pods of {destination}: this node has no route to their node, {via}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
