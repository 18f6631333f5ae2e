//! Entities: names for what has no labels of its own (`pkg/policy/api/entity.go`).

use crate::model::policy::CLUSTER_LABEL;
use crate::model::{IdentitySelector, LabelTest, Requirement};

/// What a cluster has beside its pods.
const CLUSTER_RESERVED: [&str; 7] = [
    "reserved:host",
    "reserved:remote-node",
    "reserved:init",
    "reserved:ingress",
    "reserved:health",
    "reserved:unmanaged",
    "reserved:kube-apiserver",
];

const KNOWN: &str = "all, world, world-ipv4, world-ipv6, cluster, cluster-mesh, host, init, \
                     ingress, unmanaged, remote-node, health, kube-apiserver or none";

/// Whom an entity stands for; all of the selectors together.
///
/// # Errors
/// There is none of this name.
pub(super) fn read_entity(name: &str) -> Result<Vec<IdentitySelector>, String> {
    let one = |key: &str| {
        let requirement = Requirement { key: key.to_owned(), test: LabelTest::Exists };
        IdentitySelector { requirements: vec![requirement] }
    };
    Ok(match name {
        "all" => vec![IdentitySelector::default()],
        "none" => Vec::new(),
        // There are no other clusters in the mesh.
        "cluster" | "cluster-mesh" => {
            CLUSTER_RESERVED.into_iter().chain([CLUSTER_LABEL]).map(one).collect()
        }
        "world" | "world-ipv4" | "world-ipv6" | "host" | "init" | "ingress" | "unmanaged"
        | "remote-node" | "health" | "kube-apiserver" => vec![one(&format!("reserved:{name}"))],
        _ => return Err(format!("unknown entity {name:?}: give {KNOWN}")),
    })
}
