//! Names of objects and where they were read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `namespace/name`; the namespace is empty for what belongs to the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name within it.
    pub name: String,
}

impl Name {
    /// Puts the two parts together.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// `namespace/name`; `None` where there is no slash.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.split_once('/').map(|(namespace, name)| Self::new(namespace, name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The kinds that weir reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Pod.
    Pod,
    /// v1 Node.
    Node,
    /// v1 Namespace.
    Namespace,
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// cilium.io/v2 CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// cilium.io/v2 CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// cilium.io/v2 CiliumCIDRGroup.
    CiliumCidrGroup,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
        Self::Namespace,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
        Self::CiliumCidrGroup,
        Self::ClusterNetworkPolicy,
    ];

    /// The kind of a Kubernetes object; `None` for kinds that weir does not read.
    #[must_use]
    pub fn parse(api_version: &str, kind: &str) -> Option<Self> {
        let wanted = Self::ALL.into_iter().find(|it| it.as_str() == kind)?;
        // It had this version before v2, with the same fields.
        let is_earlier = wanted == Self::CiliumCidrGroup && api_version == "cilium.io/v2alpha1";
        (wanted.api_version() == api_version || is_earlier).then_some(wanted)
    }

    /// As in the object's `kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::CiliumCidrGroup => "CiliumCIDRGroup",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// As in the object's `apiVersion`.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Service | Self::Pod | Self::Node | Self::Namespace => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::CiliumNetworkPolicy
            | Self::CiliumClusterwideNetworkPolicy
            | Self::CiliumCidrGroup => "cilium.io/v2",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
        }
    }

    /// Whether its objects belong to a namespace, and not to the whole cluster.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Service
            | Self::EndpointSlice
            | Self::Pod
            | Self::NetworkPolicy
            | Self::CiliumNetworkPolicy => true,
            Self::Node
            | Self::Namespace
            | Self::CiliumClusterwideNetworkPolicy
            | Self::CiliumCidrGroup
            | Self::ClusterNetworkPolicy => false,
        }
    }
}

/// Kind and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Name.
    pub name: Name,
}

/// `Service default/web`.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    file: Arc<PathBuf>,
    line: usize,
}

impl Origin {
    /// Line `line` (from 1) of `file`.
    #[must_use]
    pub fn new(file: Arc<PathBuf>, line: usize) -> Self {
        Self { file, line }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// `web.yaml:3`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
