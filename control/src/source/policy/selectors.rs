//! Label selectors as Kubernetes writes them (`k8s.io/apimachinery`: LabelSelector).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::super::fields::Findings;
use super::labels::{check_key, check_value};
use crate::model::policy::{NAMESPACE_LABEL, NAMESPACE_LABELS};
use crate::model::{IdentitySelector, LabelTest, PolicyPeer, Requirement};

/// A selector; empty: everything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LabelSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Expression>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

/// Requirements of a selector, its keys written as `name` says; a bad one is reported and left out.
pub(super) fn read_requirements(
    path: &str,
    selector: &LabelSelector,
    name: impl Fn(&str) -> Result<String, String>,
    findings: &mut Findings,
) -> Vec<Requirement> {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        let path = format!("{path}.matchLabels.{key}");
        match name(key).and_then(|key| check_value(value).map(|()| key)) {
            Ok(key) => {
                let test = LabelTest::In([value.clone()].into());
                requirements.push(Requirement { key, test });
            }
            Err(reason) => findings.refuse(path, reason),
        }
    }
    for (i, it) in selector.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let key = name(&it.key).map_err(|it| findings.refuse(format!("{path}.key"), it));
        let test = read_test(&path, it, findings);
        if let (Ok(key), Some(test)) = (key, test) {
            requirements.push(Requirement { key, test });
        }
    }
    requirements
}

fn read_test(path: &str, it: &Expression, findings: &mut Findings) -> Option<LabelTest> {
    let values: BTreeSet<String> = it.values.iter().flatten().cloned().collect();
    for (i, value) in it.values.iter().flatten().enumerate() {
        if let Err(reason) = check_value(value) {
            findings.refuse(format!("{path}.values[{i}]"), reason);
        }
    }
    let operator = it.operator.as_str();
    match (operator, values.is_empty()) {
        ("In", false) => Some(LabelTest::In(values)),
        ("NotIn", false) => Some(LabelTest::NotIn(values)),
        ("Exists", true) => Some(LabelTest::Exists),
        ("DoesNotExist", true) => Some(LabelTest::Absent),
        ("In" | "NotIn", true) => {
            findings.refuse(format!("{path}.values"), format_args!("{operator} needs values"));
            None
        }
        ("Exists" | "DoesNotExist", false) => {
            let reason = format_args!("{operator} takes no values");
            findings.refuse(format!("{path}.values"), reason);
            None
        }
        _ => {
            let reason =
                format!("unknown operator {operator:?}: give In, NotIn, Exists or DoesNotExist");
            findings.refuse(format!("{path}.operator"), reason);
            None
        }
    }
}

/// Requirements on a pod's own labels, as Kubernetes names them.
pub(super) fn read_pod_labels(
    path: &str,
    selector: &LabelSelector,
    findings: &mut Findings,
) -> Vec<Requirement> {
    read_requirements(path, selector, |key| named("k8s:", key), findings)
}

/// Requirements on the labels of a pod's namespace. What has no namespace is never selected, not
/// even by its lack of labels.
pub(super) fn read_namespace_labels(
    path: &str,
    selector: &LabelSelector,
    findings: &mut Findings,
) -> Vec<Requirement> {
    let mut all = read_requirements(path, selector, |key| named(NAMESPACE_LABELS, key), findings);
    all.push(has_namespace());
    all
}

/// Requirements on an object's own labels, without a source. One that is written is left out.
pub(super) fn read_plain_labels(
    path: &str,
    selector: &LabelSelector,
    findings: &mut Findings,
) -> IdentitySelector {
    let plain = |key: &str| named("", key.split_once(':').map_or(key, |(_, key)| key));
    IdentitySelector { requirements: read_requirements(path, selector, plain, findings) }
}

fn named(prefix: &str, key: &str) -> Result<String, String> {
    check_key(key).map(|()| format!("{prefix}{key}"))
}

/// Of this namespace.
pub(super) fn in_namespace(namespace: &str) -> Requirement {
    let test = LabelTest::In([namespace.to_owned()].into());
    Requirement { key: NAMESPACE_LABEL.into(), test }
}

/// Of any namespace: a pod.
pub(super) fn has_namespace() -> Requirement {
    Requirement { key: NAMESPACE_LABEL.into(), test: LabelTest::Exists }
}

/// Nodes by their labels: this one, and the others, which have different reserved labels.
pub(super) fn read_node_peers(
    path: &str,
    selector: &LabelSelector,
    findings: &mut Findings,
) -> Vec<PolicyPeer> {
    let name = |key: &str| named("node:", key);
    let requirements = read_requirements(path, selector, name, findings);
    node_peers(&requirements)
}

/// Whoever is a node and meets the requirements.
pub(super) fn node_peers(requirements: &[Requirement]) -> Vec<PolicyPeer> {
    let of_kind = |reserved: &str| {
        let mut requirements = requirements.to_vec();
        requirements.push(Requirement { key: reserved.into(), test: LabelTest::Exists });
        PolicyPeer::Identities(IdentitySelector { requirements })
    };
    vec![of_kind("reserved:host"), of_kind("reserved:remote-node")]
}
