//! What the model knows of the node, as plain as it can be said, and the choice for a new flow.

use weir_packet::{Addr, FlowKey, protocol};
use weir_tables::BackendState::{self, Active, Terminating};
use weir_tables::{
    Algorithm, BackendAddr, BackendSet, Frontend, FrontendKey, FrontendType, MaglevParams, Object,
    PortId, Prefix, SourceRanges,
};

use crate::common::node::{self, HOST_PORT, PODS, PORTS, UPLINK_PORT, addr};

pub const SERVICES: [&str; 3] = ["web", "pair", "lb"];
/// Whoever may be a backend. The first four are pods.
pub const BACKENDS: [&str; 7] = ["blue", "green", "red", "grey", "remote", "host", "docker"];
/// The node's addresses; the first is the source of translated packets.
pub const NODE_ADDRS: [&str; 2] = ["host", "near"];

pub type States = [Option<BackendState>; BACKENDS.len()];

/// A service as its YAML would have it.
#[derive(Clone, Debug)]
pub struct Service {
    pub is_there: bool,
    pub affinity_s: u32,
    /// externalTrafficPolicy: Local.
    pub is_local: bool,
    /// Of clients outside, all but `client` are refused, or only `client` is.
    pub ranges: Option<IsDeny>,
    pub states: States,
}

pub type IsDeny = bool;

/// The node: pods by the index of their port, services, configuration.
#[derive(Clone, Debug)]
pub struct Node {
    pub family: u8,
    pub pods: [Option<u32>; 4],
    pub services: [Service; 3],
    pub masquerades: bool,
    pub snat_ports: weir_tables::SnatPorts,
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Pod(u32),
    Host,
    /// Behind a route that only the kernel knows.
    Kernel,
    Outside,
}

impl Place {
    /// The port that leads there.
    pub fn leaves_by(self) -> PortId {
        match self {
            Place::Pod(port) => PortId(port),
            Place::Host | Place::Kernel => HOST_PORT,
            Place::Outside => UPLINK_PORT,
        }
    }

    /// The port by which packets from there arrive.
    pub fn arrives_by(self) -> PortId {
        match self {
            Place::Pod(port) => PortId(port),
            Place::Host | Place::Kernel => PortId::HOST,
            Place::Outside => PortId::UPLINK,
        }
    }

    /// The pod there, if it is one: whether somebody else took over its address.
    pub fn pod(self) -> Option<u32> {
        if let Place::Pod(port) = self { Some(port) } else { None }
    }
}

/// What is decided for the first packet of a flow.
pub enum Decision {
    Goes { to: FlowKey, is_allocated: bool, pin: Option<BackendAddr> },
    Dropped,
    Refused,
    Punted,
    EchoReplied,
}

pub fn is_icmp(key: &FlowKey) -> bool {
    matches!(key.protocol, protocol::ICMP | protocol::ICMPV6)
}

/// Service port and backend port of a protocol.
pub fn ports_of(protocol: u8) -> Option<(u16, u16)> {
    PORTS.iter().find(|row| row.0 == protocol).map(|row| (row.1, row.2))
}

pub fn node_port(service: usize, l4_port: u16) -> u16 {
    30_000 + 100 * service as u16 + l4_port
}

fn algorithm(protocol: u8) -> Algorithm {
    if protocol == protocol::TCP { Algorithm::Maglev } else { Algorithm::Hash }
}

impl Node {
    pub fn addr(&self, name: &str) -> Addr {
        addr(name, self.family)
    }

    pub fn place(&self, dst: &Addr) -> Place {
        let pod = (0..4).find(|at| self.addr(PODS[*at].0) == *dst).and_then(|at| self.pods[at]);
        match pod {
            Some(port) => Place::Pod(port),
            None if NODE_ADDRS.iter().any(|name| self.addr(name) == *dst) => Place::Host,
            None if self.addr("docker") == *dst => Place::Kernel,
            None => Place::Outside,
        }
    }

    /// The range of pods and nodes.
    pub fn cluster_range(family: u8) -> Prefix {
        Prefix::new(addr("blue", family), 8).expect("not too long")
    }

    fn is_in_cluster(&self, addr: &Addr) -> bool {
        matches!(self.place(addr), Place::Pod(_) | Place::Host)
            || Node::cluster_range(self.family).contains(addr)
    }

    /// The service that a packet is for.
    pub fn service_of(&self, key: &FlowKey) -> Option<usize> {
        let (l4_port, _) = ports_of(key.protocol)?;
        (0..SERVICES.len()).find(|&at| {
            let by_addr = key.dst == self.addr(SERVICES[at]) && key.dport == l4_port;
            let is_node = self.place(&key.dst) == Place::Host;
            self.services[at].is_there
                && (by_addr || is_node && key.dport == node_port(at, l4_port))
        })
    }

    /// Whether a service has a backend, in whatever state.
    pub fn has_backend(&self, service: usize, backend: &BackendAddr) -> bool {
        let is_it = |at: usize| {
            self.services[service].states[at].is_some() && self.addr(BACKENDS[at]) == backend.addr
        };
        (0..BACKENDS.len()).any(is_it)
    }

    /// Whether no client would be given this backend of a service now.
    pub fn is_draining(&self, asked: &FlowKey, backend: Addr) -> bool {
        let Some(service) = self.service_of(asked) else { return false };
        let takes = |is_outside| {
            let rows = self.backends(service, is_outside);
            let has_active = rows.iter().any(|row| row.1 == Active);
            rows.iter().any(|(name, state)| {
                let takes = *state == Active || *state == Terminating && !has_active;
                takes && self.addr(name) == backend
            })
        };
        !takes(false) && !takes(true)
    }

    /// The backends that serve clients inside, or outside.
    fn backends(&self, service: usize, is_outside: bool) -> Vec<(&'static str, BackendState)> {
        let row = &self.services[service];
        let is_here = |name: &str| name != "remote" && name != "docker";
        let rows =
            BACKENDS.iter().zip(row.states).filter_map(|(name, state)| Some((*name, state?)));
        rows.filter(|(name, _)| !(is_outside && row.is_local) || is_here(name)).collect()
    }

    /// May this be sent at all?
    pub fn is_spoofed(&self, port: PortId, src: &Addr) -> bool {
        match port {
            PortId::HOST => false,
            PortId::UPLINK => matches!(self.place(src), Place::Pod(_) | Place::Host),
            PortId(pod) => self.place(src) != Place::Pod(pod),
        }
    }

    /// What becomes of the first packet of a flow that comes in by `port`; `pinned` is the backend
    /// that the client is bound to, and `directed_to` the one that was chosen already.
    pub fn decide(
        &self,
        key: &FlowKey,
        port: PortId,
        pinned: Option<BackendAddr>,
        directed_to: Option<BackendAddr>,
    ) -> Decision {
        if self.is_spoofed(port, &key.src) {
            return Decision::Dropped;
        }
        if let Some(service) = self.service_of(key) {
            return match directed_to {
                Some(backend) => self.translate(backend, key, port, false),
                None => self.decide_service(service, key, port, pinned),
            };
        }
        let is_service_addr =
            |at: usize| self.services[at].is_there && self.addr(SERVICES[at]) == key.dst;
        if (0..SERVICES.len()).any(is_service_addr) {
            return match is_icmp(key) {
                true if key.dport == 0 => Decision::EchoReplied,
                true => Decision::Dropped,
                false => Decision::Refused,
            };
        }
        self.decide_route(key, port)
    }

    fn decide_route(&self, key: &FlowKey, port: PortId) -> Decision {
        let place = self.place(&key.dst);
        let is_pod = port != PortId::UPLINK && port != PortId::HOST;
        match place {
            Place::Pod(_) => {}
            _ if port == PortId::UPLINK => return Decision::Punted,
            Place::Host if port == PortId::HOST => return Decision::Punted,
            _ if port == PortId::HOST => return Decision::Dropped,
            _ if ["gateway", "hairpin"].map(|name| self.addr(name)).contains(&key.dst) => {
                return Decision::Dropped;
            }
            _ => {}
        }
        let mut to = *key;
        let is_allocated = is_pod && place == Place::Outside && self.is_masqueraded(&key.dst);
        if is_allocated {
            to.src = self.addr(NODE_ADDRS[0]);
        }
        Decision::Goes { to, is_allocated, pin: None }
    }

    fn is_masqueraded(&self, dst: &Addr) -> bool {
        self.masquerades && !self.is_in_cluster(dst)
    }

    fn decide_service(
        &self,
        service: usize,
        key: &FlowKey,
        port: PortId,
        pinned: Option<BackendAddr>,
    ) -> Decision {
        let row = &self.services[service];
        if let Some(is_deny) = row.ranges
            && (key.src == self.addr("client")) == is_deny
        {
            return Decision::Dropped;
        }
        let is_outside = port == PortId::UPLINK && !self.is_in_cluster(&key.src);
        let by_client = is_outside && row.affinity_s > 0;
        // A NodePort of another node is subject to that node's policy.
        let is_outside =
            is_outside || port == PortId::UPLINK && self.place(&key.dst) == Place::Host;
        let has_affinity = row.affinity_s > 0;
        let pinned = pinned.filter(|pin| has_affinity && self.takes(service, is_outside, pin));
        let Some(backend) = pinned.or_else(|| self.pick(service, is_outside, by_client, key))
        else {
            // The balancer in front tries another node.
            return if is_outside && row.is_local { Decision::Dropped } else { Decision::Refused };
        };
        self.translate(backend, key, port, has_affinity)
    }

    fn translate(
        &self,
        backend: BackendAddr,
        key: &FlowKey,
        port: PortId,
        has_affinity: bool,
    ) -> Decision {
        let mut to = FlowKey { dst: backend.addr, dport: backend.l4_port, ..*key };
        let is_pod = port != PortId::UPLINK && port != PortId::HOST;
        let new_source = match self.place(&backend.addr) {
            Place::Pod(_) if backend.addr == key.src => {
                to.src = self.addr("hairpin");
                None
            }
            Place::Pod(_) => None,
            Place::Host | Place::Kernel => (!is_pod).then_some("peer"),
            Place::Outside if is_pod && !self.is_masqueraded(&backend.addr) => None,
            Place::Outside => Some(NODE_ADDRS[0]),
        };
        if let Some(name) = new_source {
            to.src = self.addr(name);
        }
        let pin = has_affinity.then_some(backend);
        Decision::Goes { to, is_allocated: new_source.is_some(), pin }
    }

    /// Whether a backend would get new flows.
    fn takes(&self, service: usize, is_outside: bool, backend: &BackendAddr) -> bool {
        let rows = self.backends(service, is_outside);
        let any_active = rows.iter().any(|row| row.1 == Active);
        let state = rows.iter().find(|row| self.addr(row.0) == backend.addr).map(|row| row.1);
        state == Some(Active) || (state == Some(Terminating) && !any_active)
    }

    fn pick(
        &self,
        service: usize,
        is_outside: bool,
        by_client: bool,
        key: &FlowKey,
    ) -> Option<BackendAddr> {
        let (_, l4_port) = ports_of(key.protocol)?;
        let rows = self.backends(service, is_outside).into_iter();
        let rows = rows.map(|(name, state)| node::backend(name, self.family, l4_port, state));
        let set = BackendSet::new(
            String::new(),
            key.protocol,
            algorithm(key.protocol),
            rows.collect(),
            MaglevParams::new(251, &[]).expect("a size that exists"),
        );
        set.pick(key, by_client).map(|backend| backend.addr)
    }

    /// A service's backends and frontends, as control sends them.
    pub fn objects(&self, service: usize) -> Vec<Object> {
        let row = &self.services[service];
        let mut objects = Vec::new();
        for (protocol, l4_port, target) in PORTS {
            let set = |is_outside| format!("model/{service}:{l4_port}/{is_outside}");
            for is_outside in [false, true] {
                let rows = self.backends(service, is_outside).into_iter();
                let rows =
                    rows.map(|(name, state)| node::backend(name, self.family, target, state));
                objects.push(Object::BackendSet {
                    name: set(is_outside),
                    protocol,
                    algorithm: algorithm(protocol),
                    backends: rows.collect(),
                });
            }
            let any = Addr::unspecified(self.family == 4);
            for (addr, l4_port, kind) in [
                (self.addr(SERVICES[service]), l4_port, FrontendType::LoadBalancer),
                (any, node_port(service, l4_port), FrontendType::NodePort),
            ] {
                let key = FrontendKey { addr, l4_port, protocol };
                let mut frontend = Frontend::new(key, SERVICES[service], kind, &set(false));
                frontend.external_backend_set = row.is_local.then(|| set(true));
                frontend.affinity_s = row.affinity_s;
                if let Some(is_deny) = row.ranges {
                    let ranges = vec![Prefix::of_addr(self.addr("client"))];
                    frontend.source_ranges = SourceRanges { ranges, is_deny };
                }
                objects.push(Object::Frontend(frontend));
            }
        }
        objects
    }
}
