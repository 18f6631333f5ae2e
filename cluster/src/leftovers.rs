//! What a cluster leaves when its supervisor could not clean up, and its removal. Everything that
//! runs on a node is in a cgroup of the cluster's, so it can be found whoever its parent is.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir_lab::{Lab, clock::wait_until};

use crate::{node_init::cgroup_mounts, paths::State, process::Identity};

/// For the supervisor's own tidy end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// For processes to vanish after SIGKILL, and their cgroups with them.
const KILL_TIMEOUT: Duration = Duration::from_secs(15);

/// Ends a cluster and removes all of it, in whatever state it is. Nothing there is no error.
pub fn remove(state: &State) -> Result<()> {
    if let Ok(supervisor) = Identity::read(&state.supervisor()) {
        supervisor.stop(STOP_TIMEOUT);
    }
    // A new lab removes namespaces, links and processes of those whose process is dead.
    drop(Lab::new("down")?);
    let cgroup = state.cgroup();
    let ended = wait_until("processes of the cluster to end", KILL_TIMEOUT, || {
        let pids = pids_in(&cgroup);
        for pid in &pids {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        pids.is_empty().then_some(())
    });
    ended.with_context(|| format!("{:?} do not end", pids_in(&cgroup)))?;
    for mount in cgroup_mounts() {
        let folder = mount.join(&cgroup);
        let gone = wait_until("cgroups to go", KILL_TIMEOUT, || {
            remove_tree(&folder);
            (!folder.exists()).then_some(())
        });
        gone.with_context(|| format!("{} does not go", folder.display()))?;
    }
    match fs::remove_dir_all(&state.folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot remove {}: {error}", state.folder.display())
        }
        _ => Ok(()),
    }
}

/// Processes whose cgroup of any controller is the cluster's.
fn pids_in(cgroup: &str) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let inside = pids.filter(|pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        is_inside(&text, cgroup)
    });
    inside.map(Pid::from_raw).collect()
}

/// By the lines `ID:CONTROLLERS:/PATH` of cgroups(7).
fn is_inside(text: &str, cgroup: &str) -> bool {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths
        .map(|path| path.trim_start_matches('/'))
        .any(|path| path.split('/').next() == Some(cgroup))
}

/// A cgroup is removed by rmdir, after those below it; its files go by themselves.
fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_claims_its_own_processes_only() {
        let text = "5:pids:/weir-cluster-a/node-1/pod1\n1:cpu:/\n";
        assert!(is_inside(text, "weir-cluster-a"));
        assert!(!is_inside(text, "weir-cluster-ab") && !is_inside(text, "node-1"));
        assert!(!is_inside("0::/user/weir-cluster-a\n", "weir-cluster-a"));
    }
}
