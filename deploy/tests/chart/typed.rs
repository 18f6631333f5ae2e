//! Objects against Kubernetes' types: what a type does not know is lost on the way through it, and
//! so found.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::helm::name;

/// The object's kind is known, with every one of its fields, and it is labelled as ours.
pub fn check(object: &Value) -> Result<(), String> {
    let label = &object["metadata"]["labels"]["app.kubernetes.io/name"];
    let kind = object["kind"].as_str().unwrap_or_default();
    if label != "weir" && kind != "CustomResourceDefinition" {
        return Err(format!("{}: no label app.kubernetes.io/name", name(object)));
    }
    match (object["apiVersion"].as_str().unwrap_or_default(), kind) {
        ("apps/v1", "DaemonSet") => through::<DaemonSet>(object),
        ("apps/v1", "Deployment") => through::<Deployment>(object),
        ("batch/v1", "Job") => through::<Job>(object),
        ("v1", "Service") => through::<Service>(object),
        ("v1", "ServiceAccount") => through::<ServiceAccount>(object),
        ("policy/v1", "PodDisruptionBudget") => through::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => through::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            through::<ClusterRoleBinding>(object)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => through::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => through::<RoleBinding>(object),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            through::<CustomResourceDefinition>(object)
        }
        // Types of others: their own tests look at them.
        ("monitoring.coreos.com/v1", "ServiceMonitor" | "PrometheusRule")
        | ("weir.dev/v1alpha1", "LoadBalancerPool") => Ok(()),
        (version, kind) => Err(format!("{version} {kind}: not expected in this chart")),
    }
}

fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<(), String> {
    let typed: T =
        serde_json::from_value(object.clone()).map_err(|it| format!("{}: {it}", name(object)))?;
    let back = serde_json::to_value(typed).map_err(|it| it.to_string())?;
    match lost(object, &back, String::new()) {
        None => Ok(()),
        Some(path) => Err(format!("{}: {path}: no such field", name(object))),
    }
}

/// The first path that is in `whole` and not in `part`. Absent and empty are the same.
fn lost(whole: &Value, part: &Value, path: String) -> Option<String> {
    match (whole, part) {
        (Value::Object(fields), _) => fields.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match part.get(key) {
                Some(other) => lost(value, other, path),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            let mut both = items.iter().zip(others).enumerate();
            both.find_map(|(i, (item, other))| lost(item, other, format!("{path}[{i}]")))
        }
        (whole, part) => (whole != part).then_some(path),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[test]
fn a_field_that_no_type_has_is_found() {
    let mut object: Value = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "x", "labels": {"app.kubernetes.io/name": "weir"}},
        "spec": {"ports": [{"port": 1, "targetPort": 1}]},
    });
    assert_eq!(check(&object), Ok(()));
    object["spec"]["ports"][0]["tragetPort"] = 1.into();
    assert_eq!(check(&object), Err("Service x: .spec.ports[0].tragetPort: no such field".into()));
}
