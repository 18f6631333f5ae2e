//! Names of state objects, in order.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weir_api::convert::{address_bytes, parse_prefix};
use weir_api::v1::{FrontendKey, Object, ObjectRef, Prefix, Protocol, object_ref};

/// Name of a state object; the order is the one in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DesiredKey {
    /// The node's configuration.
    Node,
    /// A set of security labels.
    Identity(u32),
    /// A range of addresses that policy tells apart.
    CidrSelector(u32),
    /// The identity of addresses.
    PeerAddress(IpAddr, u8),
    /// Rules of endpoints.
    PolicyRules(String),
    /// An attached pod.
    Endpoint(String),
    /// Backends of a service's port.
    BackendSet(String),
    /// An address and port of a service.
    Frontend(SocketAddr, Protocol),
}

impl DesiredKey {
    /// As the state protocol names it.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::from(match self {
            Self::Node => object_ref::Kind::Node(true),
            Self::Identity(id) => object_ref::Kind::Identity(*id),
            Self::CidrSelector(id) => object_ref::Kind::CidrSelector(*id),
            Self::PeerAddress(address, length) => object_ref::Kind::PeerAddress(Prefix {
                address: address_bytes(*address),
                length: u32::from(*length),
            }),
            Self::PolicyRules(name) => object_ref::Kind::PolicyRules(name.clone()),
            Self::Endpoint(name) => object_ref::Kind::Endpoint(name.clone()),
            Self::BackendSet(name) => object_ref::Kind::BackendSet(name.clone()),
            Self::Frontend(address, protocol) => {
                object_ref::Kind::Frontend(FrontendKey::new(*address, *protocol))
            }
        })
    }

    /// The key of a reference; `None` where it is malformed.
    #[must_use]
    pub fn parse(reference: &ObjectRef) -> Option<Self> {
        Some(match reference.kind.as_ref()? {
            object_ref::Kind::Node(_) => Self::Node,
            object_ref::Kind::Identity(id) => Self::Identity(*id),
            object_ref::Kind::CidrSelector(id) => Self::CidrSelector(*id),
            object_ref::Kind::PeerAddress(prefix) => {
                let (address, length) = parse_prefix(prefix).ok()?;
                Self::PeerAddress(address, length)
            }
            object_ref::Kind::PolicyRules(name) => Self::PolicyRules(name.clone()),
            object_ref::Kind::Endpoint(name) => Self::Endpoint(name.clone()),
            object_ref::Kind::BackendSet(name) => Self::BackendSet(name.clone()),
            object_ref::Kind::Frontend(key) => {
                Self::Frontend(key.socket_address().ok()?, key.protocol())
            }
        })
    }
}

/// Objects that are new or differ (`Some`) or are gone (`None`).
pub type Changes = BTreeMap<DesiredKey, Option<Object>>;
