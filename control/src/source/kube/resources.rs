//! What is asked of the API server: the path of each kind, and what of its objects is kept.

use super::trim::Keep::{self, All, Fields, Prefixes};
use crate::model::Kind;

/// Where a kind is served, and how much of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// As in the URL.
    pub plural: &'static str,
    /// Built into every API server; others come with a CRD and need not be there.
    pub is_builtin: bool,
    label_selector: Option<&'static str>,
    field_selector: Option<&'static str>,
}

impl Resource {
    /// The resource of a kind.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        let plural = match kind {
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
            Kind::Pod => "pods",
            Kind::Node => "nodes",
            Kind::Namespace => "namespaces",
            Kind::NetworkPolicy => "networkpolicies",
            Kind::CiliumNetworkPolicy => "ciliumnetworkpolicies",
            Kind::CiliumClusterwideNetworkPolicy => "ciliumclusterwidenetworkpolicies",
            Kind::CiliumCidrGroup => "ciliumcidrgroups",
            Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
        };
        let group = kind.api_version().split_once('/').map_or("", |(group, _)| group);
        Self {
            kind,
            group,
            plural,
            is_builtin: !matches!(group, "cilium.io" | "policy.networking.k8s.io"),
            // Slices that belong to no service are somebody else's.
            label_selector: (kind == Kind::EndpointSlice).then_some("kubernetes.io/service-name"),
            // What has ended has no address any more, and stays listed for long.
            field_selector: (kind == Kind::Pod)
                .then_some("status.phase!=Succeeded,status.phase!=Failed"),
        }
    }

    /// Path of the collection, of all namespaces.
    #[must_use]
    pub fn path(&self) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        format!("/{root}/{}/{}", self.kind.api_version(), self.plural)
    }

    pub(super) fn list_params(
        &self,
        limit: Option<u32>,
        next: Option<String>,
    ) -> kube::api::ListParams {
        kube::api::ListParams {
            label_selector: self.label_selector.map(Into::into),
            field_selector: self.field_selector.map(Into::into),
            limit,
            continue_token: next,
            ..kube::api::ListParams::default()
        }
    }

    pub(super) fn watch_params(&self) -> kube::api::WatchParams {
        kube::api::WatchParams {
            label_selector: self.label_selector.map(Into::into),
            field_selector: self.field_selector.map(Into::into),
            ..kube::api::WatchParams::default()
        }
    }

    /// The fields that conversion reads. `metadata.resourceVersion`, `name` and `namespace` are
    /// read apart.
    pub(super) fn keep(&self) -> Keep {
        match self.kind {
            Kind::Service => SERVICE,
            Kind::EndpointSlice => SLICE,
            Kind::Pod => POD,
            Kind::Node => NODE,
            Kind::Namespace => Fields(&[("metadata", METADATA)]),
            Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CiliumCidrGroup
            | Kind::ClusterNetworkPolicy => POLICY,
        }
    }
}

const METADATA: Keep = Fields(&[
    ("name", All),
    ("namespace", All),
    ("resourceVersion", All),
    ("creationTimestamp", All),
    ("deletionTimestamp", All),
    ("labels", All),
    ("annotations", Prefixes(&["service.cilium.io/", "policy.weir.dev/", "weir.dev/"])),
]);

const SERVICE: Keep =
    Fields(&[("metadata", METADATA), ("spec", All), ("status", Fields(&[("loadBalancer", All)]))]);

const SLICE: Keep = Fields(&[
    ("metadata", METADATA),
    ("addressType", All),
    ("ports", All),
    (
        "endpoints",
        Fields(&[
            ("addresses", All),
            ("conditions", All),
            ("hints", All),
            ("nodeName", All),
            ("zone", All),
        ]),
    ),
]);

const CONDITIONS: Keep = Fields(&[("type", All), ("status", All)]);

const POD: Keep = Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        Fields(&[
            ("nodeName", All),
            ("serviceAccountName", All),
            ("hostNetwork", All),
            ("containers", Fields(&[("name", All), ("ports", All)])),
            ("initContainers", Fields(&[("name", All), ("ports", All), ("restartPolicy", All)])),
        ]),
    ),
    (
        "status",
        Fields(&[("phase", All), ("podIP", All), ("podIPs", All), ("conditions", CONDITIONS)]),
    ),
]);

/// The reason says who declares the network available.
const NODE_CONDITIONS: Keep = Fields(&[("type", All), ("status", All), ("reason", All)]);

const NODE: Keep = Fields(&[
    ("metadata", METADATA),
    ("spec", All),
    ("status", Fields(&[("addresses", All), ("conditions", NODE_CONDITIONS)])),
]);

/// As they are written, because a field that nobody knows refuses a policy.
const POLICY: Keep = Fields(&[("metadata", METADATA), ("spec", All), ("specs", All)]);
