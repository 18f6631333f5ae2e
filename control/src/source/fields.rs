//! Single fields of Kubernetes objects, and what is wrong with them.

use std::fmt::Display;
use std::net::IpAddr;

use weir_api::v1::Protocol;

use crate::model::{Severity, check_unicast};

/// Something wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `spec.ports[0].port`; empty for the object itself.
    pub path: String,
    /// What is wrong and what to do.
    pub reason: String,
    /// Whether the field applies.
    pub severity: Severity,
}

/// Collects what is wrong with one object.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
}

impl Findings {
    pub(super) fn refuse(&mut self, path: impl Into<String>, reason: impl Display) {
        self.push(path.into(), reason.to_string(), Severity::Refused);
    }

    pub(super) fn ignore(&mut self, path: impl Into<String>, what: &str) {
        self.push(path.into(), format!("{what} not supported yet"), Severity::Ignored);
    }

    pub(super) fn push(&mut self, path: String, reason: String, severity: Severity) {
        self.list.push(Finding { path, reason, severity });
    }

    pub(super) fn has_refusal(&self) -> bool {
        self.list.iter().any(|it| it.severity == Severity::Refused)
    }
}

/// Reads an address that traffic can be sent to.
pub(super) fn read_address(path: &str, text: &str, findings: &mut Findings) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        findings.refuse(path, format_args!("{text:?} is not an IP address"));
        return None;
    };
    match check_unicast(address) {
        Ok(()) => Some(address),
        Err(what) => {
            findings.refuse(path, format_args!("{address} is {what}: give a unicast address"));
            None
        }
    }
}

/// Reads a port number.
pub(super) fn read_port(path: &str, port: i32, findings: &mut Findings) -> Option<u16> {
    let port = u16::try_from(port).ok().filter(|it| *it > 0).ok_or(port);
    port.map_err(|port| findings.refuse(path, format_args!("{port} is outside 1..65535"))).ok()
}

/// Reads the protocol of a port; absent means TCP.
pub(super) fn read_protocol(
    path: &str,
    protocol: Option<&str>,
    findings: &mut Findings,
) -> Option<Protocol> {
    match protocol.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        other => {
            let reason = format!("unknown protocol {other:?}: TCP, UDP and SCTP are served");
            findings.refuse(format!("{path}.protocol"), reason);
            None
        }
    }
}
