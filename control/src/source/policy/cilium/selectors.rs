//! Selectors of `cilium.io` policies: keys with a source, and the namespace that they are about.

use std::collections::BTreeMap;

use super::super::super::fields::Findings;
use super::super::labels::check_key;
use super::super::selectors::{LabelSelector, has_namespace, in_namespace, read_requirements};
use crate::model::policy::NAMESPACE_LABEL;
use crate::model::{IdentitySelector, LabelTest, Requirement, Severity};

/// Chosen by this, everything is.
const ALL_LABEL: &str = "reserved:all";
const INIT_LABEL: &str = "reserved:init";
const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
/// Keys that start so are Kubernetes' own however they are written.
const OWN_PREFIXES: [&str; 2] = ["io.kubernetes.pod.", "io.cilium.k8s."];

/// Where selectors of peers look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Of the policy; `None`: it is about the whole cluster.
    pub(super) namespace: Option<&'a str>,
    /// It is for endpoints whose labels are not known yet.
    pub(super) is_init: bool,
}

/// The endpoints that a policy is for: always of its own namespace, where it has one.
pub(super) fn read_subject(
    path: &str,
    selector: &LabelSelector,
    namespace: Option<&str>,
    findings: &mut Findings,
) -> IdentitySelector {
    let mut all = read_labels(path, selector, findings);
    if let Some(namespace) = namespace {
        let own = BTreeMap::from([(NAMESPACE_LABEL.to_owned(), namespace.to_owned())]);
        let (said, others) = all.into_iter().partition(|it| it.key == NAMESPACE_LABEL);
        all = others;
        if !(IdentitySelector { requirements: said }).matches(&own) {
            let reason = "names another namespace: a CiliumNetworkPolicy is for endpoints of its \
                          own namespace, whatever stands here";
            findings.push(path.to_owned(), reason.into(), Severity::Ignored);
        }
        all.push(in_namespace(namespace));
    }
    IdentitySelector { requirements: all }
}

/// Whether it selects endpoints whose labels are not known yet.
pub(super) fn selects_init(selector: &IdentitySelector) -> bool {
    selector.requirements.iter().any(|it| it.key == INIT_LABEL)
}

/// Endpoints at the other end: of the policy's namespace, unless they are said to be elsewhere; for
/// a clusterwide policy, whatever has a namespace. Reserved labels say by themselves where.
pub(super) fn read_peer(
    path: &str,
    selector: &LabelSelector,
    scope: Scope<'_>,
    findings: &mut Findings,
) -> IdentitySelector {
    let mut all = read_labels(path, selector, findings);
    let is_everything = |it: &Requirement| it.key == ALL_LABEL && it.test != LabelTest::Absent;
    if all.iter().any(is_everything) {
        return IdentitySelector::default();
    }
    let is_said = all.iter().any(|it| it.key.starts_with("reserved:") || it.key == NAMESPACE_LABEL);
    let is_by_labels = all.iter().any(|it| {
        it.key.split_once(':').is_some_and(|(_, key)| key.starts_with(NAMESPACE_LABELS_PREFIX))
    });
    match scope.namespace {
        _ if is_said => {}
        Some(namespace) if !is_by_labels => all.push(in_namespace(namespace)),
        None if scope.is_init => {}
        _ => all.push(has_namespace()),
    }
    IdentitySelector { requirements: all }
}

/// Labels of nodes, which are their own source.
pub(super) fn read_node_labels(
    path: &str,
    selector: &LabelSelector,
    findings: &mut Findings,
) -> Vec<Requirement> {
    let name = |key: &str| {
        let (source, key) = split_source(key);
        let source = if source == "any" { "node" } else { source };
        check_key(key).map(|()| format!("{source}:{key}"))
    };
    read_requirements(path, selector, name, findings)
}

fn read_labels(path: &str, selector: &LabelSelector, findings: &mut Findings) -> Vec<Requirement> {
    let name = |key: &str| {
        let (source, key) = split_source(key);
        check_key(key).map(|()| match source {
            // Nothing else gives these labels.
            "any" if OWN_PREFIXES.iter().any(|it| key.starts_with(it)) => format!("k8s:{key}"),
            source => format!("{source}:{key}"),
        })
    };
    read_requirements(path, selector, name, findings)
}

/// The source of a key and the rest: `k8s:app`; `k8s.app`, as selectors are kept in the API server;
/// `reserved.host`; `$host`, which is reserved, too; `app`, from any source.
///
/// A dot after `k8s` may also be part of a label's own prefix: `k8s.io/role` is from any source.
fn split_source(text: &str) -> (&str, &str) {
    if let Some(key) = text.strip_prefix('$') {
        return ("reserved", key);
    }
    if let Some((source, key)) = text.split_once(':') {
        return (if source.is_empty() { "any" } else { source }, key);
    }
    for source in ["reserved", "k8s", "any"] {
        let Some(key) = text.strip_prefix(source).and_then(|it| it.strip_prefix('.')) else {
            continue;
        };
        if !key.contains('/') || OWN_PREFIXES.iter().any(|it| key.starts_with(it)) {
            return (source, key);
        }
    }
    ("any", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_source_in_many_spellings() {
        for (text, source, key) in [
            ("k8s:app", "k8s", "app"),
            ("k8s.app", "k8s", "app"),
            ("app", "any", "app"),
            ("any:app", "any", "app"),
            (":app", "any", "app"),
            ("reserved:host", "reserved", "host"),
            ("reserved.host", "reserved", "host"),
            ("$host", "reserved", "host"),
            ("k8s.io/role", "any", "k8s.io/role"),
            ("app.kubernetes.io/name", "any", "app.kubernetes.io/name"),
            ("k8s:app.kubernetes.io/name", "k8s", "app.kubernetes.io/name"),
            ("k8s.io.kubernetes.pod.namespace", "k8s", "io.kubernetes.pod.namespace"),
            (
                "k8s.io.cilium.k8s.namespace.labels.a.b/c",
                "k8s",
                "io.cilium.k8s.namespace.labels.a.b/c",
            ),
        ] {
            assert_eq!(split_source(text), (source, key), "{text}");
        }
    }
}
