//! The file that tells a container runtime to use weir. Runtimes before CNI 1.1 take its presence
//! for a working network, so it is written last, when pods can be given one.
//!
//! It stays while the agent is away: nodes must not become NotReady with every restart.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tracing::{info, warn};

use crate::agent::{AgentService, Core};

/// How often the node is asked whether it is ready, before the file is written.
const READY_PERIOD: Duration = Duration::from_millis(200);
/// How often the file is looked at: some tools remove it, or the whole folder, and runtimes miss
/// a folder that is made anew unless the file in it is.
const CHECK_PERIOD: Duration = Duration::from_secs(5);

/// Name of the file by default: before those of other plugins, of which runtimes take the first.
pub const NAME: &str = "05-weir.conflist";

/// Where the file is, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniConf {
    /// The runtime's folder.
    pub folder: PathBuf,
    /// Name of the file.
    pub name: String,
    /// The agent's socket, as the plugin finds it.
    pub socket: PathBuf,
}

/// How far this agent is with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfState {
    /// Runtimes are told by somebody else, or there are none.
    NotWanted,
    /// Not written, and why.
    Missing(String),
    /// As it should be.
    Written,
}

impl CniConf {
    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// What is in it. `cniVersion` is the newest that containerd 1.6 knows; of `cniVersions` newer
    /// runtimes take the newest that they know.
    #[must_use]
    pub fn text(&self) -> String {
        let conf = json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            "name": "weir",
            "plugins": [{
                "type": "weir-cni",
                "socket": self.socket,
                "capabilities": {"portMappings": true, "bandwidth": true},
            }],
        });
        format!("{conf:#}\n")
    }

    /// Writes the file in one step where it is not there or says something else; whether it was.
    ///
    /// # Errors
    /// The message names the file.
    pub fn write(&self) -> io::Result<bool> {
        let (path, text) = (self.path(), self.text());
        if fs::read_to_string(&path).is_ok_and(|it| it == text) {
            return Ok(false);
        }
        let write = || {
            fs::create_dir_all(&self.folder)?;
            // Runtimes read *.conf, *.conflist and *.json: not this name.
            let fresh = self.folder.join(format!(".{}.new", self.name));
            let mut file = fs::File::create(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map(|()| true).map_err(|it| named(&path, &it))
    }

    /// Removes the file: the node takes no new pods. One that is not there is no error.
    ///
    /// # Errors
    /// The message names the file.
    pub fn remove(&self) -> io::Result<bool> {
        match fs::remove_file(self.path()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(named(&self.path(), &error)),
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes the file when the node is ready, and again whenever somebody changes or removes it, until
/// the agent stops.
pub async fn run_conf(conf: CniConf, service: AgentService) {
    let mut known = None;
    loop {
        match service.read(Core::check_cni_ready).await {
            Ok(Ok(())) => break,
            Ok(Err(reason)) => {
                let missing = ConfState::Missing(reason.message().into());
                tell(&service, missing, &mut known).await;
            }
            Err(_) => return,
        }
        tokio::time::sleep(READY_PERIOD).await;
    }
    let path = conf.path();
    loop {
        match conf.write() {
            Ok(true) => info!("{}: written, this node takes pods", path.display()),
            Ok(false) => {}
            Err(error) => warn!("{error}: this node takes no pods until it can be written"),
        }
        let written = match path.exists() {
            true => ConfState::Written,
            false => ConfState::Missing(format!("{} cannot be written", path.display())),
        };
        tell(&service, written, &mut known).await;
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

/// Tells the loop, for its readiness, what is new.
async fn tell(service: &AgentService, news: ConfState, known: &mut Option<ConfState>) {
    if known.as_ref() == Some(&news) {
        return;
    }
    *known = Some(news.clone());
    let change = |core: &mut Core| {
        if let Some(cni) = &mut core.cni {
            cni.conf = news;
        }
    };
    // An agent that stops is told nothing any more.
    let _ = service.change(change).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_written_once_repaired_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let conf = CniConf {
            folder: folder.path().join("net.d"),
            name: NAME.into(),
            socket: "/run/weir/agent.sock".into(),
        };
        assert!(conf.write().unwrap());
        assert!(!conf.write().unwrap(), "written without need");
        let text = fs::read_to_string(conf.path()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["plugins"][0]["type"], "weir-cni");
        assert_eq!(value["plugins"][0]["socket"], "/run/weir/agent.sock");
        fs::write(conf.path(), "{}").unwrap();
        assert!(conf.write().unwrap());
        fs::remove_dir_all(&conf.folder).unwrap();
        assert!(conf.write().unwrap());
        assert_eq!(fs::read_dir(&conf.folder).unwrap().count(), 1, "nothing is left beside it");
        assert!(conf.remove().unwrap());
        assert!(!conf.remove().unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let conf = CniConf { folder: file.clone(), name: NAME.into(), socket: "/s".into() };
        let error = conf.write().unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}
