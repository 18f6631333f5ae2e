//! What a change reaches, and that nothing is left behind.

use super::*;

/// Numbers that were ever in use at once, of classes, groups and rows.
fn most(policies: &Policies) -> [usize; 2] {
    let [classes, groups] = policies.counts();
    [classes.1, groups.1]
}

#[test]
fn a_change_dates_only_what_it_is_about() {
    let mut tables = tables([
        identity(256, &[1]),
        identity(257, &[2]),
        address("10.0.0.1/32", 256),
        address("10.0.0.2/32", 257),
        rules("rules", vec![of(RuleAction::Allow, &[1]), deny_all()]),
        rules("other", vec![deny_all()]),
    ]);
    let all =
        |snapshot: &Snapshot| ["10.0.0.1", "10.0.0.2", "192.0.2.1"].map(|it| since(snapshot, it));
    assert_eq!(all(&tables.snapshot()), [1, 1, 1]);
    tables.upsert(identity(256, &[1, 3])).expect("accepted");
    assert_eq!(all(&tables.snapshot()), [2, 1, 1]);
    // Another class of the same group; an identity that nobody has; equal rules; others' rules.
    upsert(
        &mut tables,
        [
            identity(258, &[2]),
            address("10.0.0.2/32", 258),
            identity(259, &[1, 2]),
            rules("rules", vec![of(RuleAction::Allow, &[1]), deny_all()]),
            rules("other", Vec::new()),
        ],
    );
    assert_eq!(all(&tables.snapshot()), [2, 1, 1]);
    tables.delete(&ObjectRef::PeerAddress(prefix("10.0.0.2/32")));
    assert_eq!(all(&tables.snapshot()), [2, 4, 1], "now of the world");
    tables.upsert(cidr(9, &["10.0.0.0/24"], &[], true)).expect("accepted");
    assert_eq!(all(&tables.snapshot()), [2, 5, 1], "but not the pod");
    tables.delete(&ObjectRef::CidrSelector(SelectorId(9)));
    assert_eq!(all(&tables.snapshot()), [2, 6, 1], "nor the rest of the world");
    let mut pod = pod(Some("rules"));
    pod.is_audited = true;
    tables.upsert(Object::Endpoint(pod.clone())).expect("accepted");
    assert_eq!(all(&tables.snapshot()), [2, 6, 1]);
    pod.is_audited = false;
    tables.upsert(Object::Endpoint(pod.clone())).expect("accepted");
    assert_eq!(all(&tables.snapshot()), [8, 8, 8], "what passed as audited is asked again");
    pod.policy = Some("other".into());
    tables.upsert(Object::Endpoint(pod)).expect("accepted");
    assert_eq!(all(&tables.snapshot()), [9, 9, 9]);
    let audit = |policy_audit| Object::Node(NodeConfig { policy_audit, ..NodeConfig::default() });
    tables.upsert(audit(true)).expect("accepted");
    assert_eq!(all(&tables.snapshot()), [9, 9, 9]);
    tables.upsert(audit(false)).expect("accepted");
    assert_eq!(all(&tables.snapshot()), [11, 11, 11], "also by the node");
}

#[test]
fn a_new_identity_of_a_known_group_touches_no_table() {
    let mut policies = Policies::default();
    let of_one = |number| Identity {
        id: IdentityId(number),
        labels: Vec::new(),
        selectors: vec![SelectorId(1)],
    };
    policies.upsert_identity(of_one(256)).expect("accepted");
    for (name, selector) in [("touched", 2), ("untouched", 3)] {
        let ingress = vec![of(RuleAction::Allow, &[1]), of(RuleAction::Allow, &[selector])];
        let rules = PolicyRules { name: name.into(), ingress, egress: Vec::new() };
        policies.upsert_rules(rules).expect("accepted");
    }
    let before = policies.commit(1);
    policies.upsert_identity(of_one(257)).expect("accepted");
    let same = policies.commit(2);
    for name in ["touched", "untouched"] {
        let tables = [&before, &same].map(|view| view.table(name).expect("there"));
        assert!(Arc::ptr_eq(tables[0], tables[1]), "{name}");
    }
    let two = Identity { selectors: vec![SelectorId(2)], ..of_one(258) };
    policies.upsert_identity(two).expect("accepted");
    let after = policies.commit(3);
    let is_same =
        |name| Arc::ptr_eq(same.table(name).expect("there"), after.table(name).expect("there"));
    assert!(is_same("untouched") && !is_same("touched"));
    let table = after.table("touched").expect("there");
    assert_eq!((table.row_counts(), table.since()), ([3, 1], 1), "peers changed, not the rules");
}

#[test]
fn rows_are_shared_by_all_whom_the_same_rules_are_about() {
    let mut policies = Policies::default();
    for number in 0..1000u32 {
        let selectors = vec![SelectorId(1 + number % 2), SelectorId(100 + number)];
        let identity = Identity { id: IdentityId(256 + number), labels: Vec::new(), selectors };
        policies.upsert_identity(identity).expect("accepted");
    }
    let ingress = vec![of(RuleAction::Allow, &[1]), of(RuleAction::Allow, &[2]), deny_all()];
    let rules = PolicyRules { name: "rules".into(), ingress, egress: Vec::new() };
    policies.upsert_rules(rules).expect("accepted");
    let view = policies.commit(1);
    let table = view.table("rules").expect("there");
    assert_eq!(table.row_counts(), [3, 1]);
    assert!(table.bytes() < 16 * 1024, "{} bytes", table.bytes());
}

#[test]
fn what_comes_and_goes_leaves_nothing_behind() {
    let mut policies = Policies::default();
    let mut revision = 0;
    let mut after = Vec::new();
    for round in 0..6000u32 {
        let id = IdentityId(256 + round);
        let selectors = vec![SelectorId(round), SelectorId(round + 1)];
        let addr = Prefix::of_addr(Addr::from_v4((0x0a00_0000 + round).to_be_bytes()));
        let range = Prefix::new(Addr::from_v6((u128::from(round) << 90).to_be_bytes()), 48);
        let range = range.expect("not too long");
        let name = format!("rules of {round}");
        policies.upsert_identity(Identity { id, labels: Vec::new(), selectors }).expect("accepted");
        policies.upsert_address(addr, id).expect("accepted");
        let (prefixes, except) = (vec![range], Vec::new());
        let selector = SelectorId(1_000_000 + round);
        let cidr = CidrSelector { id: selector, prefixes, except, is_world_only: true };
        policies.upsert_cidr(cidr).expect("accepted");
        let ingress = vec![of(RuleAction::Allow, &[round, 1_000_000 + round])];
        let rules = PolicyRules { name: name.clone(), ingress, egress: Vec::new() };
        policies.upsert_rules(rules).expect("accepted");
        policies.commit(revision + 1);
        policies.delete_identity(id);
        policies.delete_address(&addr);
        policies.delete_cidr(selector);
        policies.delete_rules(&name);
        revision += 2;
        let view = policies.commit(revision);
        assert!(view.addresses.size() < 1100 && policies.ranges_kept() < 1100);
        if round == 2000 {
            after = most(&policies).to_vec();
        }
    }
    assert_eq!(most(&policies).to_vec(), after, "as many as at first");
    let view = policies.commit(revision + 1);
    assert_eq!((view.tables().count(), view.identities().count()), (0, 0));
    let [classes, groups] = policies.counts();
    assert_eq!((classes.0, groups.0), (2, 1), "the world of either family");
    let text = "10.0.0.1";
    assert!(view.peer(&addr(text)).since > 2, "forgotten ones are looked at again");
}

#[test]
fn endpoints_remember_when_their_rules_went_and_then_nobody_does() {
    let mut tables = tables([rules("rules", vec![deny_all()])]);
    tables.snapshot();
    for round in 0..100 {
        tables.upsert(rules("rules", vec![deny_all()])).expect("accepted");
        assert_eq!(
            since(&tables.snapshot(), "10.0.0.1"),
            if round == 0 { 1 } else { round * 2 + 2 }
        );
        tables.delete(&ObjectRef::PolicyRules("rules".into()));
        assert_eq!(since(&tables.snapshot(), "10.0.0.1"), round * 2 + 3);
    }
    let before = tables.snapshot();
    tables.upsert(Object::Endpoint(pod(Some("rules")))).expect("accepted");
    assert_eq!(since(&tables.snapshot(), "10.0.0.1"), since(&before, "10.0.0.1"));
}
