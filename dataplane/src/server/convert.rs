//! State objects: from their wire form to checked rows, and back for showing.

use std::net::IpAddr;

use weir_api::convert::{self as wire, ConvertError, parse_address, parse_l4_port, parse_prefix};
use weir_api::v1;
use weir_packet::{Addr, Mac, protocol};
use weir_tables::policy::{IdentityId, SelectorId};
use weir_tables::{
    Algorithm, Backend, BackendAddr, BackendState, Endpoint, FailureMode, Forwarding, Frontend,
    FrontendKey, FrontendType, Object, ObjectRef, PortId, Prefix, SourceRanges,
};

/// Why an object cannot be a row. The message says which field.
#[derive(Debug, thiserror::Error)]
pub enum BadObject {
    #[error("the object is empty: agent and dataplane are of different versions")]
    Empty,
    #[error("{field}: {source}")]
    Field { field: &'static str, source: ConvertError },
    #[error("{field}: {value} is not supported")]
    Unsupported { field: &'static str, value: String },
    #[error("{path}.{source}")]
    Within { path: String, source: Box<BadObject> },
    #[error(transparent)]
    Maglev(#[from] weir_tables::MaglevError),
}

impl BadObject {
    fn within(self, path: String) -> BadObject {
        BadObject::Within { path, source: Box::new(self) }
    }
}

mod bandwidth;
mod node;
mod policy;

pub use policy::{show_direction, show_rule, show_verdict_kind};

type Result<T> = std::result::Result<T, BadObject>;

/// The row of an upserted object.
pub fn object(object: &v1::Object) -> Result<Object> {
    use v1::object::Kind;
    Ok(match object.kind.as_ref().ok_or(BadObject::Empty)? {
        Kind::Frontend(frontend) => Object::Frontend(self::frontend(frontend)?),
        Kind::BackendSet(set) => Object::BackendSet {
            name: set.name.clone(),
            protocol: service_protocol(set.protocol)?,
            algorithm: algorithm(set.algorithm)?,
            backends: set.backends.iter().map(backend).collect::<Result<_>>()?,
        },
        Kind::Endpoint(endpoint) => Object::Endpoint(self::endpoint(endpoint)?),
        Kind::Node(node) => Object::Node(node::node(node)?),
        Kind::Identity(identity) => Object::Identity(policy::identity(identity)?),
        Kind::PeerAddress(address) => {
            let (prefix, identity) = policy::peer_address(address)?;
            Object::PeerAddress { prefix, identity }
        }
        Kind::CidrSelector(selector) => Object::CidrSelector(policy::cidr_selector(selector)?),
        Kind::PolicyRules(rules) => Object::PolicyRules(policy::policy_rules(rules)?),
    })
}

/// The name of an object, in the form of the tables.
pub fn reference(reference: &v1::ObjectRef) -> Result<ObjectRef> {
    use v1::object_ref::Kind;
    Ok(match reference.kind.as_ref().ok_or(BadObject::Empty)? {
        Kind::Frontend(key) => ObjectRef::Frontend(frontend_key(key)?),
        Kind::BackendSet(name) => ObjectRef::BackendSet(name.clone()),
        Kind::Endpoint(name) => ObjectRef::Endpoint(name.clone()),
        Kind::Node(_) => ObjectRef::Node,
        Kind::Identity(id) => ObjectRef::Identity(IdentityId(*id)),
        Kind::PeerAddress(prefix) => ObjectRef::PeerAddress(self::prefix("prefix", prefix)?),
        Kind::CidrSelector(id) => ObjectRef::CidrSelector(SelectorId(*id)),
        Kind::PolicyRules(name) => ObjectRef::PolicyRules(name.clone()),
    })
}

/// Bytes of an address on the wire.
pub fn address_bytes(addr: &Addr) -> Vec<u8> {
    weir_api::convert::address_bytes(IpAddr::from(*addr))
}

/// A frontend for showing.
pub fn show_frontend(frontend: &Frontend) -> v1::Frontend {
    let kind = match frontend.kind {
        FrontendType::ClusterIp => v1::FrontendType::ClusterIp,
        FrontendType::LoadBalancer => v1::FrontendType::LoadBalancer,
        FrontendType::NodePort => v1::FrontendType::NodePort,
        FrontendType::ExternalIp => v1::FrontendType::ExternalIp,
        FrontendType::HostPort => v1::FrontendType::HostPort,
    };
    let forwarding = match frontend.forwarding {
        Forwarding::Snat => v1::Forwarding::Snat,
        Forwarding::Dsr => v1::Forwarding::Dsr,
    };
    let range = |prefix: &Prefix| v1::Prefix {
        address: address_bytes(&prefix.addr()),
        length: prefix.length().into(),
    };
    v1::Frontend {
        key: Some(v1::FrontendKey {
            address: address_bytes(&frontend.key.addr),
            l4_port: frontend.key.l4_port.into(),
            protocol: frontend.key.protocol.into(),
        }),
        service: frontend.service.clone(),
        r#type: kind.into(),
        backend_set: frontend.backend_set.clone(),
        external_backend_set: frontend.external_backend_set.clone().unwrap_or_default(),
        affinity_timeout_s: frontend.affinity_s,
        source_ranges: frontend.source_ranges.ranges.iter().map(range).collect(),
        source_ranges_deny: frontend.source_ranges.is_deny,
        forwarding: forwarding.into(),
    }
}

/// A backend for showing.
pub fn show_backend(backend: &Backend) -> v1::Backend {
    let state = match backend.state {
        BackendState::Active => v1::BackendState::Active,
        BackendState::Terminating => v1::BackendState::Terminating,
        BackendState::Maintenance => v1::BackendState::Maintenance,
    };
    v1::Backend {
        address: address_bytes(&backend.addr.addr),
        l4_port: backend.addr.l4_port.into(),
        state: state.into(),
        weight: backend.weight.into(),
        node_address: backend.node.as_ref().map(address_bytes).unwrap_or_default(),
    }
}

fn frontend(frontend: &v1::Frontend) -> Result<Frontend> {
    let kind = match v1::FrontendType::try_from(frontend.r#type) {
        Ok(v1::FrontendType::ClusterIp) => FrontendType::ClusterIp,
        Ok(v1::FrontendType::LoadBalancer) => FrontendType::LoadBalancer,
        Ok(v1::FrontendType::NodePort) => FrontendType::NodePort,
        Ok(v1::FrontendType::ExternalIp) => FrontendType::ExternalIp,
        Ok(v1::FrontendType::HostPort) => FrontendType::HostPort,
        _ => return Err(unsupported("type", frontend.r#type)),
    };
    let forwarding = match v1::Forwarding::try_from(frontend.forwarding) {
        Ok(v1::Forwarding::Unspecified | v1::Forwarding::Snat) => Forwarding::Snat,
        Ok(v1::Forwarding::Dsr) => Forwarding::Dsr,
        Err(_) => return Err(unsupported("forwarding", frontend.forwarding)),
    };
    let external = &frontend.external_backend_set;
    Ok(Frontend {
        key: frontend_key(frontend.key.as_ref().ok_or(BadObject::Empty)?)?,
        service: frontend.service.clone(),
        kind,
        backend_set: frontend.backend_set.clone(),
        external_backend_set: (!external.is_empty()).then(|| external.clone()),
        affinity_s: frontend.affinity_timeout_s,
        source_ranges: SourceRanges {
            ranges: prefixes("source_ranges", &frontend.source_ranges)?,
            is_deny: frontend.source_ranges_deny,
        },
        forwarding,
    })
}

fn frontend_key(key: &v1::FrontendKey) -> Result<FrontendKey> {
    Ok(FrontendKey {
        addr: addr("address", &key.address)?,
        l4_port: l4_port("l4_port", key.l4_port)?,
        protocol: service_protocol(key.protocol)?,
    })
}

fn backend(backend: &v1::Backend) -> Result<Backend> {
    let state = match v1::BackendState::try_from(backend.state) {
        Ok(v1::BackendState::Active) => BackendState::Active,
        Ok(v1::BackendState::Terminating) => BackendState::Terminating,
        Ok(v1::BackendState::Maintenance) => BackendState::Maintenance,
        _ => return Err(unsupported("backends.state", backend.state)),
    };
    let addr = BackendAddr {
        addr: addr("backends.address", &backend.address)?,
        l4_port: l4_port("backends.l4_port", backend.l4_port)?,
    };
    let weight =
        u16::try_from(backend.weight).map_err(|_| unsupported("weight", backend.weight))?;
    let node = match backend.node_address.as_slice() {
        [] => None,
        bytes => Some(self::addr("backends.node_address", bytes)?),
    };
    Ok(Backend { addr, state, weight, node })
}

fn endpoint(endpoint: &v1::Endpoint) -> Result<Endpoint> {
    let field = |source| BadObject::Field { field: "mac", source };
    // An audited pod is let through all the same.
    let rules = &endpoint.policy_rules;
    let is_held = !rules.is_empty() && !endpoint.policy_audit;
    let failure_mode = match v1::FailureMode::try_from(endpoint.failure_mode) {
        Ok(v1::FailureMode::Closed) => FailureMode::Closed,
        Ok(v1::FailureMode::Unspecified) if is_held => FailureMode::Closed,
        _ => FailureMode::Open,
    };
    // The kernel's are positive and signed.
    if endpoint.ifindex == 0 || i32::try_from(endpoint.ifindex).is_err() {
        return Err(unsupported("ifindex", endpoint.ifindex));
    }
    let addresses = endpoint.addresses.iter().map(|bytes| addr("addresses", bytes));
    Ok(Endpoint {
        name: endpoint.name.clone(),
        port: PortId(endpoint.ifindex),
        mac: Mac(wire::Mac::from_bytes(&endpoint.mac).map_err(field)?.0),
        addresses: addresses.collect::<Result<_>>()?,
        failure_mode,
        identity: IdentityId(endpoint.identity),
        policy: (!rules.is_empty()).then(|| rules.clone()),
        is_audited: endpoint.policy_audit,
        bandwidth: bandwidth::bandwidth(endpoint.bandwidth.as_ref())?,
    })
}

fn prefixes(field: &'static str, prefixes: &[v1::Prefix]) -> Result<Vec<Prefix>> {
    prefixes.iter().map(|prefix| self::prefix(field, prefix)).collect()
}

fn prefix(field: &'static str, prefix: &v1::Prefix) -> Result<Prefix> {
    let (address, length) =
        parse_prefix(prefix).map_err(|source| BadObject::Field { field, source })?;
    Prefix::new(Addr::from(address), length).ok_or_else(|| unsupported(field, length))
}

fn addr(field: &'static str, bytes: &[u8]) -> Result<Addr> {
    let address = parse_address(bytes).map_err(|source| BadObject::Field { field, source })?;
    Ok(Addr::from(address))
}

fn l4_port(field: &'static str, port: u32) -> Result<u16> {
    parse_l4_port(port).map_err(|source| BadObject::Field { field, source })
}

fn service_protocol(number: i32) -> Result<u8> {
    match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Tcp) => Ok(protocol::TCP),
        Ok(v1::Protocol::Udp) => Ok(protocol::UDP),
        Ok(v1::Protocol::Sctp) => Ok(protocol::SCTP),
        _ => Err(unsupported("protocol", number)),
    }
}

fn algorithm(number: i32) -> Result<Algorithm> {
    match v1::Algorithm::try_from(number) {
        Ok(v1::Algorithm::Maglev) => Ok(Algorithm::Maglev),
        Ok(v1::Algorithm::Hash) => Ok(Algorithm::Hash),
        _ => Err(unsupported("algorithm", number)),
    }
}

fn unsupported(field: &'static str, value: impl std::fmt::Display) -> BadObject {
    BadObject::Unsupported { field, value: value.to_string() }
}
