//! Whatever stands in an object of policy, reading it does not panic, and what is refused says why.
//!
//! The objects are those of `scripts/policy`, changed at random: proptest prints the seed.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use weir_control::model::{Kind, Name, Object, Peers, PortChoice, Severity};
use weir_control::source::kubernetes::convert;
use weir_control::source::yaml::split_documents;

/// Objects of every kind that is about policy, right and wrong ones.
static OBJECTS: LazyLock<Vec<(Kind, Value)>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/policy");
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let is_yaml = |line: &&str| !line.starts_with(['!', '=']);
        let text: Vec<&str> = text.lines().filter(is_yaml).collect();
        // A new file begins a new document.
        let text = text.join("\n").replace("\n-- ", "\n--- # ");
        for document in split_documents(&text) {
            let Ok(value) = document.parse() else { continue };
            let field = |name: &str| value[name].as_str().unwrap_or_default();
            if let Some(kind) = Kind::parse(field("apiVersion"), field("kind")) {
                objects.push((kind, value));
            }
        }
    }
    objects
});

/// What a value becomes.
fn replacement() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "*",
        "**.a",
        "k8s:a",
        ":",
        "a:",
        "/",
        "a/",
        "$",
        "reserved:",
        "0",
        "65536",
        "TCP",
        "ANY",
        "http",
        "::/0",
        "0.0.0.0/0",
        "10.0.0.0/8",
        "1.2.3.4",
        "/8",
        "In",
        "Exists",
        "all",
        "io.kubernetes.pod.namespace",
        "\u{e9}",
        "-",
        ".",
        "8",
        "EchoReply",
        "required",
    ];
    let numbers = [0, 1, -1, 80, 255, 256, 65_535, 65_536, i64::from(i32::MAX) + 1, i64::MIN];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        proptest::sample::select(numbers.to_vec()).prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        "\\PC{0,70}".prop_map(Value::from),
        Just(json!({})),
        Just(json!([])),
        Just(json!([{}])),
        Just(json!({"matchLabels": {"reserved:all": "", "a": "b"}})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let key = proptest::sample::select(vec!["ports", "rules", "cidr", "values", "spec", "x"]);
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((key, inner), 0..3)
                .prop_map(|all| all.into_iter().map(|(key, it)| (key.to_owned(), it)).collect()),
        ]
    })
}

/// Where it happens, what it becomes (`None`: it goes), and whether it is there twice.
type Change = (Vec<prop::sample::Index>, Option<Value>, bool);

fn change() -> impl Strategy<Value = Change> {
    (vec(any::<prop::sample::Index>(), 1..9), proptest::option::of(replacement()), any::<bool>())
}

fn apply(value: &mut Value, (path, new, is_doubled): &Change) {
    let Some((first, rest)) = path.split_first() else { return };
    match value {
        Value::Array(items) if !items.is_empty() => {
            let index = first.index(items.len());
            if rest.is_empty() || !items[index].is_object() && !items[index].is_array() {
                match new {
                    Some(new) => items[index] = new.clone(),
                    None => drop(items.remove(index)),
                }
            } else {
                apply(&mut items[index], &(rest.to_vec(), new.clone(), *is_doubled));
                if *is_doubled {
                    items.push(items[index].clone());
                }
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields.keys().nth(first.index(fields.len())).unwrap().clone();
            let field = fields.get_mut(&key).unwrap();
            if rest.is_empty() || !field.is_object() && !field.is_array() {
                match new {
                    Some(new) => *field = new.clone(),
                    None => drop(fields.remove(&key)),
                }
            } else {
                apply(field, &(rest.to_vec(), new.clone(), *is_doubled));
            }
        }
        _ => {}
    }
}

/// What every part that reads the model relies on.
fn check(object: &Object) {
    let Object::Policy(policy) = object else { return };
    assert!(!policy.specs.is_empty());
    for spec in &policy.specs {
        for rule in [&spec.ingress, &spec.egress].into_iter().flatten().flat_map(|it| &it.rules) {
            assert!(rule.path.starts_with("spec"), "{rule:?}");
            for port in &rule.ports {
                if let PortChoice::Range(first, last) = port.port {
                    assert!(first <= last, "{rule:?}");
                }
            }
            if let Some(l7) = &rule.l7 {
                assert!(serde_json::from_str::<Value>(&l7.json).unwrap().is_object());
                assert!(!rule.ports.is_empty(), "{rule:?}");
            }
            if let Peers::Of(peers) = &rule.peers {
                assert!(peers.len() <= 4000);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_object_makes_a_reader_panic(
        index in any::<prop::sample::Index>(),
        changes in vec(change(), 0..6),
    ) {
        assert!(OBJECTS.len() > 60, "{} objects", OBJECTS.len());
        let (kind, mut value) = OBJECTS[index.index(OBJECTS.len())].clone();
        for it in &changes {
            apply(&mut value, it);
        }
        let namespace = if kind.is_namespaced() { "shop" } else { "" };
        let converted = convert(kind, Name::new(namespace, "a"), None, &value);
        let is_refused = converted.findings.iter().any(|it| it.severity == Severity::Refused);
        match &converted.object {
            Some(object) => {
                prop_assert_eq!(&object.key().kind, &kind);
                check(object);
                // A pod keeps what is right of it.
                prop_assert!(!is_refused || kind == Kind::Pod, "{:?}", converted);
            }
            None => prop_assert!(is_refused, "{value}"),
        }
        for finding in &converted.findings {
            prop_assert!(!finding.reason.is_empty() && !finding.path.starts_with('.'));
        }
    }
}
