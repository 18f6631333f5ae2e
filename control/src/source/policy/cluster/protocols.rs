//! Protocols and ports of a ClusterNetworkPolicy's rule.

use serde::Deserialize;

use super::super::super::fields::Findings;
use super::super::ports::{check_port_name, read_port_range};
use super::limit_filled;
use crate::model::{PolicyPort, PolicyProtocol, PortChoice};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Protocol {
    tcp: Option<Destination>,
    udp: Option<Destination>,
    sctp: Option<Destination>,
    destination_named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Destination {
    destination_port: Option<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    number: Option<i32>,
    range: Option<PortRange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortRange {
    start: i32,
    end: i32,
}

pub(super) fn read_protocols(
    path: &str,
    protocols: Option<Vec<Protocol>>,
    findings: &mut Findings,
) -> Vec<PolicyPort> {
    let path = format!("{path}.protocols");
    let mut ports = Vec::new();
    for (i, it) in limit_filled(&path, protocols, findings).into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let (protocol, field, destination) = match (it.tcp, it.udp, it.sctp) {
            (Some(it), None, None) => (PolicyProtocol::Tcp, "tcp", Some(it)),
            (None, Some(it), None) => (PolicyProtocol::Udp, "udp", Some(it)),
            (None, None, Some(it)) => (PolicyProtocol::Sctp, "sctp", Some(it)),
            (None, None, None) => (PolicyProtocol::Any, "", None),
            _ => {
                findings.refuse(path, "several protocols in one entry: give each its own");
                continue;
            }
        };
        let port = match (destination, it.destination_named_port) {
            (Some(it), None) => read_destination(&format!("{path}.{field}"), it, findings),
            (None, Some(name)) => match check_port_name(&name) {
                Ok(()) => Some(PortChoice::Named(name)),
                Err(reason) => {
                    findings.refuse(format!("{path}.destinationNamedPort"), reason);
                    None
                }
            },
            _ => {
                findings.refuse(path, "give one of tcp, udp, sctp and destinationNamedPort");
                None
            }
        };
        ports.extend(port.map(|port| PolicyPort { protocol, port }));
    }
    ports
}

fn read_destination(path: &str, it: Destination, findings: &mut Findings) -> Option<PortChoice> {
    let Some(port) = it.destination_port else {
        findings.refuse(path, "give a destinationPort");
        return None;
    };
    let path = format!("{path}.destinationPort");
    match (port.number, port.range) {
        (Some(number), None) => {
            read_port_range(&format!("{path}.number"), number, "", None, findings)
        }
        (None, Some(PortRange { start, end })) => {
            let (first, last) = (format!("{path}.range.start"), format!("{path}.range.end"));
            if start == end {
                findings.refuse(last, "must be over the start: give a single port as a number");
                return None;
            }
            read_port_range(&first, start, &last, Some(end), findings)
        }
        _ => {
            findings.refuse(path, "give either a number or a range");
            None
        }
    }
}
