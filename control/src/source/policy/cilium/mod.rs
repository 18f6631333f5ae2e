//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (`pkg/policy/api`,
//! `pkg/k8s/apis/cilium.io/utils`).
//!
//! - [`schema`]: the fields as they are written.
//! - [`peers`], with [`selectors`], [`entities`] and [`names`]: who is at the other end.
//! - [`ports`], [`icmp`] and [`l7`]: what is spoken.

mod entities;
mod icmp;
mod l7;
mod names;
mod peers;
mod ports;
mod schema;
mod selectors;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::fields::Findings;
use crate::model::{
    IdentitySelector, L7Rules, Peers, PolicyAction, PolicyPort, PolicyRule, PolicySpec, Section,
    Subject, Tier,
};
use icmp::read_icmps;
use peers::{Place, RulePeers, read_peers};
use ports::{RulePorts, read_ports};
use schema::{Authentication, Rule, Spec};
use selectors::{Scope, read_subject, selects_init};

/// Characters of what a policy wants in the log.
const LOG_CHARS_MAX: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CiliumPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "metadata")]
    _metadata: ObjectMeta,
    spec: Option<Spec>,
    specs: Option<Vec<Spec>>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// Reads all specs of a policy; `namespace` is `None` for a clusterwide one.
pub(super) fn read_policy(
    policy: CiliumPolicy,
    namespace: Option<&str>,
    findings: &mut Findings,
) -> Option<Vec<PolicySpec>> {
    if policy.spec.is_none() && policy.specs.as_ref().is_none_or(Vec::is_empty) {
        findings.refuse("spec", "give spec or specs");
        return None;
    }
    let many = policy.specs.into_iter().flatten().enumerate();
    let many = many.map(|(i, it)| (format!("specs[{i}]"), it));
    let all = policy.spec.map(|it| ("spec".to_owned(), it)).into_iter().chain(many);
    let mut specs = Vec::new();
    for (path, spec) in all {
        specs.extend(read_spec(&path, spec, namespace, findings));
    }
    Some(specs)
}

fn read_spec(
    path: &str,
    spec: Spec,
    namespace: Option<&str>,
    findings: &mut Findings,
) -> Option<PolicySpec> {
    let log = spec.log.and_then(|it| it.value).unwrap_or_default();
    if log.chars().count() > LOG_CHARS_MAX {
        let reason = format_args!("more than {LOG_CHARS_MAX} characters");
        findings.refuse(format!("{path}.log.value"), reason);
    }
    let has_section = spec.ingress.is_some()
        || spec.ingress_deny.is_some()
        || spec.egress.is_some()
        || spec.egress_deny.is_some();
    if !has_section {
        findings.refuse(path, "give one of ingress, ingressDeny, egress and egressDeny");
    }
    let mut is_init = false;
    let subject = match (&spec.endpoint_selector, &spec.node_selector) {
        (Some(selector), None) => {
            let path = format!("{path}.endpointSelector");
            let selector = read_subject(&path, selector, namespace, findings);
            is_init = selects_init(&selector);
            Subject::Endpoints(selector)
        }
        (None, Some(_)) if namespace.is_some() => {
            let reason = "nodes have no namespace: use a CiliumClusterwideNetworkPolicy";
            findings.refuse(format!("{path}.nodeSelector"), reason);
            return None;
        }
        (None, Some(selector)) => {
            let path = format!("{path}.nodeSelector");
            let requirements = selectors::read_node_labels(&path, selector, findings);
            Subject::Nodes(IdentitySelector { requirements })
        }
        _ => {
            findings.refuse(path, "give either endpointSelector or nodeSelector");
            return None;
        }
    };
    let is_host = matches!(subject, Subject::Nodes(_));
    let defaults = spec.enable_default_deny.unwrap_or_default();
    let mut reader = Reader { scope: Scope { namespace, is_init }, is_host, findings };
    let (allow, deny) = (spec.ingress, spec.ingress_deny);
    let ingress = [("ingressDeny", convert(deny)), ("ingress", convert(allow))];
    let ingress = reader.read_section(path, "from", ingress, defaults.ingress);
    let (allow, deny) = (spec.egress, spec.egress_deny);
    let egress = [("egressDeny", convert(deny)), ("egress", convert(allow))];
    let egress = reader.read_section(path, "to", egress, defaults.egress);
    Some(PolicySpec { tier: Tier::Normal, priority: 0, subject, ingress, egress, log })
}

fn convert<T: Into<Rule>>(rules: Option<Vec<T>>) -> Vec<Rule> {
    rules.into_iter().flatten().map(Into::into).collect()
}

struct Reader<'a> {
    scope: Scope<'a>,
    is_host: bool,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    /// A list without rules says nothing. Where there are rules what none allows is denied, unless
    /// the policy wants it otherwise.
    fn read_section(
        &mut self,
        path: &str,
        prefix: &'static str,
        fields: [(&str, Vec<Rule>); 2],
        default_deny: Option<bool>,
    ) -> Option<Section> {
        let has_rules = fields.iter().any(|(_, rules)| !rules.is_empty());
        let is_default_deny = default_deny.unwrap_or(has_rules);
        let mut rules = Vec::new();
        for (field, given) in fields {
            let place = Place { prefix, is_deny: field.ends_with("Deny"), is_host: self.is_host };
            for (i, rule) in given.into_iter().enumerate() {
                self.read_rule(format!("{path}.{field}[{i}]"), &rule, place, &mut rules);
            }
        }
        (has_rules || is_default_deny).then_some(Section { is_default_deny, rules })
    }

    /// One rule for what needs no proxy, and one for each entry that needs one.
    fn read_rule(&mut self, path: String, rule: &Rule, place: Place, rules: &mut Vec<PolicyRule>) {
        let findings = &mut *self.findings;
        let RulePeers { peers, unsupported } = read_peers(&path, rule, place, self.scope, findings);
        let authentication = rule.authentication.as_ref();
        let authentication =
            authentication.and_then(|it| read_authentication(&path, it, place, findings));
        let unsupported = unsupported.or(authentication);
        // An empty list is no restriction here.
        let ports = rule.to_ports.as_deref().unwrap_or_default();
        let icmps = rule.icmps.as_deref().unwrap_or_default();
        if !ports.is_empty() && !icmps.is_empty() {
            findings.refuse(format!("{path}.icmps"), "cannot stand with toPorts: use two rules");
        }
        let action = if place.is_deny { PolicyAction::Deny } else { PolicyAction::Allow };
        let make = |path: String, peers: Peers, ports: Vec<PolicyPort>, l7: Option<L7Rules>| {
            let unsupported = unsupported.clone();
            PolicyRule { path, action, peers, ports, l7, unsupported }
        };
        if ports.is_empty() && icmps.is_empty() {
            // Neither peers nor ports: it chooses nobody.
            let peers = peers.unwrap_or(Peers::Of(Vec::new()));
            return rules.push(make(path, peers, Vec::new(), None));
        }
        let peers = peers.unwrap_or(Peers::Any);
        let RulePorts { mut plain, proxied } =
            read_ports(&format!("{path}.toPorts"), ports, place, findings);
        plain.extend(read_icmps(&format!("{path}.icmps"), icmps, findings));
        if !plain.is_empty() {
            rules.push(make(path, peers.clone(), plain, None));
        }
        for (path, ports, l7) in proxied {
            rules.push(make(path, peers.clone(), ports, Some(l7)));
        }
    }
}

/// Why a rule cannot be done.
fn read_authentication(
    path: &str,
    it: &Authentication,
    place: Place,
    findings: &mut Findings,
) -> Option<String> {
    let path = format!("{path}.authentication");
    if place.is_deny {
        findings.refuse(path, "rules that deny ask for no authentication");
        return None;
    }
    match it.mode.as_str() {
        "disabled" => None,
        "required" | "test-always-fail" => {
            Some(format!("authentication.mode {:?}: there is no mutual authentication", it.mode))
        }
        other => {
            let reason =
                format!("unknown mode {other:?}: give disabled, required or test-always-fail");
            findings.refuse(format!("{path}.mode"), reason);
            None
        }
    }
}
