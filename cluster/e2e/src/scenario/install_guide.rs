//! docs/install.md, followed literally by the test that belongs to it.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;

/// # Errors
/// A command of the guide failed.
pub fn run(cluster: &Cluster) -> Result<()> {
    let script = cluster.root.join("scripts/install-guide");
    let status = Command::new(&script).status();
    let status = status.with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(status.success(), "{}: {status}", script.display());
    Ok(())
}
