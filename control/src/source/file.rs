//! A directory of manifests, watched: saving a file is a change of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Bound;
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
pub fn spawn_file_source(directory: &Path, batches: mpsc::Sender<Batch>) -> Result<(), FileError> {
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

fn watch(mut directory: Directory, events: &Events, batches: &mpsc::Sender<Batch>) {
    let mut pending = Pending::default();
    let mut reported = directory.scan(&pending);
    let mut problems = reported.problems.clone();
    let mut is_idle = false;
    loop {
        let is_news = reported.problems != problems
            || !(reported.upserts.is_empty() && reported.removes.is_empty());
        problems.clone_from(&reported.problems);
        if (is_news || !pending.has_started) && batches.blocking_send(reported).is_err() {
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
        let is_whole = is_idle || pending.is_unsure;
        let quick = if is_whole { None } else { directory.scan_changed(&pending) };
        reported = quick.unwrap_or_else(|| directory.scan(&pending));
        pending.changed.clear();
        pending.is_unsure = false;
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
    /// There is more than `changed` says.
    is_unsure: bool,
}

impl Pending {
    fn begin_round(&mut self) {
        for rounds in self.held.values_mut() {
            *rounds += 1;
        }
        let before = self.held.len();
        self.held.retain(|_, rounds| *rounds < HELD_ROUNDS_MAX);
        self.is_unsure |= self.held.len() < before;
    }

    fn note(&mut self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.is_unsure = true;
                return warn!("watching the manifests: {error}");
            }
        };
        self.is_unsure |= event.need_rescan();
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
    /// Some are reached by symbolic links: a file can change under another name than its own.
    has_links: bool,
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
        Self { root, store: ManifestStore::default(), seen: BTreeMap::new(), has_links: false }
    }

    fn scan(&mut self, pending: &Pending) -> Batch {
        let mut found = Found::default();
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
        self.has_links = found.has_links;
        let gone: Vec<PathBuf> =
            self.seen.keys().filter(|path| !found.files.contains_key(*path)).cloned().collect();
        for path in gone {
            self.forget(&path);
        }
        for (path, fingerprint) in found.files {
            self.read(path, fingerprint, pending);
        }
        self.store.settle()
    }

    /// As [`Self::scan`], at the cost of the files that the events name. `None` where they may mean
    /// more than these: folders, links, anything hidden but a file by itself.
    fn scan_changed(&mut self, pending: &Pending) -> Option<Batch> {
        if self.has_links || fs::metadata(&self.root).is_err() {
            return None;
        }
        let mut found = Vec::new();
        for path in &pending.changed {
            let inside = path.strip_prefix(&self.root).ok()?;
            let depth = inside.components().count();
            let mut folders = inside.components().rev().skip(1);
            let is_plain = (1..=DEPTH_MAX).contains(&depth)
                && folders.all(|it| !it.as_os_str().as_encoded_bytes().starts_with(b"."));
            // What lies below it is next in order: then it was a folder.
            let mut next = self.seen.range::<Path, _>((Bound::Excluded(&**path), Bound::Unbounded));
            let was_folder = next.next().is_some_and(|(next, _)| next.starts_with(path));
            if !is_plain || was_folder {
                return None;
            }
            let fingerprint = match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_file() => Some(Fingerprint::of(&metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                _ => return None,
            };
            if is_manifest(path) {
                found.push((path.clone(), fingerprint));
            }
        }
        for (path, fingerprint) in found {
            match fingerprint {
                Some(fingerprint) => self.read(path, fingerprint, pending),
                None => self.forget(&path),
            }
        }
        Some(self.store.settle())
    }

    fn forget(&mut self, path: &Path) {
        if self.seen.remove(path).is_some() {
            self.store.remove_file(path);
        }
    }

    fn read(&mut self, path: PathBuf, fingerprint: Fingerprint, pending: &Pending) {
        let is_same =
            self.seen.get(&path) == Some(&fingerprint) && !pending.changed.contains(&path);
        if is_same || pending.held.contains_key(&path) {
            return;
        }
        let text = read_text(&path, fingerprint.bytes);
        self.store.put_file(&path, text.as_deref().map_err(Clone::clone));
        self.seen.insert(path, fingerprint);
    }
}

impl Fingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), bytes: metadata.size(), modified }
    }
}

/// What is in a directory.
#[derive(Debug, Default)]
struct Found {
    files: BTreeMap<PathBuf, Fingerprint>,
    has_links: bool,
}

/// Lists `*.yaml`, `*.yml` and `*.json` below `folder`. Hidden entries are left out: editors'
/// files, and the `..data` folders of mounted ConfigMaps, whose files are linked beside them.
fn list_manifests(folder: &Path, depth: usize, found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if is_hidden(&path) {
            continue;
        }
        // A link to nothing, or a file removed just now, is no file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        found.has_links |= entry.file_type().is_ok_and(|it| it.is_symlink());
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
            found.files.insert(path, Fingerprint::of(&metadata));
        }
    }
    Ok(())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|it| it.to_str());
    matches!(extension, Some("yaml" | "yml" | "json")) && !is_hidden(path)
}

fn read_text(path: &Path, bytes: u64) -> Result<String, String> {
    if bytes > FILE_BYTES_MAX as u64 {
        return Err(format!("{bytes} bytes are more than {FILE_BYTES_MAX}: split the file"));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot read: {error}"))
}
