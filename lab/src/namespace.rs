//! Named network namespaces, as `ip netns` keeps them: bind mounts under /run/netns.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    panic,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Error, Result, clock, command};

const FOLDER: &str = "/run/netns";

/// How long a killed process may take to vanish before its namespace is removed anyway.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn add(name: &str) -> Result<()> {
    command::ip(&format!("netns add {name}")).map(drop)
}

pub(crate) fn delete(name: &str) -> Result<()> {
    command::ip(&format!("netns delete {name}")).map(drop)
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Names of all named network namespaces of this machine.
pub(crate) fn list() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Runs `work` on a new thread inside the namespace. Sockets, threads and processes that it makes
/// belong to the namespace for good; the caller's thread never moves. A panic of `work` continues
/// in the caller.
pub(crate) fn enter<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let failed = |source| Error::Enter { namespace: name.into(), source };
    let file = File::open(path(name)).map_err(failed)?;
    let outcome = thread::scope(|scope| {
        let entered = thread::Builder::new().name(name.into()).spawn_scoped(scope, move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok::<T, io::Error>(work())
        });
        entered.map(|thread| thread.join())
    });
    match outcome.map_err(failed)? {
        Ok(result) => result.map_err(failed),
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Kills every process whose main thread is in one of the namespaces (children of children that
/// nobody else waits for), except this one, and waits until they are gone.
pub(crate) fn kill_inside(names: &[String]) {
    let wanted: HashSet<_> = names.iter().filter_map(|name| identity(&path(name))).collect();
    if wanted.is_empty() {
        return;
    }
    let _ = clock::wait_until("processes end", KILL_TIMEOUT, || {
        let pids = pids_inside(&wanted);
        for pid in &pids {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        pids.is_empty().then_some(())
    });
}

fn pids_inside(wanted: &HashSet<(u64, u64)>) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != Pid::this().as_raw())
        .filter(|pid| {
            let inside = identity(Path::new(&format!("/proc/{pid}/ns/net")));
            inside.is_some_and(|identity| wanted.contains(&identity))
        })
        .map(Pid::from_raw)
        .collect()
}

/// What tells one namespace from another: device and inode of its nsfs file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
