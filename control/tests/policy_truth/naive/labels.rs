//! Label selectors of Kubernetes (apimachinery's `LabelSelector`).

use serde_json::Value;

use super::items;

/// Whether labels, as an object's `metadata.labels` has them, are selected. A selector without
/// requirements selects everything.
pub fn is_selected(selector: &Value, labels: &Value) -> bool {
    is_selected_by(selector, |key| labels.get(key).and_then(Value::as_str))
}

/// The same, over whatever can tell the value of a key.
pub fn is_selected_by<'l>(selector: &Value, value_of: impl Fn(&str) -> Option<&'l str>) -> bool {
    let empty = serde_json::Map::new();
    let labels = selector["matchLabels"].as_object().unwrap_or(&empty);
    labels.iter().all(|(key, value)| value_of(key) == value.as_str())
        && items(&selector["matchExpressions"]).iter().all(|it| {
            let value = value_of(it["key"].as_str().unwrap());
            let is_listed = || items(&it["values"]).iter().any(|each| each.as_str() == value);
            match it["operator"].as_str().unwrap() {
                "In" => value.is_some() && is_listed(),
                "NotIn" => value.is_none() || !is_listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("no operator {other}"),
            }
        })
}

/// All keys that a selector mentions.
pub fn keys(selector: &Value) -> Vec<&str> {
    let labels = selector["matchLabels"].as_object();
    let labels = labels.into_iter().flat_map(|it| it.keys().map(String::as_str));
    let expressions = items(&selector["matchExpressions"]).iter();
    labels.chain(expressions.map(|it| it["key"].as_str().unwrap())).collect()
}

/// Labels of a namespace. The API server sees to it that its name is one of them.
pub fn namespace_label<'w>(
    world: &'w super::World,
    namespace: &'w str,
    key: &str,
) -> Option<&'w str> {
    if key == "kubernetes.io/metadata.name" {
        return Some(namespace);
    }
    let mut all = world.of_kind("Namespace");
    let object = all.find(|it| it["metadata"]["name"] == namespace)?;
    object["metadata"]["labels"].get(key)?.as_str()
}

/// Whether a pod is in a selected namespace.
pub fn is_namespace_selected(world: &super::World, selector: &Value, pod: &Value) -> bool {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    is_selected_by(selector, |key| namespace_label(world, namespace, key))
}
