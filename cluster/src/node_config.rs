//! The configuration files of a node's containerd and kubelet. Inside its mount namespace a node
//! has the usual paths to itself, so these files name no other.

use serde_json::{Value, json};

use crate::plan::{DNS_SERVICE, NodePlan};

/// Where the images say a sandbox's own process comes from.
pub const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10.2";

/// What a node registers with, until its network works.
pub const TAINT: &str = "weir.dev/agent-not-ready";

/// Nodes are spread over so many zones: with six nodes each has two.
const ZONES: u8 = 3;

pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd's `config.toml`, version 2 (containerd 1.6 and 1.7).
pub fn write_containerd_config() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# A root without CAP_SYS_RESOURCE (some virtual machines) may not lower a score.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// The `KubeletConfiguration`, as JSON. `cgroup` is the node's own, below each controller's mount.
pub fn write_kubelet_config(cgroup: &str) -> String {
    let config: Value = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "::",
        "authentication": {
            "anonymous": { "enabled": true },
            "webhook": { "enabled": false },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        // Hosts with version 1 of cgroups, or a mix, still exist.
        "failCgroupV1": false,
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        // Nodes share the machine's disk and memory with everything else on it.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMinimumGCAge": "24h",
        "failSwapOn": false,
        "healthzPort": 0,
        "oomScoreAdj": 0,
        "registerWithTaints": [{ "key": TAINT, "effect": "NoSchedule" }],
        "resolvConf": "",
        "nodeStatusUpdateFrequency": "5s",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    });
    format!("{config:#}\n")
}

/// kubelet's flags that its configuration file cannot hold.
pub fn kubelet_flags(node: &NodePlan, folder: &str) -> Vec<String> {
    let name = node.name();
    let addresses = node.addresses;
    vec![
        format!("--config={folder}/kubelet.json"),
        format!("--kubeconfig={folder}/kubeconfig"),
        format!("--hostname-override={name}"),
        format!("--node-ip={},{}", addresses.v4, addresses.v6),
        format!("--node-labels=topology.kubernetes.io/zone=zone-{}", (node.number - 1) % ZONES + 1),
        "--root-dir=/var/lib/kubelet".into(),
        "--cert-dir=/var/lib/kubelet/pki".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_and_containerd_meet_at_one_socket() {
        let kubelet: Value = serde_json::from_str(&write_kubelet_config("a/node-1")).unwrap();
        let endpoint = kubelet["containerRuntimeEndpoint"].as_str().unwrap();
        let socket = endpoint.strip_prefix("unix://").unwrap();
        assert!(write_containerd_config().contains(&format!("address = \"{socket}\"")));
        assert_eq!(kubelet["cgroupRoot"], "/a/node-1");
        assert_eq!(kubelet["registerWithTaints"][0]["key"], TAINT);
        assert_eq!(kubelet["clusterDNS"][0], "10.96.0.10");
    }

    #[test]
    fn a_node_says_who_and_where_it_is() {
        let flags = kubelet_flags(&NodePlan::new(2), "/run/node").join(" ");
        assert!(flags.contains("--hostname-override=node-2"), "{flags}");
        assert!(flags.contains("--node-ip=172.30.0.12,fd00:172:30::c"), "{flags}");
        assert!(flags.contains("zone=zone-2"), "{flags}");
    }
}
