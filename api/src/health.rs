//! Whether a process of weir is ready, for exec probes: one line over a Unix socket.
//!
//! `ready`, `standby: REASON` (waits for another process to end, as during a rolling update), or
//! `not ready: REASON`. The first two are healthy.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use crate::socket::{MODE_OWNER, SocketError, bind};

/// A process that takes longer to answer is not healthy.
const TIMEOUT: Duration = Duration::from_secs(3);
const LINE_BYTES_MAX: u64 = 4096;

/// How a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does all its work.
    Ready,
    /// It waits for another process to end, to take over: as it should be.
    Standby(String),
    /// It does not do its work, and why.
    NotReady(String),
}

impl Health {
    /// Whether a probe succeeds.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !matches!(self, Self::NotReady(_))
    }

    fn parse(line: &str) -> Option<Self> {
        if line == "ready" {
            return Some(Self::Ready);
        }
        let (state, reason) = line.split_once(": ")?;
        match state {
            "standby" => Some(Self::Standby(reason.into())),
            "not ready" => Some(Self::NotReady(reason.into())),
            _ => None,
        }
    }
}

/// The line.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Standby(reason) => write!(f, "standby: {}", on_one_line(reason)),
            Self::NotReady(reason) => write!(f, "not ready: {}", on_one_line(reason)),
        }
    }
}

fn on_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Nobody said how the process is.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Nothing answers.
    #[error("{path}: cannot ask: {error}: does the process run, with this --health-socket?")]
    Ask {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something else answers.
    #[error("{path}: {line:?} is no answer of weir: is this a health socket?")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What it said.
        line: String,
    },
}

/// Answers on the socket until it is dropped.
#[derive(Debug)]
pub struct HealthServer {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already: as it should be.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers whoever connects to `path` with what `state` says then. `state` must not block.
///
/// Must be called within a Tokio runtime.
///
/// # Errors
/// As [`bind`].
pub fn serve(
    path: &Path,
    state: impl Fn() -> Health + Send + 'static,
) -> Result<HealthServer, SocketError> {
    let mut connections = bind(path, MODE_OWNER)?;
    let task = tokio::spawn(async move {
        while let Some(connection) = connections.next().await {
            let Ok(mut connection) = connection else { continue };
            // Fits the socket's buffer, so nobody can hold this up; who hung up needs no answer.
            let _ = connection.write_all(format!("{}\n", state()).as_bytes()).await;
        }
    });
    Ok(HealthServer { path: path.to_owned(), task })
}

/// Asks the process behind `path`; for probes, blocks for at most a few seconds.
///
/// # Errors
/// Nobody answers, or not so.
pub fn check(path: &Path) -> Result<Health, CheckError> {
    let failed = |error| CheckError::Ask { path: path.to_owned(), error };
    let stream = StdUnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    let mut answer = String::new();
    stream.take(LINE_BYTES_MAX).read_to_string(&mut answer).map_err(failed)?;
    let line = answer.trim_end();
    Health::parse(line)
        .ok_or_else(|| CheckError::Answer { path: path.to_owned(), line: line.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn what_is_served_is_what_a_probe_sees() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("health.sock");
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("does the process run, with this --health-socket?"), "{error}");
        let state = Arc::new(Mutex::new(Health::Ready));
        let served = state.clone();
        let server = serve(&path, move || served.lock().unwrap().clone()).unwrap();
        let states = [
            (Health::Ready, true),
            (Health::Standby("pid 7 runs: it goes first".into()), true),
            (Health::NotReady("the manifests have not been read yet".into()), false),
        ];
        for (health, is_healthy) in states {
            state.lock().unwrap().clone_from(&health);
            let path = path.clone();
            let seen = tokio::task::spawn_blocking(move || check(&path)).await.unwrap().unwrap();
            assert_eq!((seen.is_healthy(), seen), (is_healthy, health));
        }
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_reason_stays_on_one_line() {
        let line = Health::NotReady("a\nb".into()).to_string();
        assert_eq!(line, "not ready: a b");
        assert_eq!(Health::parse("fine"), None);
    }
}
