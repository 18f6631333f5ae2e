//! The custom resource's schema and what is read from it agree.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use serde_json::{Value, json};
use weir_control::model::Family;
use weir_ipam::allocator::{Fill, PoolProblem};
use weir_ipam::crd::{CRDS, LoadBalancerPool};
use weir_ipam::status::describe_pool;

fn schema() -> Value {
    let crd: Value = serde_saphyr::from_str(CRDS).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Fails where the schema lacks a field of the value: the API server would drop it.
fn assert_covered(path: &str, schema: &Value, value: &Value) {
    match value {
        Value::Object(fields) if schema["additionalProperties"].is_null() => {
            for (name, value) in fields {
                let property = &schema["properties"][name];
                assert!(property.is_object(), "{path}.{name} is not in the schema");
                assert_covered(&format!("{path}.{name}"), property, value);
            }
        }
        Value::Array(items) => {
            for item in items {
                assert_covered(&format!("{path}[]"), &schema["items"], item);
            }
        }
        _ => {}
    }
}

fn pool(blocks: Value) -> LoadBalancerPool {
    let selector = json!({
        "matchLabels": { "team": "a" },
        "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["web"] }],
    });
    let object = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "LoadBalancerPool",
        "metadata": { "name": "p", "generation": 3 },
        "spec": {
            "blocks": blocks,
            "serviceSelector": selector,
            "namespaceSelector": selector,
            "avoidEdges": true,
            "autoAssign": false,
        },
    });
    serde_json::from_value(object).unwrap()
}

#[test]
fn every_field_is_in_the_schema() {
    let mut pool = pool(json!([
        { "cidr": "192.0.2.0/24" },
        { "start": "2001:db8::1", "stop": "2001:db8::9" },
    ]));
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let problem = PoolProblem::Overlaps("older".into());
    pool.status = Some(describe_pool(&pool, Some(&problem), [Fill::default(); 2], now));
    let value = serde_json::to_value(&pool).unwrap();
    for part in ["spec", "status"] {
        assert_covered(part, &schema()["properties"][part], &value[part]);
    }
    let content = pool.to_pool().content.unwrap();
    let families: Vec<Family> = content.blocks.iter().map(|it| it.family()).collect();
    assert_eq!(families, [Family::V4, Family::V6]);
    assert_eq!(content.blocks[0].to_string(), "192.0.2.1-192.0.2.254");
    assert!(!content.auto_assign);
}

#[test]
fn what_the_schema_lets_through_is_still_checked() {
    for (blocks, reason) in [
        (json!([]), "at least one block"),
        (json!([{ "cidr": "192.0.2.0/33" }]), "spec.blocks[0]: "),
        (json!([{ "start": "192.0.2.9", "stop": "192.0.2.1" }]), "the lower address first"),
        (json!([{ "start": "192.0.2.9" }]), "either cidr, or start and stop"),
        (json!([{ "cidr": "192.0.2.0/24" }, { "cidr": "192.0.2.7/32" }]), "spec.blocks[1]: "),
    ] {
        let error = pool(blocks).to_pool().content.unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn conditions_keep_their_time_while_they_stay_as_they_are() {
    let mut pool = pool(json!([{ "cidr": "192.0.2.0/24" }]));
    let at = |text: &str| text.parse().unwrap();
    let fill = [Fill { total: 254, used: 1 }, Fill { total: u64::MAX, used: 0 }];
    let first = describe_pool(&pool, None, fill, at("2026-01-01T00:00:00.5Z"));
    assert_eq!(first.ipv6.total, i64::MAX);
    assert_eq!(first.conditions[0].observed_generation, Some(3));
    pool.status = Some(first.clone());
    assert_eq!(describe_pool(&pool, None, fill, at("2026-01-02T00:00:00Z")), first);
    let problem = PoolProblem::Overlaps("older".into());
    let second = describe_pool(&pool, Some(&problem), fill, at("2026-01-02T00:00:00Z"));
    let states: Vec<_> =
        second.conditions.iter().map(|it| (it.type_.as_str(), it.status.as_str())).collect();
    assert_eq!(states, [("Ready", "False"), ("Conflict", "True")]);
    assert!(second.conditions[0].message.contains("the older pool older"));
    assert!(second.conditions[0].last_transition_time > first.conditions[0].last_transition_time);
}
