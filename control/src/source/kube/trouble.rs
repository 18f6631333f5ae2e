//! What can be wrong between the agent and the API server, in words.

use std::collections::BTreeSet;

use super::resources::Resource;
use crate::model::{Kind, Problem, Severity};

/// The ClusterRole of the agent, in the chart.
const CLUSTER_ROLE: &str = "weir-agent";

/// Why a kind cannot be read at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No API server answers, or not with what was asked.
    Unreachable(String),
    /// It does not know who asks.
    Unauthorized(String),
    /// RBAC does not allow it.
    Forbidden {
        /// `list` or `watch`.
        verb: &'static str,
        /// As the server puts it.
        message: String,
    },
    /// It answers, but not about this kind.
    Failed(String),
}

/// One problem for what concerns all kinds in the same way.
pub(super) fn list_troubles<'a>(
    server: &str,
    troubles: impl Iterator<Item = (Kind, &'a Trouble)>,
) -> Vec<Problem> {
    let mut problems = BTreeSet::new();
    let mut has_unreachable = false;
    for (kind, trouble) in troubles {
        let (object, reason) = match trouble {
            // All watches share the server: the first reason of many is enough.
            Trouble::Unreachable(_) if has_unreachable => continue,
            Trouble::Unreachable(reason) => {
                has_unreachable = true;
                let reason = format!("{reason}; state is kept, trying again");
                (format!("API server {server}"), reason)
            }
            Trouble::Unauthorized(message) => {
                let reason = format!(
                    "it does not accept our credentials: {message}: check the service account's \
                     token or the kubeconfig; state is kept, trying again"
                );
                (format!("API server {server}"), reason)
            }
            Trouble::Forbidden { verb, message } => {
                let Resource { plural, group, .. } = Resource::of(kind);
                let reason = format!(
                    "must allow {verb} of {plural} in API group {group:?}: {message}; what is \
                     known of them is kept"
                );
                (format!("ClusterRole {CLUSTER_ROLE}"), reason)
            }
            Trouble::Failed(reason) => {
                let reason = format!(
                    "cannot read {}: {reason}; state is kept, trying again",
                    Resource::of(kind).plural
                );
                (format!("API server {server}"), reason)
            }
        };
        problems.insert(Problem { location: None, object, reason, severity: Severity::Refused });
    }
    problems.into_iter().collect()
}
