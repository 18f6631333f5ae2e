//! One dataplane per run directory: a lock file, with the process id of its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

/// The lock cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct LockError {
    path: PathBuf,
    source: io::Error,
}

/// The lock, held until this is dropped or the process ends, however it does.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What became of the attempt to take the lock.
#[derive(Debug)]
pub enum Attempt {
    Taken(Lock),
    Held(Waiting),
}

/// The lock in other hands.
#[derive(Debug)]
pub struct Waiting {
    file: File,
    path: PathBuf,
    /// The process that has it, as it knows itself.
    pub holder: String,
}

/// Takes the lock of a run directory, if it is free.
///
/// # Errors
/// The file cannot be made or locked.
pub fn take(run_dir: &Path) -> Result<Attempt, LockError> {
    let path = run_dir.join("dataplane.lock");
    let failed = |source| LockError { path: path.clone(), source };
    let mut options = OpenOptions::new();
    // Not cut before it is ours: the holder's process id is in it.
    let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Attempt::Taken(Lock::note_holder(file).map_err(failed)?)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = (&file).take(32).read_to_string(&mut holder);
            let is_known = read.is_ok() && !holder.trim().is_empty();
            let holder = if is_known { holder.trim().into() } else { "unknown".into() };
            Ok(Attempt::Held(Waiting { file, path, holder }))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

impl Waiting {
    /// Waits until the lock is free, and takes it. Dropping the future leaves a thread behind that
    /// waits for as long as the process lives.
    ///
    /// # Errors
    /// The file cannot be locked.
    pub async fn wait(self) -> Result<Lock, LockError> {
        let (done, taken) = oneshot::channel();
        let wait = move || {
            let Waiting { file, path, .. } = self;
            let locked = file.lock().and_then(|()| Lock::note_holder(file));
            // Nobody there any more: then the lock goes, too.
            let _ = done.send(locked.map_err(|source| LockError { path, source }));
        };
        std::thread::Builder::new().name("weir-lock".into()).spawn(wait).map_err(|source| {
            LockError { path: PathBuf::from("a thread that waits for the lock"), source }
        })?;
        taken.await.unwrap_or_else(|_| {
            let source = io::ErrorKind::Interrupted.into();
            Err(LockError { path: PathBuf::from("waiting for the lock"), source })
        })
    }
}

impl Lock {
    fn note_holder(mut file: File) -> io::Result<Lock> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_has_it_and_the_next_waits() {
        let folder = tempfile::tempdir().unwrap();
        let Attempt::Taken(first) = take(folder.path()).unwrap() else { panic!("it is free") };
        let Attempt::Held(waiting) = take(folder.path()).unwrap() else { panic!("it is taken") };
        assert_eq!(waiting.holder, std::process::id().to_string());
        let waits = tokio::spawn(waiting.wait());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(!waits.is_finished());
        drop(first);
        let second = waits.await.unwrap().unwrap();
        assert!(matches!(take(folder.path()).unwrap(), Attempt::Held(_)));
        drop(second);
        assert!(matches!(take(folder.path()).unwrap(), Attempt::Taken(_)));
    }
}
