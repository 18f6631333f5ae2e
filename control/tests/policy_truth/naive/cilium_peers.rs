//! Whom the rules of `cilium.io` policies are about.
//!
//! Labels have a source: `k8s:` for what pods and namespaces have, `reserved:` for what is no pod;
//! a key without one means a label of any source.

use serde_json::Value;

use super::{Direction, Question, World, address, ends, items, labels};

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
const PEER_LISTS: [&str; 8] =
    ["Endpoints", "CIDR", "CIDRSet", "Entities", "Groups", "Nodes", "Services", "FQDNs"];

/// Whether the policy selects the pod: a namespaced one only in its own namespace. One that selects
/// nodes is about no pod.
pub fn is_subject(question: &Question, policy: &Value, spec: &Value) -> bool {
    let pod = question.pod;
    let namespace = &policy["metadata"]["namespace"];
    spec.get("endpointSelector").is_some_and(|selector| {
        (namespace.is_null() || *namespace == pod["metadata"]["namespace"])
            && is_pod_selected(question.world, selector, pod)
    })
}

/// Whether the rule says anything about who is at the other end; an empty list says: nobody.
pub fn has_peers(question: &Question, rule: &Value) -> bool {
    PEER_LISTS.iter().any(|it| rule.get(list(question, it).as_str()).is_some())
}

fn list(question: &Question, name: &str) -> String {
    match question.direction {
        Direction::Ingress => format!("from{name}"),
        Direction::Egress => format!("to{name}"),
    }
}

/// Whether the other end is one of those that the rule names.
pub fn is_peer(question: &Question, policy: &Value, rule: &Value, is_deny: bool) -> bool {
    let has = |name: &str, test: &dyn Fn(&Value) -> bool| {
        items(&rule[list(question, name).as_str()]).iter().any(test)
    };
    has("Endpoints", &|it| is_endpoint(question, policy, it))
        || has("Entities", &|it| is_entity(question, it.as_str().unwrap()))
        || has("CIDR", &|it| {
            is_world(question) && address::contains(it.as_str().unwrap(), question.peer.address)
        })
        || has("CIDRSet", &|it| is_world(question) && is_in_set(question, it))
        || has("Nodes", &|it| is_node(question, it))
        || has("Services", &|it| is_service(question, policy, it))
        // Groups of a cloud are not known: a denial of them denies everybody. Names need DNS.
        || has("Groups", &|_| is_deny)
}

/// Whether the rule chooses a pod, whoever is at the other end: for names of ports.
pub fn is_pod_chosen(question: &Question, policy: &Value, rule: &Value, pod: &Value) -> bool {
    let mut endpoints = items(&rule[list(question, "Endpoints").as_str()]).iter();
    let mut entities = items(&rule[list(question, "Entities").as_str()]).iter();
    !has_peers(question, rule)
        || endpoints.any(|it| is_pod_endpoint(question, policy, it, pod))
        || entities.any(|it| it == "all" || it == "cluster")
}

fn is_world(question: &Question) -> bool {
    question.peer.pod.is_none() && question.peer.node.is_none()
}

/// `{cidr | cidrGroupRef | cidrGroupSelector, except}`.
fn is_in_set(question: &Question, set: &Value) -> bool {
    let address = question.peer.address;
    if address::is_excepted(set, address) {
        return false;
    }
    if let Some(cidr) = set.get("cidr") {
        return address::contains(cidr.as_str().unwrap(), address);
    }
    let groups = question.world.of_kind("CiliumCIDRGroup");
    let mut chosen = groups.filter(|group| match set.get("cidrGroupRef") {
        Some(name) => group["metadata"]["name"] == *name,
        None => labels::is_selected(&set["cidrGroupSelector"], &group["metadata"]["labels"]),
    });
    chosen.any(|group| {
        let mut cidrs = items(&group["spec"]["externalCIDRs"]).iter();
        cidrs.any(|it| address::contains(it.as_str().unwrap(), address))
    })
}

fn is_entity(question: &Question, entity: &str) -> bool {
    let peer = question.peer;
    let is_node = peer.node.is_some();
    match entity {
        "all" => true,
        "world" => is_world(question),
        "cluster" => !is_world(question) || is_api_server(question),
        "host" => question.is_peer_own_node(),
        "remote-node" => is_node && !question.is_peer_own_node(),
        "kube-apiserver" => is_api_server(question),
        // No such endpoint is in the worlds of these tests.
        "init" | "ingress" | "unmanaged" | "health" | "cluster-mesh" | "none" => false,
        other => panic!("no entity {other}"),
    }
}

/// Whether the address is one of the endpoints of the service `kubernetes`.
fn is_api_server(question: &Question) -> bool {
    let address = question.peer.address.to_string();
    slice_addresses(question.world, "default", "kubernetes").any(|it| it == address)
}

fn slice_addresses<'w>(
    world: &'w World,
    namespace: &'w str,
    service: &'w str,
) -> impl Iterator<Item = &'w str> {
    let slices = world.of_kind("EndpointSlice").filter(move |it| {
        it["metadata"]["namespace"] == namespace
            && it["metadata"]["labels"]["kubernetes.io/service-name"] == service
    });
    let endpoints = slices.flat_map(|it| items(&it["endpoints"]));
    endpoints.flat_map(|it| items(&it["addresses"])).map(|it| it.as_str().unwrap())
}

/// Nodes by their labels, the pod's own among them.
fn is_node(question: &Question, selector: &Value) -> bool {
    let node = question.peer.node;
    node.is_some_and(|it| labels::is_selected(selector, &it["metadata"]["labels"]))
}

/// `{k8sService: {serviceName, namespace}}` or `{k8sServiceSelector: {selector, namespace}}`: pods
/// behind a service with a selector, addresses outside the cluster behind one without.
fn is_service(question: &Question, policy: &Value, choice: &Value) -> bool {
    let named = &choice["k8sService"];
    let selected = &choice["k8sServiceSelector"];
    let mut services = question.world.of_kind("Service").filter(|service| {
        let metadata = &service["metadata"];
        if !named.is_null() {
            let namespace = named.get("namespace").unwrap_or(&policy["metadata"]["namespace"]);
            metadata["name"] == named["serviceName"] && metadata["namespace"] == *namespace
        } else {
            let namespace = selected.get("namespace");
            namespace.is_none_or(|it| *it == metadata["namespace"])
                && labels::is_selected(&selected["selector"], &metadata["labels"])
        }
    });
    services.any(|service| {
        let namespace = service["metadata"]["namespace"].as_str().unwrap();
        let name = service["metadata"]["name"].as_str().unwrap();
        match service["spec"]["selector"].as_object() {
            Some(labels) => question.peer.pod.is_some_and(|pod| {
                let mut labels = labels.iter();
                pod["metadata"]["namespace"] == namespace
                    && labels.all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
            }),
            None => {
                let address = question.peer.address.to_string();
                let mut addresses = slice_addresses(question.world, namespace, name);
                is_world(question) && addresses.any(|it| it == address)
            }
        }
    })
}

/// `fromEndpoints`, `toEndpoints`: pods, and what has reserved labels where the selector asks for
/// them.
fn is_endpoint(question: &Question, policy: &Value, selector: &Value) -> bool {
    if let Some(pod) = question.peer.pod {
        return is_pod_endpoint(question, policy, selector, pod);
    }
    let reserved = match () {
        () if question.is_peer_own_node() => "host",
        () if question.peer.node.is_some() => "remote-node",
        () => "world",
    };
    // What is no pod has no namespace, so that a selector which only says what the namespace is not
    // chooses it, too. Where a selector says nothing of a namespace, one is added to it.
    let mut keys = labels::keys(selector).into_iter();
    let is_open = keys.any(|it| it.starts_with("reserved:") || strip_source(it) == NAMESPACE);
    is_open
        && labels::is_selected_by(selector, |key| {
            (key.strip_prefix("reserved:") == Some(reserved)).then_some("")
        })
}

/// In the policy's own namespace, unless the selector speaks of namespaces; of all for one without.
fn is_pod_endpoint(question: &Question, policy: &Value, selector: &Value, pod: &Value) -> bool {
    let mut keys = labels::keys(selector).into_iter().map(strip_source);
    let names_namespace = keys.any(|it| it == NAMESPACE || it.starts_with(NAMESPACE_LABELS));
    let namespace = &policy["metadata"]["namespace"];
    let is_in_scope =
        names_namespace || namespace.is_null() || *namespace == pod["metadata"]["namespace"];
    is_in_scope && is_pod_selected(question.world, selector, pod)
}

fn is_pod_selected(world: &World, selector: &Value, pod: &Value) -> bool {
    !ends::is_on_host_network(pod)
        && labels::is_selected_by(selector, |key| {
            if key.starts_with("reserved:") {
                return None;
            }
            label_of_pod(world, pod, strip_source(key))
        })
}

fn strip_source(key: &str) -> &str {
    key.strip_prefix("k8s:").or(key.strip_prefix("any:")).unwrap_or(key)
}

/// Its own labels, and those that tell its namespace, service account and cluster.
fn label_of_pod<'w>(world: &'w World, pod: &'w Value, key: &str) -> Option<&'w str> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    match key {
        NAMESPACE => Some(namespace),
        "io.cilium.k8s.policy.cluster" => Some("default"),
        "io.cilium.k8s.policy.serviceaccount" => {
            Some(pod["spec"]["serviceAccountName"].as_str().unwrap_or("default"))
        }
        _ => match key.strip_prefix(NAMESPACE_LABELS) {
            Some(key) => labels::namespace_label(world, namespace, key),
            None => pod["metadata"]["labels"].get(key)?.as_str(),
        },
    }
}
