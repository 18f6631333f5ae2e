//! What is well-formed becomes rows and comes back as it was; what is not is refused by its field.

use weir_api::v1::object::Kind;
use weir_tables::policy::RuleAction;
use weir_tables::{FailureMode, Object};

use super::super::{object, reference};
use super::*;

fn ports(protocol: v1::PolicyProtocol, first: u32, last: u32) -> v1::PolicyPorts {
    v1::PolicyPorts { protocol: protocol.into(), first, last }
}

fn allow(tier: u32, ports: Vec<v1::PolicyPorts>) -> v1::PolicyRule {
    v1::PolicyRule {
        tier,
        action: v1::PolicyAction::Allow.into(),
        selectors: vec![3, 4],
        ports,
        origin: "NetworkPolicy default/web: spec.ingress[0]".into(),
        log: "web".into(),
        ..v1::PolicyRule::default()
    }
}

fn any(tier: u32, action: v1::PolicyAction) -> v1::PolicyRule {
    v1::PolicyRule {
        tier,
        action: action.into(),
        any_peer: true,
        origin: "default deny of NetworkPolicy default/web".into(),
        ..v1::PolicyRule::default()
    }
}

fn prefix(octets: [u8; 4], length: u32) -> v1::Prefix {
    v1::Prefix { address: octets.into(), length }
}

fn rules(ingress: Vec<v1::PolicyRule>) -> v1::PolicyRules {
    v1::PolicyRules { name: "7".into(), ingress, egress: vec![] }
}

fn refusal(kind: Kind) -> String {
    let wire = v1::Object { kind: Some(kind) };
    object(&wire).expect_err("refused").to_string()
}

#[test]
fn objects_become_rows_under_the_names_they_have_on_the_wire() {
    use v1::PolicyProtocol as P;
    let redirect =
        v1::PolicyRule { l7: "{\"http\":[]}".into(), ..any(1, v1::PolicyAction::Redirect) };
    let every = vec![
        ports(P::Tcp, 80, 80),
        ports(P::Udp, 0, 65535),
        ports(P::Sctp, 1, 2),
        ports(P::Icmp, 8, 8),
        ports(P::Icmpv6, 0, 255),
        ports(P::Other, 47, 47),
    ];
    let ingress = vec![
        any(0, v1::PolicyAction::Pass),
        redirect,
        allow(1, every),
        any(1, v1::PolicyAction::Deny),
    ];
    let identity = v1::Identity { id: 256, labels: vec!["k8s:app=web".into()], selectors: vec![4] };
    let address = v1::PeerAddress { prefix: Some(prefix([10, 0, 0, 1], 32)), identity: 256 };
    let selector = v1::CidrSelector {
        id: 9,
        prefixes: vec![prefix([10, 0, 0, 0], 8)],
        except: vec![prefix([10, 1, 0, 0], 16)],
        world_only: true,
    };
    let kinds = [
        Kind::Identity(identity),
        Kind::PeerAddress(address),
        Kind::CidrSelector(selector),
        Kind::PolicyRules(rules(ingress.clone())),
    ];
    for kind in kinds {
        let wire = v1::Object { kind: Some(kind) };
        let name = wire.reference().expect("a name");
        let row = object(&wire).expect("accepted");
        assert_eq!(reference(&name).expect("a name"), row.name());
        assert_eq!(row.name().to_string(), name.to_string(), "people see one name");
        if let Object::PolicyRules(rules) = row {
            let shown: Vec<v1::PolicyRule> = rules.ingress.iter().map(show_rule).collect();
            assert_eq!(shown, ingress);
            let is_redirect = matches!(&rules.ingress[1].action, RuleAction::Redirect { l7 }
                if l7 == "{\"http\":[]}");
            assert!(is_redirect, "{:?}", rules.ingress[1]);
        }
    }
}

#[test]
fn selectors_of_an_identity_are_in_order_and_named_once() {
    let wire = v1::Identity { id: 300, labels: vec![], selectors: vec![9, 2, 9, 5] };
    let row = identity(&wire).expect("accepted");
    assert_eq!(row.selectors, [2, 5, 9].map(SelectorId));
}

#[test]
fn a_bad_value_is_refused_by_the_path_of_its_field() {
    use v1::PolicyProtocol as P;
    let of_rule = |rule| Kind::PolicyRules(rules(vec![any(0, v1::PolicyAction::Deny), rule]));
    let of_ports = |ports| of_rule(allow(1, vec![super::tests::ports(P::Tcp, 1, 1), ports]));
    let unnamed = v1::PolicyRules { name: String::new(), ..rules(vec![]) };
    let egress =
        v1::PolicyRules { egress: vec![any(1, v1::PolicyAction::Unspecified)], ..rules(vec![]) };
    let no_prefix = v1::PeerAddress { prefix: None, identity: 256 };
    let too_long = v1::PeerAddress { prefix: Some(prefix([10, 0, 0, 0], 33)), identity: 256 };
    let unknown = v1::PeerAddress { prefix: Some(prefix([10, 0, 0, 0], 8)), identity: 0 };
    let bad_except = v1::CidrSelector {
        except: vec![v1::Prefix { address: vec![1, 2], length: 8 }],
        ..v1::CidrSelector::default()
    };
    let both = v1::PolicyRule { any_peer: true, ..allow(1, vec![]) };
    let l7 = v1::PolicyRule { l7: "{}".into(), ..allow(1, vec![]) };
    let long = v1::PolicyRule { log: "x".repeat(5000), ..allow(1, vec![]) };
    let cases = [
        (Kind::Identity(v1::Identity::default()), "id: 0 "),
        (Kind::PeerAddress(no_prefix), "the object is empty"),
        (Kind::PeerAddress(too_long), "prefix: prefix length 33"),
        (Kind::PeerAddress(unknown), "identity: 0 "),
        (Kind::CidrSelector(bad_except), "except: an address must be 4 or 16 bytes"),
        (Kind::PolicyRules(unnamed), "name: an empty name"),
        (Kind::PolicyRules(egress), "egress[0].action: 0 "),
        (of_rule(v1::PolicyRule { action: 77, ..allow(1, vec![]) }), "ingress[1].action: 77 "),
        (of_rule(allow(256, vec![])), "ingress[1].tier: 256 "),
        (of_rule(both), "ingress[1].selectors: any_peer beside selectors "),
        (of_rule(l7), "ingress[1].l7: a rule that does not redirect "),
        (of_rule(long), "ingress[1].log: a text of 5000 bytes "),
        (of_ports(ports(P::Unspecified, 1, 1)), "ingress[1].ports[1].protocol: 0 "),
        (of_ports(ports(P::Tcp, 1, 65536)), "ingress[1].ports[1].last: 65536 "),
        (of_ports(ports(P::Icmp, 65537, 8)), "ingress[1].ports[1].first: 65537 "),
    ];
    for (kind, expected) in cases {
        let refusal = refusal(kind);
        assert!(refusal.starts_with(expected), "{refusal:?} for {expected:?}");
    }
}

/// What happens to a pod's packets while no worker runs, in the mode `auto`.
#[test]
fn pods_with_a_policy_fail_closed_unless_they_are_audited_or_say_otherwise() {
    use v1::FailureMode as M;
    let mode = |rules: &str, policy_audit, failure_mode: M| {
        let wire = v1::Endpoint {
            name: "default/a".into(),
            ifindex: 7,
            mac: vec![2, 0, 0, 0, 0, 1],
            addresses: vec![vec![10, 0, 0, 1]],
            failure_mode: failure_mode.into(),
            policy_rules: rules.into(),
            policy_audit,
            ..v1::Endpoint::default()
        };
        match object(&v1::Object { kind: Some(Kind::Endpoint(wire)) }) {
            Ok(Object::Endpoint(row)) => {
                assert_eq!(row.policy.as_deref().unwrap_or_default(), rules);
                row.failure_mode
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(mode("", false, M::Unspecified), FailureMode::Open);
    assert_eq!(mode("7", false, M::Unspecified), FailureMode::Closed);
    assert_eq!(mode("7", true, M::Unspecified), FailureMode::Open);
    assert_eq!(mode("7", false, M::Open), FailureMode::Open);
    assert_eq!(mode("", true, M::Closed), FailureMode::Closed);
}
