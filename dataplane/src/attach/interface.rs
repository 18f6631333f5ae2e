//! An interface of this network namespace, by name and index.

use std::fmt;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use super::AttachError;

/// An interface that was there when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, for messages and for the calls that want one.
    pub name: String,
    /// Its index: what pins and maps know it by.
    pub ifindex: u32,
}

impl Interface {
    /// The interface with this name.
    pub fn by_name(name: &str) -> Result<Self, AttachError> {
        let ifindex = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
            .and_then(|socket| netdevice::name_to_index(socket, name))
            .map_err(|error| missing(name.into(), error))?;
        Ok(Self { name: name.into(), ifindex })
    }

    /// The interface with this index.
    pub fn by_index(ifindex: u32) -> Result<Self, AttachError> {
        let name = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
            .and_then(|socket| netdevice::index_to_name(socket, ifindex))
            .map_err(|error| missing(format!("ifindex {ifindex}"), error))?;
        Ok(Self { name, ifindex })
    }
}

fn missing(name: String, error: rustix::io::Errno) -> AttachError {
    AttachError::NoInterface { name, source: error.into() }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (ifindex {})", self.name, self.ifindex)
    }
}
