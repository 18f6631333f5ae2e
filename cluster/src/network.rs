//! One segment: a bridge in the namespace of the control plane, and a link from it to each node
//! that can be made bad while it is in use.
//!
//! ```text
//!  outside: br0 ─┬─ node-1 ═══ eth0 node-1
//!                └─ node-2 ═══ eth0 node-2
//!
//!  with an impairment:  br0 ── good2 ─(forwarder)─ bad2 ── br2 ── node-2 ═══ eth0 node-2
//! ```
//!
//! The node's own interface stays the same, and so does all that is attached to it.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use weir_lab::{Host, Impairment, Lab, Link, LinkOptions};

use crate::plan::{Addresses, CONTROL, NodePlan, PREFIX_LENGTHS};

/// A node's interface on the segment.
const UPLINK: &str = "eth0";

const BRIDGE: &str = "br0";

/// Where a forwarder's draws begin when nobody says it.
const SEED: u64 = 1;

/// A change to the link of one node; what is not set stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct LinkChange {
    /// Probability, 0.0 to 1.0, that a frame is lost, in each direction
    #[arg(long)]
    pub loss: Option<f64>,
    /// Probability that a frame is sent twice
    #[arg(long)]
    pub duplicate: Option<f64>,
    /// Probability that a frame is overtaken by the next one
    #[arg(long)]
    pub reorder: Option<f64>,
    /// Milliseconds added to every frame
    #[arg(long)]
    pub delay_ms: Option<u64>,
    /// Up to so many milliseconds more, at random
    #[arg(long)]
    pub jitter_ms: Option<u64>,
    /// Of the random draws; only when the link was good before
    #[arg(long)]
    pub seed: Option<u64>,
    /// Of both ends, in bytes
    #[arg(long)]
    pub mtu: Option<u32>,
    /// Takes the carrier away
    #[arg(long, conflicts_with = "up")]
    pub down: bool,
    #[arg(long)]
    pub up: bool,
    /// Nothing gets through, with the carrier still there
    #[arg(long, conflicts_with = "heal")]
    pub partition: bool,
    #[arg(long)]
    pub heal: bool,
    /// Back to a plain link: no impairment, no partition, up; the MTU stays
    #[arg(long)]
    pub clear: bool,
}

impl LinkChange {
    fn is_impairment(&self) -> bool {
        let probabilities = [self.loss, self.duplicate, self.reorder];
        probabilities.iter().any(Option::is_some)
            || self.delay_ms.is_some()
            || self.jitter_ms.is_some()
    }

    fn apply(&self, impairment: &mut Impairment) {
        let set = |value: Option<f64>, field: &mut f64| *field = value.unwrap_or(*field);
        set(self.loss, &mut impairment.loss);
        set(self.duplicate, &mut impairment.duplicate);
        set(self.reorder, &mut impairment.reorder);
        if let Some(delay) = self.delay_ms {
            impairment.delay = Duration::from_millis(delay);
        }
        if let Some(jitter) = self.jitter_ms {
            impairment.jitter = Duration::from_millis(jitter);
        }
    }
}

/// The segment and all that is on it.
pub struct Network {
    outside: Host,
    ports: Vec<Port>,
}

/// A node's place on the segment.
struct Port {
    plan: NodePlan,
    host: Host,
    impairment: Impairment,
    is_partitioned: bool,
    /// Made by the first impairment, and kept.
    cable: Option<Link>,
    is_impaired: bool,
}

impl Network {
    pub fn new(lab: &Lab, nodes: &[NodePlan], mtu: Option<u32>) -> Result<Self> {
        let outside = lab.host("outside")?;
        outside.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        outside.ip("link set dev br0 up")?;
        give(&outside, BRIDGE, CONTROL)?;
        let mut ports = Vec::new();
        for plan in nodes {
            let name = plan.name();
            let host = lab.host(&name)?;
            let options = LinkOptions { mtu, ..LinkOptions::default() };
            lab.link(&outside, &name, &host, UPLINK, &options)?;
            outside.ip(&format!("link set dev {name} master {BRIDGE}"))?;
            give(&host, UPLINK, plan.addresses)?;
            // What a node's owner sets before Kubernetes comes to it.
            host.sysctl("net.ipv4.ip_forward", "1")?;
            host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
            host.route(&format!("default via {}", CONTROL.v4))?;
            host.route(&format!("default via {}", CONTROL.v6))?;
            ports.push(Port {
                plan: plan.clone(),
                host,
                impairment: Impairment::default(),
                is_partitioned: false,
                cable: None,
                is_impaired: false,
            });
        }
        // Set once, so that it does not follow the smallest port.
        outside.ip(&format!("link set dev {BRIDGE} mtu {}", mtu.unwrap_or(1500)))?;
        Ok(Self { outside, ports })
    }

    /// Where the control plane runs; everything outside the cluster.
    pub fn outside(&self) -> &Host {
        &self.outside
    }

    pub fn node(&self, number: usize) -> &Host {
        &self.ports[number].host
    }

    /// Changes a node's link.
    pub fn change(&mut self, lab: &Lab, node: &str, change: &LinkChange) -> Result<()> {
        let outside = self.outside.clone();
        let port = self.ports.iter_mut().find(|port| port.plan.name() == node);
        let port = port.with_context(|| format!("no node {node}: see `status`"))?;
        if let Some(mtu) = change.mtu {
            outside.ip(&format!("link set dev {node} mtu {mtu}"))?;
            port.host.ip(&format!("link set dev {UPLINK} mtu {mtu}"))?;
        }
        if change.clear {
            port.impairment = Impairment::default();
            port.is_partitioned = false;
            port.is_impaired = false;
        }
        if change.is_impairment() {
            let mut wanted = port.impairment;
            change.apply(&mut wanted);
            port.impair(lab, &outside, wanted, change.seed.unwrap_or(SEED))?;
        }
        port.is_partitioned = (port.is_partitioned || change.partition) && !change.heal;
        port.plug(&outside)?;
        if change.down {
            outside.ip(&format!("link set dev {node} down"))?;
        }
        if change.up || change.clear {
            outside.ip(&format!("link set dev {node} up"))?;
        }
        Ok(())
    }

    /// A line for each node.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for port in &self.ports {
            let link = match (&port.cable, port.is_partitioned) {
                (_, true) => "partitioned link".into(),
                (Some(cable), _) if port.is_impaired => {
                    format!("{} {:?}", cable, cable.counters())
                }
                _ => "plain link".to_owned(),
            };
            lines.push(format!("{}: {link}", port.plan.name()));
        }
        lines
    }
}

impl Port {
    /// Sets the impairment; the first time it makes the cable between the two bridges.
    fn impair(&mut self, lab: &Lab, outside: &Host, wanted: Impairment, seed: u64) -> Result<()> {
        let number = self.plan.number;
        match &self.cable {
            Some(cable) => cable.set(wanted)?,
            None => {
                if wanted.partitioned {
                    bail!("a partition needs no cable");
                }
                let (bad, good) = (format!("bad{number}"), format!("good{number}"));
                let options = LinkOptions { mtu: Some(9000), ..LinkOptions::default() };
                let cable =
                    lab.impaired_link(outside, &bad, outside, &good, &options, seed, wanted)?;
                outside.ip(&format!(
                    "link add br{number} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
                ))?;
                outside.ip(&format!("link set dev br{number} up"))?;
                outside.ip(&format!("link set dev {bad} master br{number}"))?;
                outside.ip(&format!("link set dev {good} master {BRIDGE}"))?;
                self.cable = Some(cable);
            }
        }
        self.impairment = wanted;
        self.is_impaired = true;
        Ok(())
    }

    /// Puts the node's port where its state says.
    fn plug(&self, outside: &Host) -> Result<()> {
        let (name, number) = (self.plan.name(), self.plan.number);
        let place = match (self.is_partitioned, self.is_impaired) {
            (true, _) => "nomaster".to_owned(),
            (false, true) => format!("master br{number}"),
            (false, false) => format!("master {BRIDGE}"),
        };
        outside.ip(&format!("link set dev {name} {place}"))?;
        Ok(())
    }
}

fn give(host: &Host, interface: &str, own: Addresses) -> Result<()> {
    host.addr(interface, &format!("{}/{}", own.v4, PREFIX_LENGTHS[0]))?;
    host.addr(interface, &format!("{}/{}", own.v6, PREFIX_LENGTHS[1]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_the_rest_as_it_was() {
        let mut impairment = Impairment { loss: 0.5, ..Impairment::default() };
        let change = LinkChange { delay_ms: Some(7), ..LinkChange::default() };
        assert!(change.is_impairment());
        change.apply(&mut impairment);
        assert_eq!(impairment.loss.to_bits(), 0.5_f64.to_bits());
        assert_eq!(impairment.delay, Duration::from_millis(7));
        assert!(!LinkChange { mtu: Some(1400), ..LinkChange::default() }.is_impairment());
    }
}
