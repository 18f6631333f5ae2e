//! What the engine decides, by concept, and against what a plain reading of the rules says.

mod limits;
mod naive;
mod random;
mod upkeep;

use std::sync::Arc;

use weir_packet::{Addr, Mac};

use super::*;
use crate::network::Prefix;
use crate::rows::{Endpoint, NodeConfig, Object, ObjectRef};
use crate::{PortId, Snapshot, Tables};
use naive::rule;

const POD: PortId = PortId(1);
const HTTP: L4 = L4 { protocol: L4Protocol::Tcp, port: 80 };

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    let (addr, length) = text.split_once('/').expect("addr/length");
    Prefix::new(addr.parse().expect("an address"), length.parse().expect("a length"))
        .expect("not too long")
}

fn identity(id: u32, selectors: &[u32]) -> Object {
    let selectors = selectors.iter().copied().map(SelectorId).collect();
    Object::Identity(Identity { id: IdentityId(id), labels: Vec::new(), selectors })
}

fn address(text: &str, id: u32) -> Object {
    Object::PeerAddress { prefix: prefix(text), identity: IdentityId(id) }
}

fn cidr(id: u32, prefixes: &[&str], except: &[&str], is_world_only: bool) -> Object {
    let list = |texts: &[&str]| texts.iter().map(|text| prefix(text)).collect();
    let (prefixes, except) = (list(prefixes), list(except));
    Object::CidrSelector(CidrSelector { id: SelectorId(id), prefixes, except, is_world_only })
}

/// A rule of the Normal tier about some selectors.
fn of(action: RuleAction, selectors: &[u32]) -> Rule {
    let peers = RulePeers::Of(selectors.iter().copied().map(SelectorId).collect());
    Rule { peers, origin: format!("{action:?} {selectors:?}"), ..rule(1, action) }
}

fn deny_all() -> Rule {
    rule(1, RuleAction::Deny)
}

fn rules(name: &str, ingress: Vec<Rule>) -> Object {
    Object::PolicyRules(PolicyRules { name: name.into(), ingress, egress: Vec::new() })
}

fn pod(policy: Option<&str>) -> Endpoint {
    let mut pod = Endpoint::new("default/pod", POD, Mac([2; 6]), vec![addr("10.9.9.9")]);
    pod.policy = policy.map(str::to_owned);
    pod
}

/// Tables with a pod that has rules `rules`.
fn tables(objects: impl IntoIterator<Item = Object>) -> Tables {
    let mut tables = Tables::new(1);
    tables.upsert(Object::Endpoint(pod(Some("rules")))).expect("accepted");
    upsert(&mut tables, objects);
    tables
}

fn upsert(tables: &mut Tables, objects: impl IntoIterator<Item = Object>) {
    for object in objects {
        tables.upsert(object).expect("accepted");
    }
}

fn action(snapshot: &Snapshot, peer: &str) -> PolicyAction {
    snapshot.judge(POD, Direction::Ingress, &addr(peer), HTTP).action
}

fn since(snapshot: &Snapshot, peer: &str) -> u32 {
    snapshot.judged_since(POD, Direction::Ingress, &addr(peer))
}

#[test]
fn the_first_rule_that_matches_decides_and_says_so() {
    let allow = Rule { log: "seen".into(), ..of(RuleAction::Allow, &[1]) };
    let mut tables = tables([
        identity(256, &[1]),
        identity(257, &[1, 2]),
        address("10.0.0.1/32", 256),
        address("10.0.0.2/32", 257),
        rules("rules", vec![of(RuleAction::Deny, &[2]), allow, deny_all()]),
    ]);
    let snapshot = tables.snapshot();
    let verdict = snapshot.judge(POD, Direction::Ingress, &addr("10.0.0.1"), HTTP);
    let origin = snapshot.policy().rule(verdict.rule).expect("numbered");
    assert_eq!((verdict.action, origin.origin.as_str()), (PolicyAction::Allow, "Allow [1]"));
    assert_eq!(origin.log, "seen");
    assert_eq!(action(&snapshot, "10.0.0.2"), PolicyAction::Deny);
    assert_eq!(action(&snapshot, "192.0.2.1"), PolicyAction::Deny);
    let egress = snapshot.judge(POD, Direction::Egress, &addr("10.0.0.1"), HTTP);
    assert_eq!(egress, PolicyVerdict::NO_POLICY, "no rule about it");
    assert!(snapshot.has_policy(POD, Direction::Ingress));
    assert!(!snapshot.has_policy(POD, Direction::Egress));
    let table = snapshot.policy_of(POD).expect("its table");
    let peer = snapshot.policy().peer(&addr("10.0.0.2"));
    let matching = table.matching(Direction::Ingress, peer, HTTP);
    let origins: Vec<&str> = matching.iter().map(|rule| rule.origin.as_str()).collect();
    assert_eq!(origins, ["Deny [2]", "Allow [1]", "rule of tier 1"]);
    let counts = snapshot.policy().identities_by_rule(table, Direction::Ingress);
    assert_eq!(counts, [Some(1), Some(2), None]);
    let numbered: Vec<RuleId> = table.rules(Direction::Ingress).map(|(id, _)| id).collect();
    assert_eq!(numbered[1], verdict.rule);
    assert_eq!(snapshot.policy().peer_of(IdentityId(257)).group, peer.group);
}

#[test]
fn who_an_address_is() {
    let mut tables = tables([
        address("10.0.0.0/8", 300),
        address("10.0.0.0/16", 301),
        address("10.0.0.1/32", 256),
        Object::Node(NodeConfig {
            addresses: vec![addr("10.0.0.7"), addr("192.0.2.1")],
            ..NodeConfig::default()
        }),
    ]);
    let snapshot = tables.snapshot();
    for (text, id) in [
        ("10.0.0.1", 256),
        ("10.0.0.2", 301),
        ("10.1.0.2", 300),
        ("10.0.0.7", IdentityId::HOST.0),
        ("192.0.2.1", IdentityId::HOST.0),
        ("192.0.2.2", IdentityId::WORLD_IPV4.0),
        ("2001:db8::1", IdentityId::WORLD_IPV6.0),
        ("10.9.9.9", IdentityId::UNKNOWN.0),
    ] {
        assert_eq!(snapshot.policy().peer(&addr(text)).identity, IdentityId(id), "{text}");
    }
    tables.upsert(address("192.0.2.1/32", 6)).expect("accepted");
    let peer = tables.snapshot().policy().peer(&addr("192.0.2.1"));
    assert_eq!(peer.identity, IdentityId(6), "what control says goes before");
}

#[test]
fn ranges_are_about_any_address_or_about_the_world_alone() {
    let mut tables = tables([
        address("10.0.0.1/32", 256),
        address("10.0.3.0/24", 0x0100_0001),
        cidr(1, &["10.0.0.0/16"], &["10.0.2.0/24"], false),
        cidr(2, &["10.0.0.0/16", "fd00::/8"], &[], true),
        rules(
            "rules",
            vec![
                of(RuleAction::Allow, &[1]),
                of(RuleAction::Redirect { l7: "{}".into() }, &[2]),
                deny_all(),
            ],
        ),
    ]);
    let snapshot = tables.snapshot();
    for (text, expected) in [
        ("10.0.0.1", PolicyAction::Allow),
        ("10.0.1.1", PolicyAction::Allow),
        ("10.0.2.1", PolicyAction::Redirect),
        ("10.0.3.1", PolicyAction::Allow),
        ("10.1.0.1", PolicyAction::Deny),
        ("fd00::1", PolicyAction::Redirect),
        ("fe00::1", PolicyAction::Deny),
    ] {
        assert_eq!(action(&snapshot, text), expected, "{text}");
    }
    tables.upsert(cidr(1, &["10.0.0.0/16"], &[], true)).expect("accepted");
    let snapshot = tables.snapshot();
    assert_eq!(action(&snapshot, "10.0.0.1"), PolicyAction::Deny, "a pod is not in the world");
    assert_eq!(action(&snapshot, "10.0.2.1"), PolicyAction::Allow);
}

#[test]
fn rules_that_are_not_there_deny() {
    let mut tables = tables([]);
    let snapshot = tables.snapshot();
    let verdict = |snapshot: &Snapshot, port| {
        snapshot.judge(port, Direction::Ingress, &addr("10.0.0.1"), HTTP)
    };
    assert_eq!(verdict(&snapshot, POD), PolicyVerdict::MISSING);
    assert_eq!(verdict(&snapshot, PortId(99)), PolicyVerdict::MISSING, "no such endpoint");
    assert!(snapshot.has_policy(POD, Direction::Egress) && snapshot.policy_of(POD).is_none());
    tables.upsert(rules("rules", Vec::new())).expect("accepted");
    let snapshot = tables.snapshot();
    assert_eq!(verdict(&snapshot, POD), PolicyVerdict::NO_POLICY);
    assert_eq!(since(&snapshot, "10.0.0.1"), 2);
    tables.delete(&ObjectRef::PolicyRules("rules".into()));
    let snapshot = tables.snapshot();
    assert_eq!(verdict(&snapshot, POD), PolicyVerdict::MISSING);
    assert_eq!(since(&snapshot, "10.0.0.1"), 3);
    tables.upsert(Object::Endpoint(pod(None))).expect("accepted");
    let snapshot = tables.snapshot();
    assert_eq!(verdict(&snapshot, POD), PolicyVerdict::NO_POLICY);
    assert_eq!(since(&snapshot, "10.0.0.1"), 4);
}

#[test]
fn audit_is_the_endpoints_or_the_nodes() {
    let mut tables = tables([]);
    assert!(!tables.snapshot().is_audited(POD) && !tables.snapshot().rejects_denied());
    tables.upsert(Object::Endpoint(Endpoint { is_audited: true, ..pod(None) })).expect("accepted");
    assert!(tables.snapshot().is_audited(POD) && !tables.snapshot().is_audited(PortId(2)));
    let node = NodeConfig { policy_audit: true, policy_reject: true, ..NodeConfig::default() };
    tables.upsert(Object::Node(node)).expect("accepted");
    assert!(tables.snapshot().is_audited(PortId(2)) && tables.snapshot().rejects_denied());
}
