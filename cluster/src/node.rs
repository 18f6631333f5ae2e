//! What a node is given before it starts: its folders, its configuration, and the specification
//! for its first process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{
    node_config::{
        CONTAINERD_SOCKET, kubelet_flags, write_containerd_config, write_kubelet_config,
    },
    node_init::{Program, Spec},
    paths::{self, State},
    plan::NodePlan,
};

/// What each node has to itself, by the name of its folder in the state. /run and /sys/fs/bpf are
/// too, in memory.
const FOLDERS: [(&str, &str); 7] = [
    ("kubelet", "/var/lib/kubelet"),
    ("containerd", "/var/lib/containerd"),
    ("cni-cache", "/var/lib/cni"),
    ("weir", "/var/lib/weir"),
    ("log", "/var/log"),
    ("etc-cni", "/etc/cni"),
    ("opt-cni", "/opt/cni"),
];

/// Exists once the node runs, and holds the pid of its first process.
pub fn pid_file(state: &State, plan: &NodePlan) -> PathBuf {
    state.node(&plan.name()).join("init.pid")
}

/// Writes everything, and gives the file for `node-init`.
pub fn prepare(state: &State, plan: &NodePlan) -> Result<PathBuf> {
    let (name, folder) = (plan.name(), state.node(&plan.name()));
    let config = folder.join("config");
    fs::create_dir_all(&config)?;
    let cgroup = format!("{}/{name}", state.cgroup());
    fs::write(config.join("containerd.toml"), write_containerd_config())?;
    fs::write(config.join("kubelet.json"), write_kubelet_config(&cgroup))?;
    fs::copy(state.kubeconfig(&name), config.join("kubeconfig"))?;
    let containerd = Program {
        name: "containerd".into(),
        command: vec![
            "containerd".into(),
            "--config".into(),
            config.join("containerd.toml").display().to_string(),
        ],
        log: state.log(&format!("{name}-containerd")),
        ready: Some(CONTAINERD_SOCKET.into()),
    };
    let mut command = vec![paths::program("kubelet")?.display().to_string()];
    command.extend(kubelet_flags(plan, &config.display().to_string()));
    let log = state.log(&format!("{name}-kubelet"));
    let kubelet = Program { name: "kubelet".into(), command, log, ready: None };
    let own = |(from, to): (&str, &str)| (folder.join(from), Path::new(to).to_owned());
    let spec = Spec {
        hostname: name,
        cgroup,
        pid_file: pid_file(state, plan),
        folders: FOLDERS.map(own).to_vec(),
        programs: vec![containerd, kubelet],
    };
    let file = config.join("node-init.json");
    fs::write(&file, serde_json::to_string_pretty(&spec)?)?;
    Ok(file)
}
