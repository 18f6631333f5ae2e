//! Images into the nodes' containerd.

use std::{path::Path, process::Stdio, thread};

use anyhow::{Context, Result, anyhow, bail};

use crate::cluster::{Cluster, RunningNode};

/// Imports an archive into every node, all at once.
pub fn load(cluster: &Cluster, archive: &Path) -> Result<()> {
    let archive = archive.canonicalize().with_context(|| format!("no {}", archive.display()))?;
    thread::scope(|scope| {
        let archive = archive.as_path();
        let import = |node| scope.spawn(move || import(node, archive));
        let threads: Vec<_> = cluster.nodes.iter().map(import).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("an import panicked"))?)
    })
}

fn import(node: &RunningNode, archive: &Path) -> Result<()> {
    let mut command = node.command("ctr");
    // From standard input: the node may not see the file.
    command.args(["--namespace", "k8s.io", "images", "import", "-"]);
    command.stdin(std::fs::File::open(archive)?).stdout(Stdio::null());
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: cannot import {}: {}", node.name, archive.display(), said.trim());
    }
    Ok(())
}
