//! Random histories of objects give the same verdicts as their last states do from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use weir_control::model::{Kind, Name, Object, ObjectKey};
use weir_control::policy::Enforcement;
use weir_tables::policy::{L4, PolicyAction};

use crate::engine::{Egress, Engine, Ingress};
use crate::generate::{
    address, all_addresses, group, name, namespace, node, pod, policy, policy_key, service, slice,
};

#[derive(Debug, Clone)]
enum Step {
    Upsert(Box<Object>),
    Remove(ObjectKey),
    Attach(Name, Vec<IpAddr>),
    Detach(Name),
    Learn(Name, &'static str, IpAddr),
    Recompute,
}

fn upsert(object: Object) -> Step {
    Step::Upsert(Box::new(object))
}

fn any_key() -> impl Strategy<Value = ObjectKey> {
    let key = |kind| move |name| ObjectKey { kind, name };
    let of_cluster = |pattern: &'static str| pattern.prop_map(|it| Name::new("", &it));
    prop_oneof![
        1 => name().prop_map(key(Kind::Pod)),
        1 => name().prop_map(key(Kind::Service)),
        1 => "s[01]".prop_map(|it| Name::new("ns0", &it)).prop_map(key(Kind::EndpointSlice)),
        1 => of_cluster("ns[01]").prop_map(key(Kind::Namespace)),
        1 => of_cluster("n[12]").prop_map(key(Kind::Node)),
        1 => of_cluster("g[01]").prop_map(key(Kind::CiliumCidrGroup)),
        3 => policy_key(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => pod().prop_map(upsert),
        2 => namespace().prop_map(upsert),
        2 => node().prop_map(upsert),
        2 => group().prop_map(upsert),
        2 => service().prop_map(upsert),
        2 => slice().prop_map(upsert),
        8 => policy().prop_map(upsert),
        6 => (name(), vec(address(), 0..2)).prop_map(|(name, addresses)| {
            Step::Attach(name, addresses)
        }),
        1 => name().prop_map(Step::Detach),
        1 => (name(), select(vec!["a.example", "b.example", "other"]), address())
            .prop_map(|(pod, name, address)| Step::Learn(pod, name, address)),
        4 => any_key().prop_map(Step::Remove),
        4 => Just(Step::Recompute),
    ]
}

/// The cluster as it is at present.
#[derive(Default)]
struct World {
    objects: BTreeMap<ObjectKey, Object>,
    attached: BTreeMap<Name, Vec<IpAddr>>,
    learned: BTreeSet<(Name, &'static str, IpAddr)>,
}

impl World {
    fn apply(&mut self, step: Step, engine: &mut Engine) {
        match step {
            Step::Upsert(object) => {
                engine.state.upsert(&object);
                self.objects.insert(object.key(), *object);
            }
            Step::Remove(key) => {
                engine.state.remove(&key);
                self.objects.remove(&key);
            }
            Step::Attach(name, addresses) => {
                engine.state.attach(&name, Some(addresses.clone()));
                self.attached.insert(name, addresses);
            }
            Step::Detach(name) => {
                engine.state.attach(&name, None);
                self.attached.remove(&name);
                self.learned.retain(|(pod, ..)| *pod != name);
            }
            Step::Learn(pod, name, address) => {
                learn(engine, &pod, name, address);
                if self.attached.contains_key(&pod) {
                    self.learned.insert((pod, name, address));
                }
            }
            Step::Recompute => {}
        }
    }

    /// The other way round, so that the order is shown not to matter.
    fn compute_from_scratch(&self, enforcement: Enforcement) -> Engine {
        let mut scratch = Engine::new(enforcement);
        for (name, addresses) in self.attached.iter().rev() {
            scratch.state.attach(name, Some(addresses.clone()));
        }
        for object in self.objects.values().rev() {
            scratch.state.upsert(object);
        }
        for (pod, name, address) in &self.learned {
            learn(&mut scratch, pod, name, *address);
        }
        scratch.settle();
        scratch
    }
}

fn learn(engine: &mut Engine, pod: &Name, name: &str, address: IpAddr) {
    engine.state.learn_name(pod, name, &[address], Duration::from_secs(60), Duration::ZERO);
}

const PROBES: [(u8, u16); 7] = [(6, 80), (6, 81), (6, 82), (6, 9), (17, 80), (1, 8), (132, 80)];

/// Everything about an endpoint that does not depend on numbers.
fn describe(engine: &Engine, pod: &Name) -> Vec<(String, PolicyAction, String)> {
    let policy = engine.state.endpoint(pod);
    let head = format!("audited: {}, any rules: {}", policy.is_audited, policy.rules.is_some());
    let mut verdicts = Vec::new();
    for peer in all_addresses() {
        for (protocol, port) in PROBES {
            for direction in [Ingress, Egress] {
                let (action, origin) = engine.judge(pod, direction, peer, L4::new(protocol, port));
                let probe = format!("{head}, {direction:?} {peer} {protocol}:{port}");
                verdicts.push((probe, action, origin));
            }
        }
    }
    verdicts
}

fn check(engine: &Engine, world: &World, enforcement: Enforcement) -> Result<(), TestCaseError> {
    let scratch = world.compute_from_scratch(enforcement);
    for address in all_addresses() {
        let (ours, theirs) = (engine.labels_of(address), scratch.labels_of(address));
        prop_assert_eq!(ours, theirs, "labels of {}", address);
    }
    for pod in world.attached.keys() {
        for (ours, theirs) in describe(engine, pod).into_iter().zip(describe(&scratch, pod)) {
            prop_assert_eq!(ours, theirs, "verdicts of {}", pod);
        }
    }
    let count = |engine: &Engine| (engine.rules.len(), engine.identities.len());
    prop_assert_eq!(count(engine), count(&scratch), "something is left over");
    prop_assert_eq!(engine.state.problems(), scratch.state.problems());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn histories_end_as_from_scratch(
        steps in vec(step(), 1..60),
        is_always in prop::bool::weighted(0.1),
    ) {
        let enforcement = if is_always { Enforcement::Always } else { Enforcement::Default };
        let mut engine = Engine::new(enforcement);
        let mut world = World::default();
        for step in steps.into_iter().chain([Step::Recompute]) {
            let is_check = matches!(step, Step::Recompute);
            world.apply(step, &mut engine);
            if is_check {
                engine.settle();
                check(&engine, &world, enforcement)?;
            }
        }
        let more = engine.settle();
        prop_assert_eq!(more, Default::default(), "a change without a cause");
    }
}

/// So that the property above is not about nothing.
#[test]
fn histories_meet_every_kind_of_verdict() {
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    for _ in 0..60 {
        let steps = vec(step(), 60).new_tree(&mut runner).unwrap().current();
        let mut engine = Engine::new(Enforcement::Default);
        let mut world = World::default();
        steps.into_iter().for_each(|it| world.apply(it, &mut engine));
        engine.settle();
        for pod in world.attached.keys() {
            for (_, action, origin) in describe(&engine, pod) {
                met.insert((action, origin.starts_with("default deny"), origin.is_empty()));
            }
        }
    }
    let (allow, deny, redirect) = (PolicyAction::Allow, PolicyAction::Deny, PolicyAction::Redirect);
    let wanted = [
        (allow, false, false),
        (allow, false, true),
        (deny, false, false),
        (deny, true, false),
        (redirect, false, false),
    ];
    assert_eq!(met, BTreeSet::from(wanted));
}
