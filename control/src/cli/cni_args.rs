//! Flags about container runtimes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use weir_api::paths::Paths;

use crate::cni::{CniConf, conf};

/// Where container runtimes look for their network.
#[derive(Debug, Clone, Args)]
pub struct CniArgs {
    /// The runtime's folder of network configurations, usually /etc/cni/net.d: weir's is written
    /// when this node can take pods; none is without this flag.
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Name of the file there; runtimes take the first one.
    #[arg(long, value_name = "FILE", default_value = conf::NAME)]
    pub cni_conf_name: String,
    /// Remove that file and end: the node takes no new pods.
    #[arg(long, requires = "cni_conf_dir")]
    pub remove_cni_conf: bool,
}

impl CniArgs {
    pub(super) fn to_conf(&self, paths: &Paths) -> Option<CniConf> {
        let (name, socket) = (self.cni_conf_name.clone(), paths.agent_socket());
        self.cni_conf_dir.clone().map(|folder| CniConf { folder, name, socket })
    }

    /// What `--remove-cni-conf` does.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn remove(&self) -> anyhow::Result<ExitCode> {
        let conf = self.to_conf(&Paths::default()).context("give --cni-conf-dir DIR")?;
        let path = conf.path();
        match conf.remove()? {
            true => println!("{}: removed, this node takes no new pods", path.display()),
            false => println!("{}: is not there", path.display()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::AgentCommand;

    #[test]
    fn the_file_is_removed_without_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("05-weir.conflist");
        std::fs::write(&file, "{}").unwrap();
        let dir = format!("--cni-conf-dir={}", folder.path().display());
        let words = ["weir-agent", "--remove-cni-conf", &dir];
        let command = AgentCommand::try_parse_from(words).unwrap();
        assert!(command.cni.remove_cni_conf);
        command.cni.remove().unwrap();
        command.cni.remove().unwrap();
        assert!(!file.exists());
        assert!(AgentCommand::try_parse_from(["weir-agent", "--remove-cni-conf"]).is_err());
    }
}
