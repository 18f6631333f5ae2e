//! Rules that are refused leave their pods closed, and what is saved says so, too.

use weir_tables::policy::{Direction, L4, PolicyAction, RuleId};

use super::*;
use crate::clock::Instant;

fn shared() -> Arc<Shared> {
    Arc::new(Shared::idle(Instant(0), "unused".as_ref()))
}

fn rules(action: v1::PolicyAction) -> v1::Object {
    let rule = v1::PolicyRule {
        tier: 1,
        action: action.into(),
        any_peer: true,
        origin: "NetworkPolicy default/web: spec.ingress[0]".into(),
        ..v1::PolicyRule::default()
    };
    let rules = v1::PolicyRules { name: "web".into(), ingress: vec![rule], egress: vec![] };
    v1::object::Kind::PolicyRules(rules).into()
}

fn pod() -> v1::Object {
    let pod = v1::Endpoint {
        name: "default/web".into(),
        ifindex: 7,
        mac: vec![2, 0, 0, 0, 0, 1],
        addresses: vec![vec![10, 0, 0, 7]],
        identity: 256,
        policy_rules: "web".into(),
        ..v1::Endpoint::default()
    };
    v1::object::Kind::Endpoint(pod).into()
}

fn others() -> [v1::Object; 3] {
    use v1::object::Kind;
    let identity = v1::Identity { id: 256, labels: vec!["k8s:app=web".into()], selectors: vec![1] };
    let prefix = v1::Prefix { address: vec![10, 0, 0, 7], length: 32 };
    let address = v1::PeerAddress { prefix: Some(prefix.clone()), identity: 256 };
    let selector = v1::CidrSelector { id: 2, prefixes: vec![prefix], ..Default::default() };
    [Kind::Identity(identity), Kind::PeerAddress(address), Kind::CidrSelector(selector)]
        .map(Into::into)
}

fn update(resync: bool, upserts: Vec<v1::Object>) -> Update {
    Update { revision: 1, resync, upserts, deletes: vec![] }
}

fn verdict(shared: &Shared) -> (PolicyAction, RuleId) {
    let snapshot = shared.snapshots.load();
    let peer = "10.0.0.1".parse().expect("an address");
    let verdict = snapshot.judge(PortId(7), Direction::Ingress, &peer, L4::new(6, 80));
    (verdict.action, verdict.rule)
}

#[tokio::test]
async fn refused_rules_close_their_pods_until_better_ones_come() {
    let shared = shared();
    let mut controller = Controller::new(1, Arc::clone(&shared), None, "unused".into());
    let good = rules(v1::PolicyAction::Allow);
    let applied = controller.apply(update(true, vec![good.clone(), pod()])).await;
    assert!(applied.rejected.is_empty(), "{:?}", applied.rejected);
    assert_eq!(verdict(&shared).0, PolicyAction::Allow);

    let bad = rules(v1::PolicyAction::Unspecified);
    let applied = controller.apply(update(false, vec![bad])).await;
    assert_eq!(applied.rejected.len(), 1);
    assert_eq!(applied.rejected[0].object, good.reference());
    assert_eq!(applied.rejected[0].reason, "ingress[0].action: 0 is not supported");
    assert_eq!(verdict(&shared), (PolicyAction::Deny, RuleId::MISSING));

    // The very rules that were there before the refused ones.
    controller.apply(update(false, vec![good])).await;
    assert_eq!(verdict(&shared).0, PolicyAction::Allow);
}

#[tokio::test]
async fn policy_outlives_the_process() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("state.pb");
    let start = |shared: &Arc<Shared>| Controller::new(1, Arc::clone(shared), None, path.clone());
    let (first, second, third) = (shared(), shared(), shared());
    let mut controller = start(&first);
    let mut objects = vec![rules(v1::PolicyAction::Deny), pod()];
    objects.extend(others());
    let applied = controller.apply(update(true, objects)).await;
    assert!(applied.rejected.is_empty(), "{:?}", applied.rejected);
    controller.save();

    let mut controller = start(&second);
    controller.restore().await;
    controller.publish();
    assert_eq!(controller.accepted.len(), 5);
    let (action, rule) = verdict(&second);
    assert_eq!(action, PolicyAction::Deny);
    let snapshot = second.snapshots.load();
    let origin = snapshot.policy().rule(rule).map(|it| it.origin.clone());
    assert_eq!(origin.as_deref(), Some("NetworkPolicy default/web: spec.ingress[0]"));
    let identity = snapshot.policy().peer(&"10.0.0.7".parse().expect("an address")).identity;
    assert_eq!(identity.0, 256);

    // What is refused is not saved, and what it had replaced is not saved either.
    controller.apply(update(false, vec![rules(v1::PolicyAction::Unspecified)])).await;
    controller.save();
    let mut controller = start(&third);
    controller.restore().await;
    controller.publish();
    assert_eq!(verdict(&third), (PolicyAction::Deny, RuleId::MISSING));
}

#[tokio::test]
async fn a_resync_without_policy_leaves_none() {
    let shared = shared();
    let mut controller = Controller::new(1, Arc::clone(&shared), None, "unused".into());
    let mut objects = vec![rules(v1::PolicyAction::Deny), pod()];
    objects.extend(others());
    controller.apply(update(true, objects)).await;
    let v1::object::Kind::Endpoint(free) = pod().kind.expect("a pod") else { unreachable!() };
    let free = v1::Endpoint { policy_rules: String::new(), ..free };
    let free = v1::object::Kind::Endpoint(free).into();
    controller.apply(update(true, vec![free])).await;
    assert_eq!(controller.accepted.len(), 1);
    assert_eq!(controller.tables.names().len(), 1, "{:?}", controller.tables.names());
    assert_eq!(verdict(&shared), (PolicyAction::Allow, RuleId::NONE));
    let snapshot = shared.snapshots.load();
    assert_eq!(snapshot.policy().identities().count(), 0);
}
