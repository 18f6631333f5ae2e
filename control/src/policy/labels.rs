//! Security labels of pods and nodes.

use std::collections::BTreeMap;

use super::index::{Labels, NAME_LABEL};
use crate::model::policy::{
    CLUSTER_LABEL, NAMESPACE_LABEL, NAMESPACE_LABELS, SERVICE_ACCOUNT_LABEL,
};

/// Keys that differ from pod to pod or from rollout to rollout: they would make an identity of
/// every pod. Identities have them only while a policy in force asks for them.
const LEFT_OUT: [&str; 9] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "controller-revision-hash",
    "controller-uid",
    "job-completion-index",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// And all of these.
const LEFT_OUT_PREFIX: &str = "topology.kubernetes.io";

/// Whether identities are without this label of a pod, as a rule. The key is without a source.
pub(super) fn is_left_out(key: &str) -> bool {
    LEFT_OUT.contains(&key) || key.starts_with(LEFT_OUT_PREFIX)
}

/// Whether the key is one that only we may set: whoever may label a pod may not move it to another
/// namespace by that, nor give the namespace another label.
fn is_ours(key: &str) -> bool {
    key.starts_with("io.cilium.k8s.") || key.starts_with("io.kubernetes.pod.")
}

/// What a pod's labels follow from.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodLabels<'a> {
    pub namespace: &'a str,
    pub own: &'a BTreeMap<String, String>,
    /// Of the Namespace object, where there is one.
    pub of_namespace: Option<&'a BTreeMap<String, String>>,
    pub service_account: &'a str,
    pub cluster: &'a str,
}

impl PodLabels<'_> {
    /// All labels: what decides which policies select the pod.
    pub(super) fn list_all(self) -> Labels {
        self.list(|_| true)
    }

    /// The labels of its identity.
    pub(super) fn list_security(self, is_asked: impl Fn(&str) -> bool) -> Labels {
        self.list(|key| !is_left_out(key) || is_asked(key))
    }

    fn list(self, is_wanted: impl Fn(&str) -> bool) -> Labels {
        let own = self.own.iter().filter(|(key, _)| is_wanted(key) && !is_ours(key));
        let mut labels: Labels =
            own.map(|(key, value)| (format!("k8s:{key}"), value.clone())).collect();
        for (key, value) in self.of_namespace.into_iter().flatten() {
            labels.insert(format!("{NAMESPACE_LABELS}{key}"), value.clone());
        }
        // The API server sets it, and no one can change it.
        labels.insert(format!("{NAMESPACE_LABELS}{NAME_LABEL}"), self.namespace.to_owned());
        labels.insert(NAMESPACE_LABEL.to_owned(), self.namespace.to_owned());
        labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), self.service_account.to_owned());
        labels.insert(CLUSTER_LABEL.to_owned(), self.cluster.to_owned());
        labels
    }
}

/// Labels without a value, and those of a node.
pub(super) fn reserved(names: &[&str], of_node: Option<&BTreeMap<String, String>>) -> Labels {
    let own = names.iter().map(|it| (format!("reserved:{it}"), String::new()));
    let of_node = of_node.into_iter().flatten();
    own.chain(of_node.map(|(key, value)| (format!("node:{key}"), value.clone()))).collect()
}
