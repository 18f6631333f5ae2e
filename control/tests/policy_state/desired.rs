//! Policy in the desired state of a node: manifests in, objects of the state protocol out.

use std::path::Path;

use weir_api::v1::{Endpoint, NodeConfig, PolicyAction, object};
use weir_control::desired::{Desired, DesiredKey, NodeSettings};
use weir_control::source::ManifestStore;

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: default
  labels: {app: web}
  annotations: {policy.weir.dev/audit: 'true'}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80}]}]
";

fn read(desired: &mut Desired, store: &mut ManifestStore, text: &str) {
    store.put_file(Path::new("a.yaml"), Ok(text));
    let batch = store.settle();
    assert_eq!(batch.problems, []);
    batch.upserts.into_iter().for_each(|it| desired.upsert(it));
    batch.removes.iter().for_each(|it| desired.remove(it));
}

fn endpoint(desired: &Desired) -> Endpoint {
    match &desired.objects()[&DesiredKey::Endpoint("default/web".into())].kind {
        Some(object::Kind::Endpoint(it)) => it.clone(),
        other => panic!("{other:?}"),
    }
}

fn node(desired: &Desired) -> NodeConfig {
    match &desired.objects()[&DesiredKey::Node].kind {
        Some(object::Kind::Node(it)) => it.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_endpoint_is_what_was_attached_and_what_policy_says() {
    let settings = NodeSettings {
        name: "n1".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        policy_reject: true,
        ..NodeSettings::default()
    };
    let mut desired = Desired::new(settings);
    let mut store = ManifestStore::default();
    let attached = Endpoint {
        name: "default/web".into(),
        interface: "veth1".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        ..Endpoint::default()
    };
    desired.put_endpoint(attached.clone());
    desired.recompute();
    assert_eq!(endpoint(&desired), Endpoint { identity: 5, ..attached.clone() }, "labels unknown");
    assert!(node(&desired).policy_reject && !node(&desired).policy_audit);

    read(&mut desired, &mut store, MANIFEST);
    let changes = desired.recompute();
    let full = endpoint(&desired);
    assert!(full.identity >= 256 && full.policy_audit, "{full:?}");
    let interface = (&full.interface, &full.addresses);
    assert_eq!(interface, (&attached.interface, &attached.addresses));
    let rules_key = DesiredKey::PolicyRules(full.policy_rules.clone());
    let Some(object::Kind::PolicyRules(rules)) = &desired.objects()[&rules_key].kind else {
        panic!("{:?}", desired.objects()[&rules_key]);
    };
    let [allow, deny] = &rules.ingress[..] else { panic!("{rules:?}") };
    assert_eq!(allow.action(), PolicyAction::Allow);
    assert_eq!(allow.origin, "NetworkPolicy default/web: spec.ingress[0]");
    assert_eq!((allow.ports[0].first, allow.ports[0].last), (80, 80));
    assert_eq!((deny.action(), deny.any_peer), (PolicyAction::Deny, true));
    assert_eq!(rules.egress, []);
    let range_key = DesiredKey::CidrSelector(allow.selectors[0]);
    let Some(object::Kind::CidrSelector(range)) = &desired.objects()[&range_key].kind else {
        panic!("{:?}", desired.objects()[&range_key]);
    };
    assert_eq!((range.prefixes[0].length, range.except[0].length), (8, 16));
    assert!(!range.world_only);
    // What an endpoint needs goes before it.
    let keys: Vec<_> = changes.keys().cloned().collect();
    let own_key = DesiredKey::Endpoint("default/web".into());
    let place = |wanted: &DesiredKey| keys.iter().position(|it| it == wanted).unwrap();
    for needed in [rules_key.clone(), range_key, DesiredKey::Identity(full.identity)] {
        assert!(place(&needed) < place(&own_key), "{keys:?}");
    }
    let described = desired.describe(&rules_key);
    assert!(described.contains("default/web; policies NetworkPolicy default/web"), "{described}");

    // Attached again with another interface: policy stays.
    let moved = Endpoint { interface: "veth2".into(), ..attached };
    desired.put_endpoint(moved);
    let changes = desired.recompute();
    assert_eq!(changes.keys().collect::<Vec<_>>(), [&own_key]);
    assert_eq!(endpoint(&desired).policy_rules, full.policy_rules);
    desired.remove_endpoint("default/web");
    let changes = desired.recompute();
    assert!(changes[&own_key].is_none() && changes[&rules_key].is_none(), "{changes:?}");
}
