//! Whether this process does its work, for probes: one line over a Unix socket.
//!
//! A Unix socket, because a process that waits to take over and the one before it share the node's
//! network: a port would be the other's. `weir-dataplane --check-health PATH` asks.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use weir_api::socket::{self, SocketError};

use super::observe;
use super::shared::Shared;

/// A process that does not answer within this time does not do its work.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const LINE_MAX: u64 = 4096;
const READY: &str = "ready";
const STANDBY: &str = "standby: ";

/// What the process is about.
#[derive(Clone)]
pub enum Health {
    Starting,
    /// Everything is prepared; the process with this id has the node.
    Standby {
        pid: String,
    },
    Running(Arc<Shared>),
    Stopping,
}

impl Health {
    /// For people and probes, in one line.
    fn line(&self) -> String {
        match self {
            Health::Starting => "not ready: starting".into(),
            Health::Standby { pid } => format!("{STANDBY}waiting for pid {pid}"),
            Health::Running(shared) => match observe::hanging(shared).first() {
                None => READY.into(),
                Some(problem) => format!("not ready: {problem}"),
            },
            Health::Stopping => "not ready: stopping".into(),
        }
    }
}

/// Answers at `path` until the process ends. Must be called within a Tokio runtime.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(path: &Path, health: watch::Receiver<Health>) -> Result<(), SocketError> {
    let mut asked = socket::bind(path, socket::MODE_OWNER)?;
    tokio::spawn(async move {
        while let Some(stream) = asked.next().await {
            let Ok(mut stream) = stream else { continue };
            let line = health.borrow().line() + "\n";
            // Who asks and goes away is no concern of ours.
            let _ = stream.write_all(line.as_bytes()).await;
        }
    });
    Ok(())
}

/// Asks the process at `path`: whether all is well, and what it says. One that stands by is well:
/// a rolling update waits for it before it ends the one before.
pub fn check(path: &Path) -> (bool, String) {
    match ask(path) {
        Ok(line) => (line == READY || line.starts_with(STANDBY), line),
        Err(error) => (false, format!("not ready: {}: {error}", path.display())),
    }
}

fn ask(path: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut line = String::new();
    stream.take(LINE_MAX).read_to_string(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;

    #[tokio::test]
    async fn a_probe_is_told_what_the_process_is_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health.sock");
        assert!(!check(&path).0, "nobody is there");
        let (told, health) = watch::channel(Health::Starting);
        serve(&path, health).unwrap();
        let idle = Arc::new(Shared::idle(Instant(0), folder.path()));
        for (health, is_well, said) in [
            (Health::Starting, false, "not ready: starting"),
            (Health::Standby { pid: "7".into() }, true, "standby: waiting for pid 7"),
            (Health::Running(idle), true, "ready"),
            (Health::Stopping, false, "not ready: stopping"),
        ] {
            told.send_replace(health);
            let path = path.clone();
            let answer = tokio::task::spawn_blocking(move || check(&path)).await.unwrap();
            assert_eq!(answer, (is_well, said.to_owned()));
        }
    }
}
