//! What is refused, and what is left then.

use super::*;
use crate::policy::limits;

#[test]
fn refused_rules_leave_their_name_closed() {
    let mut tables = tables([rules("rules", Vec::new())]);
    assert_eq!(action(&tables.snapshot(), "10.0.0.1"), PolicyAction::Allow);
    let unsorted = vec![rule(1, RuleAction::Allow), rule(0, RuleAction::Allow)];
    let refused = tables.upsert(rules("rules", unsorted)).expect_err("not sorted");
    assert_eq!(
        refused.to_string(),
        "ingress rule 2 (rule of tier 0) is of an earlier tier than the rule before: sort rules \
         by tier"
    );
    let snapshot = tables.snapshot();
    let verdict = snapshot.judge(POD, Direction::Egress, &addr("10.0.0.1"), HTTP);
    assert_eq!(verdict, PolicyVerdict::MISSING);
    assert!(snapshot.policy_of(POD).is_some_and(|table| table.is_closed()));
    assert!(snapshot.has_policy(POD, Direction::Egress));
    assert_eq!(since(&snapshot, "10.0.0.1"), 2);
    assert!(tables.names().contains(&ObjectRef::PolicyRules("rules".into())));
    tables.upsert(rules("rules", Vec::new())).expect("good again");
    assert_eq!(action(&tables.snapshot(), "10.0.0.1"), PolicyAction::Allow);
}

#[test]
fn rules_that_make_no_sense_are_refused_by_number_and_origin() {
    let mut policies = Policies::default();
    let range = |protocol, first, last| PortRange { protocol, first, last };
    for (ports, reason) in [
        (range(L4Protocol::Tcp, 2, 1), "last is below its first"),
        (range(L4Protocol::Icmp, 0, 256), "over 255"),
        (range(L4Protocol::Other, 300, 300), "over 255"),
    ] {
        let bad = Rule { ports: vec![ports], ..deny_all() };
        let egress = vec![deny_all(), bad];
        let rules = PolicyRules { name: "rules".into(), ingress: Vec::new(), egress };
        let refused = policies.upsert_rules(rules).expect_err("refused").to_string();
        assert!(refused.starts_with("egress rule 2 (rule of tier 1) has"), "{refused}");
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn tables_of_too_many_rules_are_refused() {
    let mut policies = Policies::default();
    let with = |ingress| PolicyRules { name: "rules".into(), ingress, egress: Vec::new() };
    let most = vec![deny_all(); limits::RULES_MAX];
    policies.upsert_rules(with(most)).expect("as many as there may be");
    assert!(!policies.commit(1).table("rules").expect("there").is_closed());
    let more = vec![deny_all(); limits::RULES_MAX + 1];
    let refused = policies.upsert_rules(with(more)).expect_err("too many").to_string();
    assert_eq!(
        refused,
        "65537 ingress rules for one endpoint: at most 65536 are supported; select the endpoint by \
         fewer policies, or merge their rules"
    );
    let selectors: Vec<u32> = (0..=1024).collect();
    let wide = vec![of(RuleAction::Allow, &selectors); 1024];
    let refused = policies.upsert_rules(with(wide)).expect_err("too many").to_string();
    assert!(refused.contains("selectors and port ranges"), "{refused}");
    assert!(policies.commit(2).table("rules").expect("there").is_closed());
}

#[test]
fn full_tables_refuse_and_keep_what_they_have() {
    let mut policies = Policies::default();
    let identity = |id| Identity { id: IdentityId(id), labels: Vec::new(), selectors: Vec::new() };
    for at in 0..limits::IDENTITIES_MAX as u32 {
        policies.upsert_identity(identity(256 + at)).expect("room");
    }
    let refused = policies.upsert_identity(identity(1)).expect_err("full").to_string();
    assert!(refused.contains("the identity table is full: 65536"), "{refused}");
    policies.upsert_identity(identity(256)).expect("it is there already");
    policies.upsert_identity(identity(IdentityId::LOCAL_MIN.0)).expect("local ones are apart");
    policies.delete_identity(IdentityId(256));
    policies.upsert_identity(identity(1)).expect("room again");

    let range = |at: u32| prefix_of(at);
    let all: Vec<Prefix> = (0..=limits::RANGES_MAX as u32).map(range).collect();
    let cidr = |id, prefixes| CidrSelector {
        id: SelectorId(id),
        prefixes,
        except: Vec::new(),
        is_world_only: true,
    };
    let refused = policies.upsert_cidr(cidr(1, all.clone())).expect_err("full").to_string();
    assert!(refused.contains("the table of address ranges is full"), "{refused}");
    policies.upsert_cidr(cidr(1, all[..1000].to_vec())).expect("room");
    policies
        .upsert_cidr(cidr(1, all[1..all.len() - 1].to_vec()))
        .expect("room for the others alone");
    assert_eq!(
        policies.names().filter(|name| matches!(name, ObjectRef::CidrSelector(_))).count(),
        1
    );
}

fn prefix_of(at: u32) -> Prefix {
    Prefix::new(Addr::from_v4((at << 8).to_be_bytes()), 24).expect("not too long")
}

#[test]
fn rules_that_name_refused_ranges_are_closed() {
    let mut policies = Policies::default();
    let range = |first, count| CidrSelector {
        id: SelectorId(7),
        prefixes: (first..first + count).map(prefix_of).collect(),
        except: Vec::new(),
        is_world_only: true,
    };
    let denying = |name: &str| {
        let ingress = vec![of(RuleAction::Deny, &[7])];
        PolicyRules { name: name.into(), ingress, egress: Vec::new() }
    };
    let is_closed = |view: &PolicyView, name: &str| view.table(name).expect("there").is_closed();
    policies.upsert_cidr(range(0, 10)).expect("room");
    policies.upsert_rules(denying("before")).expect("its ranges are there");
    assert!(!is_closed(&policies.commit(1), "before"));

    // In one view, in whatever order.
    policies.upsert_rules(denying("after")).expect("rules that make sense");
    policies.upsert_cidr(range(0, limits::RANGES_MAX as u32 + 1)).expect_err("full");
    policies.upsert_rules(denying("later")).expect("rules that make sense");
    let view = policies.commit(2);
    assert!(["before", "after", "later"].iter().all(|name| is_closed(&view, name)));

    policies.upsert_cidr(range(0, 10)).expect("room");
    let view = policies.commit(3);
    assert!(!["before", "after", "later"].iter().any(|name| is_closed(&view, name)));
    assert_eq!(view.table("later").expect("there").since(), 3);
}
