//! The fields of `cilium.io/v2` policies, as they are written (`pkg/policy/api` of Cilium 1.20;
//! Kafka's and the generic L7 fields as of 1.19).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::selectors::LabelSelector;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in super::super) struct Spec {
    pub(super) endpoint_selector: Option<LabelSelector>,
    pub(super) node_selector: Option<LabelSelector>,
    pub(super) ingress: Option<Vec<IngressRule>>,
    pub(super) ingress_deny: Option<Vec<IngressRule>>,
    pub(super) egress: Option<Vec<EgressRule>>,
    pub(super) egress_deny: Option<Vec<EgressRule>>,
    pub(super) enable_default_deny: Option<DefaultDeny>,
    pub(super) log: Option<Log>,
    #[serde(rename = "labels")]
    _labels: Option<Vec<Value>>,
    #[serde(rename = "description")]
    _description: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DefaultDeny {
    pub(super) ingress: Option<bool>,
    pub(super) egress: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct IngressRule {
    from_endpoints: Option<Vec<LabelSelector>>,
    from_requires: Option<Vec<Value>>,
    #[serde(rename = "fromCIDR")]
    from_cidr: Option<Vec<String>>,
    #[serde(rename = "fromCIDRSet")]
    from_cidr_set: Option<Vec<CidrRule>>,
    from_entities: Option<Vec<String>>,
    from_groups: Option<Vec<Value>>,
    from_nodes: Option<Vec<LabelSelector>>,
    to_ports: Option<Vec<PortRule>>,
    icmps: Option<Vec<IcmpRule>>,
    authentication: Option<Authentication>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct EgressRule {
    to_endpoints: Option<Vec<LabelSelector>>,
    to_requires: Option<Vec<Value>>,
    #[serde(rename = "toCIDR")]
    to_cidr: Option<Vec<String>>,
    #[serde(rename = "toCIDRSet")]
    to_cidr_set: Option<Vec<CidrRule>>,
    to_entities: Option<Vec<String>>,
    to_groups: Option<Vec<Value>>,
    to_nodes: Option<Vec<LabelSelector>>,
    to_services: Option<Vec<Service>>,
    #[serde(rename = "toFQDNs")]
    to_fqdns: Option<Vec<Fqdn>>,
    to_ports: Option<Vec<PortRule>>,
    icmps: Option<Vec<IcmpRule>>,
    authentication: Option<Authentication>,
}

/// A rule of either direction.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) endpoints: Option<Vec<LabelSelector>>,
    pub(super) requires: Option<Vec<Value>>,
    pub(super) cidr: Option<Vec<String>>,
    pub(super) cidr_set: Option<Vec<CidrRule>>,
    pub(super) entities: Option<Vec<String>>,
    pub(super) groups: Option<Vec<Value>>,
    pub(super) nodes: Option<Vec<LabelSelector>>,
    pub(super) services: Option<Vec<Service>>,
    pub(super) fqdns: Option<Vec<Fqdn>>,
    pub(super) to_ports: Option<Vec<PortRule>>,
    pub(super) icmps: Option<Vec<IcmpRule>>,
    pub(super) authentication: Option<Authentication>,
}

impl From<IngressRule> for Rule {
    fn from(it: IngressRule) -> Self {
        Self {
            endpoints: it.from_endpoints,
            requires: it.from_requires,
            cidr: it.from_cidr,
            cidr_set: it.from_cidr_set,
            entities: it.from_entities,
            groups: it.from_groups,
            nodes: it.from_nodes,
            services: None,
            fqdns: None,
            to_ports: it.to_ports,
            icmps: it.icmps,
            authentication: it.authentication,
        }
    }
}

impl From<EgressRule> for Rule {
    fn from(it: EgressRule) -> Self {
        Self {
            endpoints: it.to_endpoints,
            requires: it.to_requires,
            cidr: it.to_cidr,
            cidr_set: it.to_cidr_set,
            entities: it.to_entities,
            groups: it.to_groups,
            nodes: it.to_nodes,
            services: it.to_services,
            fqdns: it.to_fqdns,
            to_ports: it.to_ports,
            icmps: it.icmps,
            authentication: it.authentication,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CidrRule {
    pub(super) cidr: Option<String>,
    pub(super) cidr_group_ref: Option<String>,
    pub(super) cidr_group_selector: Option<LabelSelector>,
    pub(super) except: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Service {
    pub(super) k8s_service: Option<ServiceName>,
    pub(super) k8s_service_selector: Option<ServiceLabels>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServiceName {
    pub(super) service_name: Option<String>,
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceLabels {
    pub(super) selector: LabelSelector,
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Fqdn {
    pub(super) match_name: Option<String>,
    pub(super) match_pattern: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authentication {
    pub(super) mode: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IcmpRule {
    pub(super) fields: Option<Vec<IcmpField>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IcmpField {
    pub(super) family: Option<String>,
    #[serde(rename = "type")]
    pub(super) type_: IntOrString,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PortRule {
    pub(super) ports: Option<Vec<Port>>,
    pub(super) rules: Option<Rules>,
    pub(super) listener: Option<Listener>,
    #[serde(rename = "terminatingTLS")]
    pub(super) terminating_tls: Option<TlsContext>,
    #[serde(rename = "originatingTLS")]
    pub(super) originating_tls: Option<TlsContext>,
    pub(super) server_names: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) port: String,
    pub(super) end_port: Option<i32>,
    pub(super) protocol: Option<String>,
}

/// What a proxy is told of a port: only of the parsers that are named.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<Vec<HttpRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dns: Option<Vec<DnsRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kafka: Option<Vec<KafkaRule>>,
    #[serde(rename = "l7proto", skip_serializing_if = "Option::is_none")]
    pub(super) l7_proto: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) l7: Option<Vec<BTreeMap<String, String>>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HttpRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) header_matches: Option<Vec<HeaderMatch>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mismatch: Option<String>,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    pub(super) name: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DnsRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) match_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) match_pattern: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct KafkaRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
    #[serde(rename = "clientID", skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Listener {
    envoy_config: EnvoyConfig,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) priority: Option<i32>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EnvoyConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    name: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TlsContext {
    pub(super) secret: Secret,
    #[serde(rename = "trustedCA", skip_serializing_if = "Option::is_none")]
    trusted_ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
}
