//! Who may do what at the API server: exactly what is here, with why.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::helm::{find, list, name, pick, texts};

/// `group/resource`, and what needs it.
type Need = (&'static str, &'static str);

/// What agents read, and the operator too: it tells of what is refused, with `get` to find the
/// object itself. Agents write nothing.
const READ: [Need; 10] = [
    ("/services", "frontends; which want a load balancer's address"),
    ("discovery.k8s.io/endpointslices", "backends"),
    ("/pods", "identities, hostPorts; which nodes' agents are ready"),
    ("/nodes", "pod ranges, addresses, zones; taints"),
    ("/namespaces", "selectors of policies and pools"),
    ("networking.k8s.io/networkpolicies", "policy"),
    ("cilium.io/ciliumnetworkpolicies", "policy"),
    ("cilium.io/ciliumclusterwidenetworkpolicies", "policy"),
    ("cilium.io/ciliumcidrgroups", "policy"),
    ("policy.networking.k8s.io/clusternetworkpolicies", "policy"),
];

/// With the verb.
const OPERATOR: [Need; 10] = [
    ("/nodes patch", "removes the taint weir.dev/agent-not-ready"),
    ("/nodes/status patch", "sets the condition NetworkUnavailable"),
    ("/services/status patch", "assigns addresses"),
    ("weir.dev/loadbalancerpools list", "the addresses to assign"),
    ("weir.dev/loadbalancerpools watch", "the addresses to assign"),
    ("weir.dev/loadbalancerpools/status patch", "says how full they are"),
    ("cilium.io/ciliumnetworkpolicies/status patch", "the condition Valid"),
    ("cilium.io/ciliumclusterwidenetworkpolicies/status patch", "the condition Valid"),
    ("events.k8s.io/events create", "tells of refused objects"),
    ("events.k8s.io/events patch", "counts on, where one is refused again"),
];

/// In the namespace of the installation alone: the lease of who leads.
const OPERATOR_HERE: [Need; 3] = [
    ("coordination.k8s.io/leases create", "the first to lead"),
    ("coordination.k8s.io/leases[weir-operator] get", "who leads"),
    ("coordination.k8s.io/leases[weir-operator] update", "leads on"),
];

fn read_with(verbs: &[&str]) -> BTreeSet<String> {
    let all = READ.iter().flat_map(|(it, _)| verbs.iter().map(move |verb| format!("{it} {verb}")));
    all.collect()
}

fn rights(needs: &[Need]) -> BTreeSet<String> {
    needs.iter().map(|(right, _)| (*right).to_owned()).collect()
}

fn granted(role: &Value) -> BTreeSet<String> {
    let mut granted = BTreeSet::new();
    for rule in list(&role["rules"]) {
        assert!(rule.get("nonResourceURLs").is_none());
        let names = texts(&rule["resourceNames"]);
        let names = if names.is_empty() { String::new() } else { format!("[{}]", names.join(",")) };
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    let is_new = granted.insert(format!("{group}/{resource}{names} {verb}"));
                    assert!(is_new, "{group}/{resource} {verb} twice");
                }
            }
        }
    }
    granted
}

#[test]
fn rights_are_those_that_are_needed_and_no_more() {
    let Some(helm) = find() else { return };
    let objects = helm.render(&[]).unwrap();
    let operator = &read_with(&["get", "list", "watch"]) | &rights(&OPERATOR);
    let cases = [
        ("ClusterRole weir-agent", read_with(&["list", "watch"])),
        ("ClusterRole weir-operator", operator),
        ("Role weir-operator", rights(&OPERATOR_HERE)),
    ];
    let count = cases.len();
    for (role, needed) in cases {
        let granted = granted(pick(&objects, role));
        let spare: Vec<_> = granted.difference(&needed).collect();
        let missing: Vec<_> = needed.difference(&granted).collect();
        assert!(
            spare.is_empty() && missing.is_empty(),
            "{role}: spare {spare:?}, missing {missing:?}"
        );
        assert!(!granted.iter().any(|it| it.contains('*')));
    }
    let roles = objects.iter().filter(|it| it["kind"].as_str().unwrap().ends_with("Role"));
    assert_eq!(roles.count(), count);
}

#[test]
fn every_role_is_bound_to_its_own_account() {
    let Some(helm) = find() else { return };
    let objects = helm.render(&[]).unwrap();
    let bindings: Vec<&Value> =
        objects.iter().filter(|it| it["kind"].as_str().unwrap().ends_with("RoleBinding")).collect();
    assert_eq!(bindings.len(), 3);
    for binding in bindings {
        let subject = &binding["subjects"][0];
        assert_eq!(subject["name"], binding["metadata"]["name"], "{}", name(binding));
        assert_eq!(subject["name"], binding["roleRef"]["name"]);
        assert_eq!(subject["namespace"], "weir-system");
        let account = subject["name"].as_str().unwrap();
        pick(&objects, &format!("ServiceAccount {account}"));
    }
}
