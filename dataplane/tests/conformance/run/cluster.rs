//! Kubernetes YAML to what a dataplane is told: by the code of the agent, from the text to the
//! state objects, and by that of the dataplane, from state objects to rows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use weir_api::convert::address_bytes;
use weir_control::cli::AgentCommand;
use weir_control::desired::Desired;
use weir_control::model::{Name, Node, Object as Model, ObjectKey, Pod};
use weir_control::source::ManifestStore;
use weir_control::source::manifest::read_manifest;
use weir_dataplane::server::convert;
use weir_packet::{Addr, Mac};
use weir_tables::{
    HostPort, Network, NextHop, Object, ObjectRef, PortId, Prefix, Route, RouteTarget, Uplink,
};

use super::names::{HOST_MAC, Names, ROUTER_MAC, UPLINK_MAC, node_mac, pod_ranges};
use crate::common::node::{HOST_PORT, UPLINK_MTU, UPLINK_PORT};

/// The node that the scripts look at, unless they say another.
pub const OWN_NODE: &str = "node-1";
/// The first pod's port.
const PORT_MIN: u32 = 11;
/// What is on the uplink's link, beside the nodes.
const ROUTERS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const LINKS: [(&str, u8); 2] = [("192.0.2.0", 24), ("2001:db8::", 64)];

/// What one change of the YAML tells the dataplane.
#[derive(Clone, Debug)]
pub struct Change {
    pub upserts: Vec<Object>,
    pub deletes: Vec<ObjectRef>,
    /// All that there is now.
    pub all: Vec<Object>,
    /// All pods of the node, by port.
    pub pods: BTreeMap<PortId, (String, Mac)>,
    pub network: Network,
    pub names: Names,
}

/// A pod of the node, as the CNI plugin knows it.
#[derive(Clone, Debug)]
struct Attached {
    port: PortId,
    mac: Mac,
    addresses: Vec<IpAddr>,
}

/// What scripts call a pod: the namespace is written where it is not the default one.
pub fn short(name: &Name) -> String {
    match name.namespace.as_str() {
        "default" => name.name.clone(),
        _ => name.to_string(),
    }
}

/// The cluster as `kubectl` sees it.
pub struct Cluster {
    node: String,
    store: ManifestStore,
    desired: Desired,
    objects: BTreeMap<ObjectKey, Model>,
    attached: BTreeMap<Name, Attached>,
    next_port: u32,
    names: Vec<String>,
    /// What `weir status` says.
    pub problems: Vec<String>,
}

impl Cluster {
    /// An empty cluster; `flags` are the agent's, `names` are more names of addresses.
    pub fn new(flags: &str, names: Vec<String>) -> Result<Cluster, String> {
        Cluster::of(OWN_NODE, flags, names)
    }

    /// The cluster as one of its nodes knows it.
    pub fn of(node: &str, flags: &str, names: Vec<String>) -> Result<Cluster, String> {
        let mut own = vec!["weir-agent".to_owned(), "--manifests=/".into()];
        own.push(format!("--node={node}"));
        if !flags.contains("--maglev-table-size") {
            own.push("--maglev-table-size=251".into());
        }
        own.extend(flags.split_whitespace().map(str::to_owned));
        let command = AgentCommand::try_parse_from(own).map_err(|error| error.to_string())?;
        let config = command.into_config().map_err(|error| error.to_string())?;
        Ok(Cluster {
            node: node.to_owned(),
            store: ManifestStore::default(),
            desired: Desired::new(config.node),
            objects: BTreeMap::new(),
            attached: BTreeMap::new(),
            next_port: PORT_MIN,
            names,
            problems: Vec::new(),
        })
    }

    /// Adds or replaces the objects of a text, as `kubectl apply` does.
    pub fn apply(&mut self, yaml: &str) -> Result<(), String> {
        for document in yaml.split("---\n").filter(|text| !text.trim().is_empty()) {
            let manifest = read_manifest(&Arc::new(PathBuf::from("yaml")), document);
            let mut keys = manifest.objects.keys().chain(&manifest.refused);
            let key = keys.next().ok_or_else(|| format!("no object: {:?}", manifest.problems))?;
            let path = key.to_string();
            self.put_file(&path, Some(document));
        }
        Ok(())
    }

    /// Adds or replaces a file of objects; `None` removes it.
    pub fn put_file(&mut self, path: &str, yaml: Option<&str>) {
        match yaml {
            Some(yaml) => self.store.put_file(Path::new(path), Ok(yaml)),
            None => self.store.remove_file(Path::new(path)),
        }
    }

    /// Removes an object, as in `Service web`.
    pub fn delete(&mut self, kind_and_name: &str) -> Result<(), String> {
        let wanted = |key: &&ObjectKey| {
            let text = key.to_string();
            text == kind_and_name || text.replace(" default/", " ") == kind_and_name
        };
        let key = self.objects.keys().find(wanted);
        let key = key.ok_or_else(|| format!("there is no {kind_and_name}"))?.to_string();
        self.put_file(&key, None);
        Ok(())
    }

    /// What the dataplane is told of all changes since the last call.
    pub fn settle(&mut self) -> Result<Change, String> {
        let batch = self.store.settle();
        for object in batch.upserts {
            self.objects.insert(object.key(), object.clone());
            self.desired.upsert(object);
        }
        for key in &batch.removes {
            self.objects.remove(key);
            self.desired.remove(key);
        }
        let row = |object: &weir_api::v1::Object| {
            convert::object(object).map_err(|error| error.to_string())
        };
        self.attach();
        let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
        for (key, object) in self.desired.recompute() {
            match object {
                Some(object) => upserts.push(row(&object)?),
                None => {
                    let reference = convert::reference(&key.reference());
                    deletes.push(reference.map_err(|error| error.to_string())?);
                }
            }
        }
        let problems = batch.problems.into_iter().chain(self.desired.problems());
        self.problems = problems.map(|problem| problem.to_string()).collect();
        Ok(Change {
            upserts,
            deletes,
            all: self.desired.objects().values().map(row).collect::<Result<_, _>>()?,
            pods: self.attached.iter().map(|(name, it)| (it.port, (short(name), it.mac))).collect(),
            network: self.network(),
            names: Names::new(self.objects.values(), &self.names),
        })
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.objects.values().filter_map(|object| match object {
            Model::Node(node) => Some(node),
            _ => None,
        })
    }

    fn own_addresses(&self) -> Vec<Addr> {
        let own = self.nodes().filter(|node| node.name.name == self.node);
        own.flat_map(|node| &node.addresses).map(|it| Addr::from(*it)).collect()
    }

    /// Attaches pods as the CNI plugin does: those on this node that have their own address.
    fn attach(&mut self) {
        let host = self.own_addresses();
        let mut wanted = BTreeMap::new();
        for object in self.objects.values() {
            let Model::Pod(Pod { name, addresses, node: Some(node), .. }) = object else {
                continue;
            };
            if *node == self.node && addresses.iter().any(|it| !host.contains(&Addr::from(*it))) {
                wanted.insert(name.clone(), addresses.clone());
            }
        }
        let gone: Vec<Name> =
            self.attached.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.attached.remove(&name);
            self.desired.remove_endpoint(&name.to_string());
        }
        for (name, addresses) in wanted {
            if self.attached.get(&name).is_some_and(|known| known.addresses == addresses) {
                continue;
            }
            let port = PortId(self.next_port);
            self.next_port += 1;
            let mac = Mac([2, 0, 0, 0, 1, port.0 as u8]);
            self.desired.put_endpoint(weir_api::v1::Endpoint {
                name: name.to_string(),
                ifindex: port.0,
                mac: mac.0.to_vec(),
                addresses: addresses.iter().map(|it| address_bytes(*it)).collect(),
                ..Default::default()
            });
            self.attached.insert(name, Attached { port, mac, addresses });
        }
    }

    /// What the kernel of the node knows: the link, the router, and that other nodes' pods are
    /// behind their nodes.
    fn network(&self) -> Network {
        let mut network = Network {
            host: Some(HostPort { port: HOST_PORT, mac: HOST_MAC, mtu: 1500 }),
            uplinks: vec![Uplink { port: UPLINK_PORT, mac: UPLINK_MAC, mtu: UPLINK_MTU }],
            addresses: self.own_addresses(),
            ..Network::default()
        };
        let hop = |addr| NextHop { port: UPLINK_PORT, addr };
        let mut route = |prefix: Prefix, gateway| {
            let target = RouteTarget::Uplink { port: UPLINK_PORT, gateway };
            network.routes.push(Route { prefix, target, metric: 0 });
        };
        for (router, (link, length)) in ROUTERS.iter().zip(LINKS) {
            let router: Addr = router.parse().expect("an address");
            let all = Addr::unspecified(router.is_v4());
            route(Prefix::new(all, 0).expect("short"), Some(router));
            let link = link.parse().expect("an address");
            route(Prefix::new(link, length).expect("short"), None);
            network.neighbours.insert(hop(router), ROUTER_MAC);
        }
        for (at, node) in self.nodes().enumerate().filter(|row| row.1.name.name != self.node) {
            for address in &node.internal_addresses {
                let gateway = Addr::from(*address);
                network.neighbours.insert(hop(gateway), node_mac(at as u8));
                let is_same = |range: &Prefix| range.addr().is_v4() == gateway.is_v4();
                for range in pod_ranges(node).filter(is_same) {
                    let target = RouteTarget::Uplink { port: UPLINK_PORT, gateway: Some(gateway) };
                    network.routes.push(Route { prefix: range, target, metric: 0 });
                }
            }
        }
        network
    }
}
