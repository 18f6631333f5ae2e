//! Network policy against an independent judge: a truth table written by hand from the published
//! semantics, and random policies.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "policy_truth/cases.rs"]
mod cases;
#[path = "policy_truth/naive/mod.rs"]
mod naive;
#[path = "policy_truth/product.rs"]
mod product;
#[path = "policy_truth/random/mod.rs"]
mod random;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cases::{Ends, Expected, Wanted};
use naive::{Half, Probe, Protocol, Verdict, World};
use random::{Dice, RandomWorld};
use serde_json::Value;

#[test]
fn the_judge_agrees_with_the_truth_table() {
    let (world, cases) = cases::read_folder(&folder());
    let names: BTreeSet<&str> = cases.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases of one name");
    assert!(cases.len() >= 220, "cases are gone: {} left", cases.len());
    let mut failures = Vec::new();
    let mut probes_len = 0;
    for case in &cases {
        let world = World { objects: parse(&[&world, &case.manifests]) };
        for line in &case.lines {
            probes_len += line.probes.len();
            failures.extend(line.probes.iter().filter_map(|ends| {
                let probe = to_probe(ends);
                let answer = world.judge(&probe);
                let egress = differ("egress", &line.egress, answer.egress.as_ref());
                let ingress = differ("ingress", &line.ingress, answer.ingress.as_ref());
                let what = egress.or(ingress)?;
                Some(format!("{}\n    {probe}: {what}\n    {}", case.name, line.text))
            }));
        }
    }
    println!("{} cases, {probes_len} probes", cases.len());
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

/// Cases whose manifests weir rightly complains about, and the word that it must use.
const COMPLAINTS: [(&str, &str); 6] = [
    ("cilium-peers: cnp group of ranges that does not exist", "nobody does not exist"),
    ("cilium-peers: ccnp for nodes is about no pod", "not enforced"),
    ("cilium-peers: cnp from groups of a cloud allows nothing", "the rule allows nothing"),
    (
        "cilium-peers: cnp denial of groups of a cloud denies everybody",
        "the rule denies everything",
    ),
    ("knp-basics: ingress rules do not count when policyTypes is Egress alone", "no effect"),
    ("knp-basics: egress rules do not count when policyTypes is Ingress alone", "no effect"),
];

/// And what it says of whatever needs a proxy.
const NOT_THERE_YET: [&str; 2] = ["needs the L7 proxy", "no DNS answers are known yet"];

#[test]
fn weir_agrees_with_the_truth_table() {
    let (world, cases) = cases::read_folder(&folder());
    let mut failures = Vec::new();
    for case in &cases {
        let judge = World { objects: parse(&[&world, &case.manifests]) };
        let complaint = COMPLAINTS.iter().find(|(name, _)| *name == case.name);
        let mut words = NOT_THERE_YET.to_vec();
        words.extend(complaint.map(|(_, word)| word));
        let is_expected = |it: &str| words.iter().any(|word| it.contains(word));
        let cluster = match product::read(&[&world, &case.manifests], is_expected) {
            Ok(cluster) => cluster,
            Err(error) => {
                failures.push(format!("{}\n    {error}", case.name));
                continue;
            }
        };
        failures.extend(case.lines.iter().filter_map(|line| {
            let differing = line.probes.iter().map(to_probe).find_map(|probe| {
                let difference = product::differ(&cluster, &probe, &judge.judge(&probe))?;
                Some(format!("{probe}: {difference}"))
            });
            Some(format!("{}\n    {}\n    {}", case.name, line.text, differing?))
        }));
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

const WORLDS: usize = 250;
const PROBES: usize = 100_000;

#[test]
fn weir_agrees_with_the_judge_on_random_policies() {
    let seed = std::env::var("WEIR_SEED").ok().map_or(DEFAULT_SEED, |it| it.parse().unwrap());
    println!("WEIR_SEED={seed}");
    let mut counts = Counts::default();
    for number in 0..WORLDS {
        let mut dice = Dice(seed.wrapping_add(number as u64));
        let world = RandomWorld::draw(&mut dice);
        let cluster = product::read(&[&world.text()], is_note);
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}\n{}", world.text()));
        let judge = World { objects: world.objects() };
        for _ in 0..PROBES / WORLDS {
            let probe = random::draw_probe(&mut dice, &world.things);
            let truth = judge.judge(&probe);
            if let Some(difference) = product::differ(&cluster, &probe, &truth) {
                let policies = shrink(world, &probe);
                panic!("WEIR_SEED={seed}, world {number}: {probe}\n{difference}\n{policies}");
            }
            counts.add(&truth);
        }
    }
    println!("{counts:?}");
    counts.check();
}

const DEFAULT_SEED: u64 = 20_260_727;

/// Complaints that are none of the judge's business: what weir reports and does as it says.
fn is_note(problem: &str) -> bool {
    problem.contains(": ignored: ") || problem.contains("CiliumCIDRGroup missing does not exist")
}

/// How often each verdict came, so that a generator that hits nothing is found out.
#[derive(Debug, Default)]
struct Counts {
    allowed_by_rule: usize,
    allowed_by_none: usize,
    denied_by_rule: usize,
    denied_by_default: usize,
    redirected: usize,
}

impl Counts {
    fn add(&mut self, answer: &naive::Answer) {
        for half in answer.egress.iter().chain(&answer.ingress) {
            let is_default = half.rules.iter().any(|it| it.starts_with("default deny"));
            *match half.verdict {
                Verdict::Allow if half.rules.is_empty() => &mut self.allowed_by_none,
                Verdict::Allow => &mut self.allowed_by_rule,
                Verdict::Deny if is_default => &mut self.denied_by_default,
                Verdict::Deny => &mut self.denied_by_rule,
                Verdict::Redirect => &mut self.redirected,
            } += 1;
        }
    }

    fn check(&self) {
        let all = [
            self.allowed_by_rule,
            self.allowed_by_none,
            self.denied_by_rule,
            self.denied_by_default,
            self.redirected * 20,
        ];
        assert!(all.iter().all(|it| *it > PROBES / 20), "one kind is too rare: {self:?}");
    }
}

/// The fewest policies and rules with which the two still differ, as JSON lines.
fn shrink(mut world: RandomWorld, probe: &Probe) -> String {
    let does_differ = |world: &RandomWorld| {
        let judge = World { objects: world.objects() };
        let cluster = product::read(&[&world.text()], is_note);
        cluster.is_ok_and(|it| product::differ(&it, probe, &judge.judge(probe)).is_some())
    };
    let mut at = 0;
    while at < world.policies.len() {
        let policy = world.policies.remove(at);
        if !does_differ(&world) {
            world.policies.insert(at, policy);
            at += 1;
        }
    }
    for at in 0..world.policies.len() {
        for pointer in ["/spec/ingress", "/spec/ingressDeny", "/spec/egress", "/spec/egressDeny"] {
            let mut item = 0;
            loop {
                let list = world.policies[at].pointer_mut(pointer).and_then(Value::as_array_mut);
                let Some(list) = list.filter(|it| item < it.len()) else { break };
                let rule = list.remove(item);
                if !does_differ(&world) {
                    let list = world.policies[at].pointer_mut(pointer).unwrap();
                    list.as_array_mut().unwrap().insert(item, rule);
                    item += 1;
                }
            }
        }
    }
    let pods = world.things.iter().filter(|it| it["kind"] == "Pod");
    let lines = world.policies.iter().chain(pods).map(ToString::to_string);
    lines.collect::<Vec<_>>().join("\n")
}

/// What differs from what is expected, if anything.
fn differ(direction: &str, expected: &Expected, half: Option<&Half>) -> Option<String> {
    let Some(half) = half else {
        // An end that is no pod has no verdict: the table must not pretend that it denies.
        let is_silent = expected.verdict == Wanted::Allow && expected.rule.is_none();
        return (!is_silent).then(|| format!("{direction} has no pod to be judged at"));
    };
    let verdict = match half.verdict {
        Verdict::Allow => Wanted::Allow,
        Verdict::Deny => Wanted::Deny,
        Verdict::Redirect => Wanted::Redirect,
    };
    let is_named = expected.rule.as_ref().is_none_or(|it| half.rules.contains(it));
    (verdict != expected.verdict || !is_named).then(|| format!("{direction} is {half:?}"))
}

fn to_probe(ends: &Ends) -> Probe {
    let protocol = Protocol::ALL.into_iter().find(|it| it.name() == ends.protocol);
    let protocol = protocol.unwrap_or_else(|| panic!("no protocol {}", ends.protocol));
    Probe { from: ends.from.clone(), to: ends.to.clone(), port: ends.port, protocol }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/tests/policy")
}

fn parse(texts: &[&str]) -> Vec<Value> {
    let documents = texts.iter().flat_map(|text| {
        let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        all
    });
    documents.filter(|it| !it.is_null()).collect()
}
