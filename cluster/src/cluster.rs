//! [`Cluster`]: what a running cluster consists of, written by its supervisor and read by every
//! other command; and how to run something inside it.

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    paths::{self, State},
    process::Identity,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    /// The network namespace of the control plane and of everything outside the cluster.
    pub outside: PathBuf,
    pub nodes: Vec<RunningNode>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunningNode {
    pub name: String,
    /// Of its first process, as the machine sees it.
    pub pid: u32,
}

impl Cluster {
    /// The running cluster of that name.
    pub fn find(state: &State) -> Result<Self> {
        let Ok(text) = fs::read(state.cluster()) else {
            bail!("no cluster {} is up: run `scripts/cluster up`", state.name);
        };
        let cluster = serde_json::from_slice(&text).context("the state of the cluster")?;
        if !Identity::read(&state.supervisor())?.is_alive() {
            bail!(
                "the supervisor of cluster {} is dead: run `scripts/cluster down`, then `up`",
                state.name
            );
        }
        Ok(cluster)
    }

    pub fn node(&self, name: &str) -> Result<&RunningNode> {
        let names = || self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>();
        let node = self.nodes.iter().find(|node| node.name == name);
        node.with_context(|| format!("no node {name}: there are {}", names().join(", ")))
    }

    /// A program in the control plane's network namespace, with `KUBECONFIG` set.
    pub fn outside_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(&self.outside);
        let state = State::of(&self.name);
        let mut command = Command::new("nsenter");
        command.arg(net).arg("--").arg(program).env("KUBECONFIG", state.kubeconfig("admin"));
        // helm keeps files of its own; they are the cluster's.
        for (name, folder) in
            [("CACHE", "helm-cache"), ("CONFIG", "helm-config"), ("DATA", "helm-data")]
        {
            command.env(format!("HELM_{name}_HOME"), state.folder.join(folder));
        }
        command
    }

    /// `kubectl`, as the administrator.
    pub fn kubectl(&self) -> Result<Command> {
        Ok(self.outside_command(paths::program("kubectl")?))
    }

    /// The output of a `kubectl` command that must succeed.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.kubectl()?;
        let output = command.args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl RunningNode {
    /// A program on the node: in its network, mount, pid and UTS namespaces.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--uts"]);
        command.args(["--wd=/", "--"]).arg(program);
        command
    }

    /// Kills one of the node's programs; its first process starts it again.
    pub fn kill_program(&self, name: &str) -> Result<()> {
        let file = format!("{}/{name}.pid", crate::node_init::PIDS);
        let mut command = self.command("sh");
        command.args(["-c", r#"kill -KILL "$(cat "$1")""#, "sh", &file]);
        let status = command.status()?;
        if !status.success() {
            bail!("cannot kill {name} on {}: {status}", self.name);
        }
        Ok(())
    }
}
