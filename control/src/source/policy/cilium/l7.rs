//! What a proxy does with the connections of a `toPorts` entry: checked for its shape and where it
//! may stand, and carried as it is written.

use serde::Serialize;

use super::super::super::fields::Findings;
use super::names::read_name_pattern;
use super::peers::Place;
use super::schema::{Listener, PortRule, Rules, TlsContext};
use crate::model::{L7Rules, PolicyPort, PolicyProtocol, PortChoice};

/// Which proxy goes first where several are asked for (`pkg/policy/types`): the lower one. A
/// listener may say 1..100 itself.
mod priority {
    pub(super) const HTTP: u8 = 101;
    pub(super) const KAFKA: u8 = 106;
    pub(super) const GENERIC: u8 = 111;
    pub(super) const TLS: u8 = 116;
    pub(super) const DNS: u8 = 121;
    pub(super) const LISTENER: u8 = 126;
}
const LISTENER_PRIORITY_MAX: i32 = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<&'a Rules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<&'a Listener>,
    #[serde(rename = "terminatingTLS", skip_serializing_if = "Option::is_none")]
    terminating_tls: Option<&'a TlsContext>,
    #[serde(rename = "originatingTLS", skip_serializing_if = "Option::is_none")]
    originating_tls: Option<&'a TlsContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_names: Option<&'a Vec<String>>,
}

/// `None` where no proxy is asked for, or what is asked for cannot be.
pub(super) fn read_l7(
    path: &str,
    rule: &PortRule,
    ports: &[PolicyPort],
    place: Place,
    findings: &mut Findings,
) -> Option<L7Rules> {
    let rules = rule.rules.as_ref().filter(|it| !it.is_empty());
    let names = rule.server_names.as_ref().filter(|it| !it.is_empty());
    let has_tls = rule.terminating_tls.is_some() || rule.originating_tls.is_some();
    if rules.is_none() && names.is_none() && !has_tls && rule.listener.is_none() {
        return None;
    }
    if place.is_deny {
        findings.refuse(path, "rules that deny do so for whole ports: no rules of a proxy");
    }
    check_tls(path, rule, rules.is_some(), findings);
    let parser = rules.and_then(|it| read_rules(path, it, ports, place, findings));
    let (parser, priority) = match (&rule.listener, parser) {
        (Some(listener), _) => {
            let path = format!("{path}.listener");
            let priority = check_listener(&path, listener, rules.is_some(), place, findings);
            ("listener", priority)
        }
        (None, Some(parser)) => parser,
        (None, None) if rules.is_some() => return None,
        (None, None) => {
            check_protocols(
                path,
                ports,
                "TLS",
                &[PolicyProtocol::Tcp, PolicyProtocol::Any],
                findings,
            );
            ("tls", priority::TLS)
        }
    };
    let written = Written {
        rules,
        listener: rule.listener.as_ref(),
        terminating_tls: rule.terminating_tls.as_ref(),
        originating_tls: rule.originating_tls.as_ref(),
        server_names: names,
    };
    let json = serde_json::to_string(&written).expect("only strings, numbers and lists of them");
    Some(L7Rules { parser, priority, json })
}

impl Rules {
    fn is_empty(&self) -> bool {
        self.http.is_none()
            && self.dns.is_none()
            && self.kafka.is_none()
            && self.l7_proto.is_none()
            && self.l7.is_none()
    }
}

/// The parser and its priority.
fn read_rules(
    path: &str,
    rules: &Rules,
    ports: &[PolicyPort],
    place: Place,
    findings: &mut Findings,
) -> Option<(&'static str, u8)> {
    let path = format!("{path}.rules");
    if rules.l7.is_some() && rules.l7_proto.is_none() {
        findings.refuse(format!("{path}.l7"), "needs l7proto, which says of what protocol");
        return None;
    }
    let mut parsers = Vec::new();
    parsers.extend(rules.http.is_some().then_some(("http", priority::HTTP)));
    parsers.extend(rules.kafka.is_some().then_some(("kafka", priority::KAFKA)));
    parsers.extend(rules.l7_proto.is_some().then_some(("l7proto", priority::GENERIC)));
    parsers.extend(rules.dns.is_some().then_some(("dns", priority::DNS)));
    let [(parser, priority)] = parsers[..] else {
        findings.refuse(path, "rules of several protocols: give each protocol a toPorts entry");
        return None;
    };
    if place.is_host && (parser != "dns" || place.is_ingress()) {
        findings.refuse(path.as_str(), "policies for nodes have no rules of a proxy");
    }
    if ports.iter().any(|it| it.port == PortChoice::All) {
        findings.refuse(path.as_str(), "rules of a proxy need ports: not port 0");
    }
    if parser == "dns" {
        check_dns(&path, rules, ports, place, findings);
    } else {
        check_protocols(&path, ports, parser, &[PolicyProtocol::Tcp], findings);
    }
    check_http(&path, rules, findings);
    for (i, it) in rules.kafka.iter().flatten().enumerate() {
        if it.role.is_some() && it.api_key.is_some() {
            findings.refuse(format!("{path}.kafka[{i}]"), "give either role or apiKey");
        }
        if it.role.as_deref().is_some_and(|it| it != "produce" && it != "consume") {
            let path = format!("{path}.kafka[{i}].role");
            findings.refuse(path, "unknown role: give produce or consume");
        }
    }
    Some((parser, priority))
}

fn check_protocols(
    path: &str,
    ports: &[PolicyPort],
    what: &str,
    known: &[PolicyProtocol],
    findings: &mut Findings,
) {
    if ports.iter().any(|it| !known.contains(&it.protocol)) {
        let reason = format!("{what} is on TCP: give the ports the protocol TCP");
        findings.refuse(path, reason);
    }
}

fn check_dns(
    path: &str,
    rules: &Rules,
    ports: &[PolicyPort],
    place: Place,
    findings: &mut Findings,
) {
    let path = format!("{path}.dns");
    if place.is_ingress() {
        findings.refuse(path.as_str(), "rules of DNS are for egress");
    }
    if ports.is_empty() {
        findings.refuse(path.as_str(), "rules of DNS need a port: give 53");
    }
    if ports.iter().any(|it| matches!(it.port, PortChoice::Range(first, last) if first != last)) {
        findings.refuse(path.as_str(), "rules of DNS need single ports, no ranges");
    }
    if ports.iter().any(|it| matches!(it.protocol, PolicyProtocol::Sctp | PolicyProtocol::Other(_)))
    {
        findings.refuse(path.as_str(), "DNS is on UDP and TCP: give one of them, or ANY");
    }
    for (i, it) in rules.dns.iter().flatten().enumerate() {
        let path = format!("{path}[{i}]");
        match read_name_pattern(it.match_name.as_deref(), it.match_pattern.as_deref()) {
            Ok(_) => {}
            Err(("", reason)) => findings.refuse(path, reason),
            Err((field, reason)) => findings.refuse(format!("{path}.{field}"), reason),
        }
    }
}

fn check_http(path: &str, rules: &Rules, findings: &mut Findings) {
    for (i, rule) in rules.http.iter().flatten().enumerate() {
        for (j, it) in rule.header_matches.iter().flatten().enumerate() {
            let path = format!("{path}.http[{i}].headerMatches[{j}]");
            if it.name.is_empty() {
                findings.refuse(format!("{path}.name"), "a header needs a name");
            }
            let mismatch = it.mismatch.as_deref().unwrap_or_default();
            if !["", "LOG", "ADD", "DELETE", "REPLACE"].contains(&mismatch) {
                let reason = format_args!("unknown {mismatch:?}: give LOG, ADD, DELETE or REPLACE");
                findings.refuse(format!("{path}.mismatch"), reason);
            }
            if it.secret.as_ref().is_some_and(|it| it.name.is_empty()) {
                findings.refuse(format!("{path}.secret.name"), "a secret needs a name");
            }
        }
    }
}

fn check_tls(path: &str, rule: &PortRule, has_rules: bool, findings: &mut Findings) {
    let contexts =
        [("terminatingTLS", &rule.terminating_tls), ("originatingTLS", &rule.originating_tls)];
    for (name, context) in contexts {
        if context.as_ref().is_some_and(|it| it.secret.name.is_empty()) {
            findings.refuse(format!("{path}.{name}.secret.name"), "a secret needs a name");
        }
    }
    let names = rule.server_names.as_deref().unwrap_or_default();
    if !names.is_empty() && has_rules && rule.terminating_tls.is_none() {
        let reason = "with rules of a proxy only where it ends TLS: give terminatingTLS, too";
        findings.refuse(format!("{path}.serverNames"), reason);
    }
    for (i, name) in names.iter().enumerate() {
        if name == "*" || name == "**" || read_name_pattern(None, Some(name)).is_ok() {
            continue;
        }
        let reason = format_args!("{name:?} is not a server's name or a pattern of names");
        findings.refuse(format!("{path}.serverNames[{i}]"), reason);
    }
}

fn check_listener(
    path: &str,
    listener: &Listener,
    has_rules: bool,
    place: Place,
    findings: &mut Findings,
) -> u8 {
    if place.is_ingress() {
        findings.refuse(path, "a listener is for egress");
    }
    if has_rules {
        findings.refuse(path, "a listener has rules of its own: give it none here");
    }
    if listener.name.is_empty() {
        findings.refuse(format!("{path}.name"), "a listener needs a name");
    }
    let Some(priority) = listener.priority.filter(|it| *it != 0) else {
        return priority::LISTENER;
    };
    match u8::try_from(priority).ok().filter(|_| priority <= LISTENER_PRIORITY_MAX) {
        Some(priority) => priority,
        None => {
            let reason = format_args!("{priority} is outside 1..{LISTENER_PRIORITY_MAX}");
            findings.refuse(format!("{path}.priority"), reason);
            priority::LISTENER
        }
    }
}
