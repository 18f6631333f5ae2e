//! What a Service asks for, read from its object.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec};
use weir_control::compile::L2_CLASS;
use weir_control::model::{Family, Name};

use crate::allocator::Claim;

/// Addresses that a Service asks for, separated by commas.
pub const IPS_ANNOTATION: &str = "weir.dev/load-balancer-ips";
/// Services of a namespace with the same value may share an address.
pub const SHARING_ANNOTATION: &str = "weir.dev/sharing-key";

/// Reads a Service. `is_default_class`: those that name no class want an address from weir too.
#[must_use]
pub fn read_claim(service: &Service, is_default_class: bool) -> Claim {
    let metadata = &service.metadata;
    let empty_spec = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty_spec);
    let status = service.status.as_ref().and_then(|it| it.load_balancer.as_ref());
    let ingress = status.and_then(|it| it.ingress.as_deref()).unwrap_or_default();
    let is_ours = is_ours(spec, ingress, is_default_class);
    let families = if is_ours { read_families(spec) } else { Vec::new() };
    let addresses: Vec<IpAddr> = ingress.iter().filter_map(read_ingress).collect();
    let (current, mut foreign) =
        if is_ours { (addresses, Vec::new()) } else { (Vec::new(), addresses) };
    let external = spec.external_ips.iter().flatten();
    foreign.extend(external.filter_map(|it| it.parse::<IpAddr>().ok()));
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    Claim {
        name: Name { namespace: text(&metadata.namespace), name: text(&metadata.name) },
        uid: text(&metadata.uid),
        created: metadata
            .creation_timestamp
            .as_ref()
            .map(|it| it.0.to_string())
            .unwrap_or_default(),
        labels: metadata.labels.clone().unwrap_or_default(),
        requested: read_requested(service, spec, &families),
        families,
        is_any_family_enough: spec.ip_family_policy.as_deref() == Some("PreferDualStack"),
        sharing_key: annotation(service, SHARING_ANNOTATION).map(str::to_owned),
        ports: read_ports(spec),
        is_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        selector: spec.selector.clone().unwrap_or_default(),
        current,
        foreign,
    }
}

/// A host name in the status is another provider's, and with it the Service.
fn is_ours(spec: &ServiceSpec, ingress: &[LoadBalancerIngress], is_default_class: bool) -> bool {
    let is_class = match spec.load_balancer_class.as_deref() {
        Some(class) => class == L2_CLASS,
        None => is_default_class,
    };
    let has_host_name = ingress.iter().any(|it| it.hostname.is_some());
    spec.type_.as_deref() == Some("LoadBalancer") && is_class && !has_host_name
}

/// The API server fills them in; it lists both only where the cluster has both.
fn read_families(spec: &ServiceSpec) -> Vec<Family> {
    let named = spec.ip_families.iter().flatten().filter_map(|it| match it.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    });
    let mut families: Vec<Family> = named.collect();
    if families.is_empty() {
        families.push(Family::V4);
    }
    families
}

fn read_ingress(ingress: &LoadBalancerIngress) -> Option<IpAddr> {
    ingress.ip.as_ref()?.parse().ok()
}

fn annotation<'a>(service: &'a Service, key: &str) -> Option<&'a str> {
    let value = service.metadata.annotations.as_ref()?.get(key)?.trim();
    (!value.is_empty()).then_some(value)
}

/// The annotation, else the deprecated field, which knows one address only.
fn read_requested(
    service: &Service,
    spec: &ServiceSpec,
    families: &[Family],
) -> Result<Vec<IpAddr>, String> {
    let field = spec.load_balancer_ip.as_deref().filter(|it| !it.is_empty());
    let (origin, text) = match (annotation(service, IPS_ANNOTATION), field) {
        (Some(text), _) => (format!("annotation {IPS_ANNOTATION}"), text),
        (None, Some(text)) => ("spec.loadBalancerIP".to_owned(), text),
        (None, None) => return Ok(Vec::new()),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let Ok(address) = part.parse::<IpAddr>() else {
            return Err(format!("{origin}: {part:?} is not an IP address"));
        };
        let family = Family::of(address);
        if addresses.iter().any(|it| Family::of(*it) == family) {
            return Err(format!("{origin}: {part} is a second address of its family"));
        }
        if !families.is_empty() && !families.contains(&family) {
            return Err(format!("{origin}: {part} is of a family that spec.ipFamilies lacks"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn read_ports(spec: &ServiceSpec) -> BTreeSet<(String, u16)> {
    let read = |it: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = it.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some((protocol, u16::try_from(it.port).ok()?))
    };
    spec.ports.iter().flatten().filter_map(read).collect()
}
