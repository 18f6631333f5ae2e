//! Ports of a `cilium.io` rule (`pkg/policy/api/rule_validation.go`).

use super::super::super::fields::Findings;
use super::super::ports::{check_port_name, read_port_range};
use super::l7::read_l7;
use super::peers::Place;
use super::schema::{Port, PortRule};
use crate::model::{L7Rules, PolicyPort, PolicyProtocol, PortChoice, Severity};

/// Ports of one entry.
const PORTS_MAX: usize = 40;

/// What `toPorts` says.
#[derive(Debug, Default)]
pub(super) struct RulePorts {
    /// Ports that nobody looks into.
    pub(super) plain: Vec<PolicyPort>,
    /// Ports for a proxy, with the path of their entry.
    pub(super) proxied: Vec<(String, Vec<PolicyPort>, L7Rules)>,
}

pub(super) fn read_ports(
    path: &str,
    rules: &[PortRule],
    place: Place,
    findings: &mut Findings,
) -> RulePorts {
    let mut all = RulePorts::default();
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let given = rule.ports.as_deref().unwrap_or_default();
        if given.len() > PORTS_MAX {
            let reason = format_args!("{} ports are more than {PORTS_MAX}", given.len());
            findings.refuse(format!("{path}.ports"), reason);
        }
        let mut ports = Vec::new();
        for (i, port) in given.iter().enumerate() {
            ports.extend(read_port(&format!("{path}.ports[{i}]"), port, findings));
        }
        let l7 = read_l7(&path, rule, &ports, place, findings);
        if given.is_empty() {
            let reason = "no ports: this entry is about nothing";
            findings.push(path, reason.into(), Severity::Ignored);
            continue;
        }
        match l7 {
            Some(l7) => all.proxied.push((path, ports, l7)),
            None => all.plain.extend(ports),
        }
    }
    all
}

fn read_port(path: &str, port: &Port, findings: &mut Findings) -> Option<PolicyPort> {
    let protocol = read_protocol(path, port.protocol.as_deref(), findings);
    let choice = read_choice(path, port, findings);
    let (protocol, port) = (protocol?, choice?);
    if matches!(protocol, PolicyProtocol::Other(_)) && port != PortChoice::All {
        findings.refuse(format!("{path}.port"), "this protocol has no ports: give \"0\"");
        return None;
    }
    Some(PolicyPort { protocol, port })
}

/// Absent: all that have ports.
fn read_protocol(
    path: &str,
    protocol: Option<&str>,
    findings: &mut Findings,
) -> Option<PolicyProtocol> {
    Some(match protocol.unwrap_or_default() {
        "" | "ANY" => PolicyProtocol::Any,
        "TCP" => PolicyProtocol::Tcp,
        "UDP" => PolicyProtocol::Udp,
        "SCTP" => PolicyProtocol::Sctp,
        // IANA's protocol numbers.
        "IGMP" => PolicyProtocol::Other(2),
        "IPIP" => PolicyProtocol::Other(4),
        "IPV6" => PolicyProtocol::Other(41),
        "GRE" => PolicyProtocol::Other(47),
        "ESP" => PolicyProtocol::Other(50),
        "AH" => PolicyProtocol::Other(51),
        "VRRP" => PolicyProtocol::Other(112),
        other => {
            let hint = if other.to_ascii_uppercase().starts_with("ICMP") {
                "ICMP has types, which stand in icmps"
            } else {
                "give TCP, UDP, SCTP, ANY, VRRP, IGMP, GRE, IPIP, IPV6, ESP or AH"
            };
            findings.refuse(
                format!("{path}.protocol"),
                format_args!("unknown protocol {other:?}: {hint}"),
            );
            return None;
        }
    })
}

/// 0 is all ports. Names are the same in upper and lower case.
fn read_choice(path: &str, port: &Port, findings: &mut Findings) -> Option<PortChoice> {
    let (number, end) = (format!("{path}.port"), format!("{path}.endPort"));
    let last = port.end_port.filter(|it| *it != 0);
    if !port.port.is_empty() && port.port.bytes().all(|it| it.is_ascii_digit()) {
        let Ok(first) = port.port.parse() else {
            findings.refuse(number, format_args!("{} is outside 0..65535", port.port));
            return None;
        };
        if first > 0 {
            return read_port_range(&number, first, &end, last, findings);
        }
        if last.is_some() {
            findings.refuse(end, "needs a port where the range starts, and 0 is all of them");
            return None;
        }
        return Some(PortChoice::All);
    }
    let name = port.port.to_ascii_lowercase();
    if let Err(reason) = check_port_name(&name) {
        findings.refuse(number, reason);
        return None;
    }
    if last.is_some() {
        findings.refuse(end, "cannot stand with a named port: give the port's number");
        return None;
    }
    Some(PortChoice::Named(name))
}
