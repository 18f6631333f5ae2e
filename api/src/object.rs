//! Names and printing of the state objects: every message about an object names it in this form.

use std::fmt;
use std::net::SocketAddr;

use crate::convert::{ConvertError, address_bytes, parse_address, parse_l4_port, parse_prefix};
use crate::v1::{FrontendKey, Object, ObjectRef, Prefix, Protocol, object, object_ref};

impl Object {
    /// The name under which this object is deleted or refused; `None` where it has no known kind.
    #[must_use]
    pub fn reference(&self) -> Option<ObjectRef> {
        let kind = match self.kind.as_ref()? {
            object::Kind::Frontend(it) => object_ref::Kind::Frontend(it.key.clone()?),
            object::Kind::BackendSet(it) => object_ref::Kind::BackendSet(it.name.clone()),
            object::Kind::Endpoint(it) => object_ref::Kind::Endpoint(it.name.clone()),
            object::Kind::Node(_) => object_ref::Kind::Node(true),
            object::Kind::Identity(it) => object_ref::Kind::Identity(it.id),
            object::Kind::PeerAddress(it) => object_ref::Kind::PeerAddress(it.prefix.clone()?),
            object::Kind::CidrSelector(it) => object_ref::Kind::CidrSelector(it.id),
            object::Kind::PolicyRules(it) => object_ref::Kind::PolicyRules(it.name.clone()),
        };
        Some(ObjectRef { kind: Some(kind) })
    }
}

impl From<object::Kind> for Object {
    fn from(kind: object::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<object_ref::Kind> for ObjectRef {
    fn from(kind: object_ref::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl FrontendKey {
    /// The key of an address and port.
    #[must_use]
    pub fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self {
            address: address_bytes(address.ip()),
            l4_port: u32::from(address.port()),
            protocol: protocol.into(),
        }
    }

    /// The address and port of a well-formed key.
    ///
    /// # Errors
    /// An address that is not 4 or 16 bytes, or a port outside 1..65535.
    pub fn socket_address(&self) -> Result<SocketAddr, ConvertError> {
        Ok(SocketAddr::new(parse_address(&self.address)?, parse_l4_port(self.l4_port)?))
    }
}

/// `10.96.0.1:80/TCP`, `[fd00::1]:80/TCP`.
impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol_name(self.protocol());
        match self.socket_address() {
            Ok(address) => write!(f, "{address}/{protocol}"),
            Err(error) => write!(f, "{:02x?}:{}/{protocol} ({error})", self.address, self.l4_port),
        }
    }
}

/// `10.0.0.0/8`.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match parse_prefix(self) {
            Ok((address, length)) => write!(f, "{address}/{length}"),
            Err(error) => write!(f, "{:02x?}/{} ({error})", self.address, self.length),
        }
    }
}

/// `frontend 10.96.0.1:80/TCP`, `backend set default/web:http/4`, `endpoint default/a`, `node`,
/// `identity 256`, `address 10.0.0.1/32`, `address selector 3`, `policy rules 7`.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(object_ref::Kind::Frontend(key)) => write!(f, "frontend {key}"),
            Some(object_ref::Kind::BackendSet(name)) => write!(f, "backend set {name}"),
            Some(object_ref::Kind::Endpoint(name)) => write!(f, "endpoint {name}"),
            Some(object_ref::Kind::Node(_)) => f.write_str("node"),
            Some(object_ref::Kind::Identity(id)) => write!(f, "identity {id}"),
            Some(object_ref::Kind::PeerAddress(prefix)) => write!(f, "address {prefix}"),
            Some(object_ref::Kind::CidrSelector(id)) => write!(f, "address selector {id}"),
            Some(object_ref::Kind::PolicyRules(name)) => write!(f, "policy rules {name}"),
            None => f.write_str("object of an unknown kind"),
        }
    }
}

/// The protocol's name in upper case, as Kubernetes writes it.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unspecified => "UNSPECIFIED",
        Protocol::Icmp => "ICMP",
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Icmpv6 => "ICMPv6",
        Protocol::Sctp => "SCTP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{BackendSet, CidrSelector, Frontend, Identity, PeerAddress, PolicyRules};

    #[test]
    fn objects_name_themselves() {
        let key = FrontendKey::new("[fd00::1]:80".parse().unwrap(), Protocol::Tcp);
        let frontend = Frontend { key: Some(key), ..Frontend::default() };
        let name = |kind| Object::from(kind).reference().unwrap().to_string();
        assert_eq!(name(object::Kind::Frontend(frontend)), "frontend [fd00::1]:80/TCP");
        let set = BackendSet { name: "default/web:http/4".into(), ..BackendSet::default() };
        assert_eq!(name(object::Kind::BackendSet(set)), "backend set default/web:http/4");
        let identity = Identity { id: 256, ..Identity::default() };
        assert_eq!(name(object::Kind::Identity(identity)), "identity 256");
        let prefix = Some(Prefix { address: vec![10, 0, 0, 1], length: 32 });
        let address = PeerAddress { prefix, identity: 256 };
        assert_eq!(name(object::Kind::PeerAddress(address)), "address 10.0.0.1/32");
        let selector = CidrSelector { id: 3, ..CidrSelector::default() };
        assert_eq!(name(object::Kind::CidrSelector(selector)), "address selector 3");
        let rules = PolicyRules { name: "7".into(), ..PolicyRules::default() };
        assert_eq!(name(object::Kind::PolicyRules(rules)), "policy rules 7");
        assert_eq!(Object { kind: None }.reference(), None);
        assert_eq!(Object::from(object::Kind::Frontend(Frontend::default())).reference(), None);
    }

    #[test]
    fn a_bad_key_still_prints() {
        let key = FrontendKey { address: vec![1, 2], l4_port: 80, protocol: 99 };
        assert!(key.to_string().contains("4 or 16 bytes"), "{key}");
        let prefix = Prefix { address: vec![10, 0, 0, 0], length: 33 };
        assert!(prefix.to_string().contains("33 is more than 32"), "{prefix}");
    }
}
