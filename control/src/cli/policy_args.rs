//! The agent's flags about network policy.

use clap::{Args, ValueEnum};

use crate::policy::{CLUSTER_DEFAULT, Enforcement};

/// Flags that `weir up` hands on to the agent.
#[derive(Debug, Clone, Args)]
pub struct PolicyArgs {
    /// Whom network policy isolates: default: pods that a policy selects; always: every pod; never:
    /// nobody, policies are read and not enforced.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub enable_policy: Enforcement,
    /// What policy denies passes all the same, and is counted as audited. For one pod: the
    /// annotation policy.weir.dev/audit: "true".
    #[arg(long)]
    pub policy_audit: bool,
    /// Tell who is denied at once, by a TCP reset or an ICMP error, instead of letting them wait.
    #[arg(long)]
    pub policy_reject: bool,
    /// Name of this cluster: the label io.cilium.k8s.policy.cluster of all pods.
    #[arg(long, default_value = CLUSTER_DEFAULT, value_name = "NAME")]
    pub cluster_name: String,
}

impl PolicyArgs {
    /// The flags as they are typed.
    pub(super) fn add_flags(&self, flags: &mut Vec<String>) {
        let mode = self.enable_policy.to_possible_value();
        let mode = mode.map(|it| it.get_name().to_owned()).unwrap_or_default();
        flags.push(format!("--enable-policy={mode}"));
        flags.extend(self.policy_audit.then(|| "--policy-audit".to_owned()));
        flags.extend(self.policy_reject.then(|| "--policy-reject".to_owned()));
        flags.push(format!("--cluster-name={}", self.cluster_name));
    }
}
