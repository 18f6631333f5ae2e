//! A directory of manifests, watched: saving a file is a change of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::warn;

use super::{Batch, ManifestStore};
use crate::model::{Problem, Severity};

/// Larger files are refused.
pub const FILE_BYTES_MAX: usize = 64 << 20;
/// Events closer together than this are one change.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A file that a writer holds open is read after this time without a write.
const QUIET: Duration = Duration::from_secs(1);
/// Rounds of events after which a file is read though its writer has not closed it.
const HELD_ROUNDS_MAX: u32 = 100;
/// Folders deeper than this are not read: a link into a parent would never end.
const DEPTH_MAX: usize = 16;

/// The directory cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// Not there, or not a directory.
    #[error("{path}: cannot read the manifests: {error}")]
    Directory {
        /// As given.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel refuses to watch it.
    #[error("{path}: cannot watch the manifests (see fs.inotify.max_user_watches): {error}")]
    Watch {
        /// As given.
        path: PathBuf,
        /// Why.
        error: notify::Error,
    },
}

/// Reads `directory` and then watches it from a thread of its own, until the receiver is dropped.
/// The first batch is the full content.
///
/// # Errors
/// The directory cannot be read or watched.
pub fn spawn_file_source(
    directory: &Path,
    batches: mpsc::UnboundedSender<Batch>,
) -> Result<(), FileError> {
    let failed = |error| FileError::Directory { path: directory.to_owned(), error };
    let root = std::path::absolute(directory).map_err(failed)?;
    fs::read_dir(&root).map_err(failed)?;
    let watch_failed = |error| FileError::Watch { path: directory.to_owned(), error };
    let (sender, events) = channel();
    let mut watcher = notify::recommended_watcher(sender).map_err(watch_failed)?;
    // Watched before it is read: what changes in between is read twice, not missed.
    watcher.watch(&root, RecursiveMode::Recursive).map_err(watch_failed)?;
    let run = move || {
        let _watcher = watcher;
        watch(Directory::new(root), &events, &batches);
    };
    std::thread::Builder::new().name("file-source".into()).spawn(run).map_err(failed)?;
    Ok(())
}

type Events = Receiver<notify::Result<notify::Event>>;

fn watch(mut directory: Directory, events: &Events, batches: &mpsc::UnboundedSender<Batch>) {
    let mut pending = Pending::default();
    let mut reported = directory.scan(&pending);
    let mut problems = reported.problems.clone();
    let mut is_idle = false;
    loop {
        let is_news = reported.problems != problems
            || !(reported.upserts.is_empty() && reported.removes.is_empty());
        problems.clone_from(&reported.problems);
        if (is_news || !pending.has_started) && batches.send(reported).is_err() {
            return;
        }
        pending.has_started = true;
        // After activity comes one scan more: a folder's first files can precede its watch.
        let timeout = if is_idle { Duration::MAX } else { QUIET };
        match receive(events, timeout) {
            Ok(event) => {
                is_idle = false;
                pending.begin_round();
                pending.note(event);
                while let Ok(event) = events.recv_timeout(DEBOUNCE) {
                    pending.note(event);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                is_idle = true;
                pending.held.clear();
                if batches.is_closed() {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        reported = directory.scan(&pending);
        pending.changed.clear();
    }
}

fn receive<T>(events: &Receiver<T>, timeout: Duration) -> Result<T, RecvTimeoutError> {
    if timeout == Duration::MAX {
        return events.recv().map_err(|_| RecvTimeoutError::Disconnected);
    }
    events.recv_timeout(timeout)
}

/// What the events say about files.
#[derive(Debug, Default)]
struct Pending {
    changed: BTreeSet<PathBuf>,
    /// Written to and not closed yet: half a file. With the rounds since.
    held: BTreeMap<PathBuf, u32>,
    has_started: bool,
}

impl Pending {
    fn begin_round(&mut self) {
        for rounds in self.held.values_mut() {
            *rounds += 1;
        }
        self.held.retain(|_, rounds| *rounds < HELD_ROUNDS_MAX);
    }

    fn note(&mut self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return warn!("watching the manifests: {error}"),
        };
        let is_written = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        let is_closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        if matches!(event.kind, EventKind::Access(_)) && !is_closed {
            return;
        }
        for path in event.paths {
            if is_written {
                self.held.entry(path.clone()).or_insert(0);
            } else {
                self.held.remove(&path);
            }
            self.changed.insert(path);
        }
    }
}

/// The directory as it was last read.
struct Directory {
    root: PathBuf,
    store: ManifestStore,
    seen: BTreeMap<PathBuf, Fingerprint>,
}

/// Changes whenever a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fingerprint {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Directory {
    fn new(root: PathBuf) -> Self {
        Self { root, store: ManifestStore::default(), seen: BTreeMap::new() }
    }

    fn scan(&mut self, pending: &Pending) -> Batch {
        let mut found = BTreeMap::new();
        if let Err(error) = list_manifests(&self.root, DEPTH_MAX, &mut found) {
            // Not the same as empty: an unmounted volume must not withdraw every service.
            let mut batch = self.store.settle();
            batch.problems.push(Problem {
                location: None,
                object: self.root.display().to_string(),
                reason: format!("cannot read the manifests: {error}; everything stays as before"),
                severity: Severity::Refused,
            });
            return batch;
        }
        let gone: Vec<PathBuf> =
            self.seen.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        for path in gone {
            self.seen.remove(&path);
            self.store.remove_file(&path);
        }
        for (path, fingerprint) in found {
            let is_same =
                self.seen.get(&path) == Some(&fingerprint) && !pending.changed.contains(&path);
            if is_same || pending.held.contains_key(&path) {
                continue;
            }
            let text = read_text(&path, fingerprint.bytes);
            self.store.put_file(&path, text.as_deref().map_err(Clone::clone));
            self.seen.insert(path, fingerprint);
        }
        self.store.settle()
    }
}

/// Lists `*.yaml`, `*.yml` and `*.json` below `folder`. Hidden entries are left out: editors'
/// files, and the `..data` folders of mounted ConfigMaps, whose files are linked beside them.
fn list_manifests(
    folder: &Path,
    depth: usize,
    found: &mut BTreeMap<PathBuf, Fingerprint>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // A link to nothing, or a file removed just now, is no file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth > 0
                && let Err(error) = list_manifests(&path, depth - 1, found)
            {
                // A folder that went away is empty; one that is closed to us is not.
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{}: {error}", path.display()),
                    ));
                }
            }
        } else if metadata.is_file() && is_manifest(&path) {
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            let fingerprint =
                Fingerprint { inode: metadata.ino(), bytes: metadata.size(), modified };
            found.insert(path, fingerprint);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|it| it.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read_text(path: &Path, bytes: u64) -> Result<String, String> {
    if bytes > FILE_BYTES_MAX as u64 {
        return Err(format!("{bytes} bytes are more than {FILE_BYTES_MAX}: split the file"));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot read: {error}"))
}
