//! One agent at a time: the next one waits for a lock that ends with the process that holds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tracing::info;
use weir_api::health::Health;

/// The lock cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// No such file can be made or locked.
    #[error("{path}: cannot lock: {error}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Somebody else has it.
    #[error(
        "{path}: another weir-agent ({holder}) runs with this --run-dir: stop it, or wait for its \
         end with --standby"
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// Its process.
        holder: String,
    },
}

/// Takes the lock at `path`, for as long as the file is held; `may_wait` until another agent has
/// ended.
pub(super) async fn take_lock(
    path: &Path,
    may_wait: bool,
    readiness: &watch::Sender<Health>,
) -> Result<File, LockError> {
    let failed = |error: io::Error| LockError::Lock { path: path.to_owned(), error };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    let file = options.create(true).read(true).write(true).truncate(false).open(path);
    let mut file = file.map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
            if !may_wait {
                return Err(LockError::Taken { path: path.to_owned(), holder });
            }
            info!("another weir-agent runs ({holder}): waiting for its end");
            let reason = format!("waiting for the end of {holder}");
            readiness.send_replace(Health::Standby(reason));
            file = wait_for_lock(file).await.map_err(failed)?;
            info!("the other weir-agent has ended: starting");
            readiness.send_replace(Health::NotReady("starting".into()));
        }
        Err(error) => return Err(failed(error.into())),
    }
    // For people, and for the message above.
    file.set_len(0).map_err(failed)?;
    writeln!(file, "pid {}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// From a thread, because the kernel wakes nobody else. It ends with the process if need be.
async fn wait_for_lock(file: File) -> io::Result<File> {
    let (sender, receiver) = oneshot::channel();
    let wait = move || {
        let result = flock(&file, FlockOperation::LockExclusive);
        // A process that stops instead needs no lock.
        let _ = sender.send(result.map(|()| file));
    };
    std::thread::Builder::new().name("standby".into()).spawn(wait)?;
    let result = receiver.await.map_err(|_| io::Error::other("the thread that waits has ended"))?;
    Ok(result?)
}
