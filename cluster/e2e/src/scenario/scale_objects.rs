//! The objects of the scale scenario: services whose endpoints nobody has, and policies.

use serde_json::{Value, json};

/// Namespaces that they are spread over.
pub const NAMESPACES: u32 = 10;
/// Of each service, in one EndpointSlice.
pub const ENDPOINTS: u32 = 10;

/// The name of a namespace.
pub fn namespace(number: u32) -> String {
    format!("weir-e2e-scale-{}", number % NAMESPACES)
}

/// All namespaces.
pub fn namespaces() -> Vec<Value> {
    let object = |number| {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": namespace(number), "labels": { "weir-e2e": "scale", "tier": "blue" } } })
    };
    (0..NAMESPACES).map(object).collect()
}

/// A service without a selector.
pub fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": format!("service-{number}"), "namespace": namespace(number) },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

/// Its endpoints, at addresses of 100.64.0.0/10 that no pod has; `shift` changes one of them.
pub fn endpoint_slice(number: u32, shift: u32) -> Value {
    let endpoint = |index: u32| {
        let moved = if index == 0 { shift << 18 } else { 0 };
        let host = (number * ENDPOINTS + index + moved) & 0x003f_ffff;
        let address = std::net::Ipv4Addr::from(0x6440_0000 | host).to_string();
        json!({ "addresses": [address], "conditions": { "ready": true } })
    };
    let endpoints: Vec<Value> = (0..ENDPOINTS).map(endpoint).collect();
    let name = format!("service-{number}");
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace(number),
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// A policy with a rule for pods of its namespace, one for another namespace and one for a range.
pub fn policy(number: u32) -> Value {
    let other = namespace(number + 1);
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": format!("policy-{number}"), "namespace": namespace(number) },
        "spec": {
            "podSelector": { "matchLabels": { "app": format!("app-{}", number % 50) } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [
                    { "podSelector": { "matchLabels": { "role": format!("r-{number}") } } },
                    { "namespaceSelector": { "matchLabels":
                        { "kubernetes.io/metadata.name": other } } },
                ],
                "ports": [{ "port": 8080 }, { "port": 9000, "endPort": 9100 }],
            }],
            "egress": [{ "to": [{ "ipBlock": {
                "cidr": format!("100.{}.0.0/16", 64 + number % 64),
                "except": [format!("100.{}.7.0/24", 64 + number % 64)],
            } }] }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_are_distinct_and_a_change_moves_one() {
        let addresses = |number, shift| -> Vec<String> {
            let slice = endpoint_slice(number, shift);
            let endpoints = slice["endpoints"].as_array().unwrap().clone();
            endpoints.iter().map(|it| it["addresses"][0].as_str().unwrap().to_owned()).collect()
        };
        let all: BTreeSet<String> = (0..5000).flat_map(|number| addresses(number, 0)).collect();
        assert_eq!(all.len(), 50_000);
        let (before, after) = (addresses(4999, 0), addresses(4999, 3));
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1..], after[1..]);
        assert!(all.iter().all(|address| address.starts_with("100.")));
    }
}
