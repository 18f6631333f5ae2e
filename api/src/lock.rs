//! One process of a kind at a time: a lock file, with the process id of its holder. The next one
//! may wait for its end, as during a rolling update.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

/// The lock cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot lock: {source}")]
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
    /// It was free.
    Taken(Lock),
    /// Another process has it.
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

/// Takes the lock at `path`, if it is free; makes its folder if need be.
///
/// # Errors
/// The file cannot be made or locked.
pub fn take(path: &Path) -> Result<Attempt, LockError> {
    let failed = |source| LockError { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    // Not cut before it is ours: the holder's process id is in it.
    let opened = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Attempt::Taken(Lock::note_holder(file).map_err(failed)?)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = (&file).take(32).read_to_string(&mut holder);
            let is_known = read.is_ok() && !holder.trim().is_empty();
            let holder = if is_known { holder.trim().into() } else { "unknown".into() };
            Ok(Attempt::Held(Waiting { file, path: path.to_owned(), holder }))
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
        let path = folder.path().join("run/agent.lock");
        let Attempt::Taken(first) = take(&path).unwrap() else { panic!("it is free") };
        let Attempt::Held(waiting) = take(&path).unwrap() else { panic!("it is taken") };
        assert_eq!(waiting.holder, std::process::id().to_string());
        let waits = tokio::spawn(waiting.wait());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(!waits.is_finished());
        drop(first);
        let second = waits.await.unwrap().unwrap();
        assert!(matches!(take(&path).unwrap(), Attempt::Held(_)));
        drop(second);
        assert!(matches!(take(&path).unwrap(), Attempt::Taken(_)));
    }
}
