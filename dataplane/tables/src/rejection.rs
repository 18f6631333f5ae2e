//! Why an object is refused, and what addresses have to be.

use std::collections::BTreeSet;

use thiserror::Error;
use weir_packet::Addr;

use crate::backend_set::{Backend, BackendSet};
use crate::ids::PortId;
use crate::policy::Direction;

/// Why an object is refused. The reason says what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Rejection {
    #[error("port 0 cannot be served: use 1..65535")]
    PortZero,
    #[error("address {addr} of backend and set protocol: {reason}")]
    Backend { addr: String, reason: &'static str },
    #[error("{count} backends in one set: at most {} are supported", BackendSet::BACKENDS_MAX)]
    TooManyBackends { count: usize },
    #[error("{0} is already the address of {1}: remove one of the two")]
    AddressTaken(Addr, String),
    #[error("interface {0} already belongs to {1}: detach that endpoint first")]
    PortTaken(PortId, String),
    #[error("{0} is full: {1} is the most that this node holds")]
    Full(&'static str, usize),
    #[error("{0} ports for source translation, but {1} workers: give every worker at least one")]
    SnatPorts(u32, u8),
    #[error("an endpoint needs at least one address")]
    NoAddress,
    #[error("{0}: give a unicast address")]
    NotUnicast(Addr),
    #[error("{count} {what}: at most {most} are supported; {advice}")]
    TooMuchPolicy { what: &'static str, count: usize, most: usize, advice: &'static str },
    #[error("{direction} rule {number} ({origin}) {reason}")]
    Rule { number: usize, direction: Direction, origin: String, reason: &'static str },
}

pub(crate) fn check_unicast(addr: &Addr) -> Result<(), Rejection> {
    if addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast() {
        return Err(Rejection::NotUnicast(*addr));
    }
    Ok(())
}

pub(crate) fn check_backends(backends: &[Backend]) -> Result<(), Rejection> {
    if backends.len() > BackendSet::BACKENDS_MAX {
        return Err(Rejection::TooManyBackends { count: backends.len() });
    }
    let mut seen = BTreeSet::new();
    for backend in backends {
        let refuse = |reason| Rejection::Backend { addr: backend.addr.to_string(), reason };
        check_unicast(&backend.addr.addr)?;
        if backend.addr.l4_port == 0 {
            return Err(refuse("port 0 cannot be reached"));
        }
        if backend.weight == 0 {
            return Err(refuse("weight 0: use the maintenance state instead"));
        }
        if backend.addr.addr.is_v4() != backends[0].addr.addr.is_v4() {
            return Err(refuse("one set holds one address family"));
        }
        if !seen.insert(backend.addr) {
            return Err(refuse("named twice"));
        }
    }
    Ok(())
}
