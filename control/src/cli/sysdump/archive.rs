//! The archive: a gzipped tar with a size limit, and a manifest of everything that is in it or
//! should be.

use std::io::{self, Read, Write};

use anyhow::Context;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use tar::{Builder, Header};

use super::collect::Collected;
use crate::clock::wall_time;

/// The manifest's name in the archive.
const MANIFEST: &str = "manifest.json";
/// Entries taken over from a node's archive: more than any has.
const FOREIGN_ENTRIES_MAX: usize = 10_000;

/// An archive that is being written.
pub(in super::super) struct Archive {
    tar: Builder<GzEncoder<Box<dyn Write>>>,
    time_s: u64,
    bytes_left: u64,
    entries: Vec<Entry>,
}

/// One item of the manifest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Entry {
    pub path: String,
    /// The command, or the file.
    pub source: String,
    pub took_ms: u64,
    pub bytes: u64,
    /// Cut off at a limit.
    pub truncated: bool,
    /// Why it is missing or not complete; empty where all is well.
    pub error: String,
    /// What else there is to say: "ip: not found, read from /proc and /sys".
    pub note: String,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    node: String,
    created: String,
    weir_version: String,
    items: Vec<Entry>,
}

impl Archive {
    /// An empty one that takes so many bytes of content.
    pub(in super::super) fn new(output: Box<dyn Write>, bytes_max: u64) -> Self {
        let time_s = wall_time().as_second();
        Self {
            tar: Builder::new(GzEncoder::new(output, Compression::default())),
            time_s: u64::try_from(time_s).unwrap_or(0),
            bytes_left: bytes_max,
            entries: Vec::new(),
        }
    }

    /// Adds an item. Where there is no room for all of it, its beginning.
    ///
    /// # Errors
    /// The archive itself cannot be written.
    pub(in super::super) fn add(&mut self, path: &str, mut item: Collected) -> anyhow::Result<()> {
        let room = usize::try_from(self.bytes_left).unwrap_or(usize::MAX);
        if item.content.len() > room {
            item.content.truncate(room);
            item.is_truncated = true;
            item.error.get_or_insert_with(|| "the archive's size limit (--limit-mb)".into());
        }
        if !item.content.is_empty() {
            self.append(path, &item.content)?;
        }
        self.entries.push(Entry {
            path: path.to_owned(),
            source: item.source,
            took_ms: item.took_ms,
            bytes: item.content.len() as u64,
            truncated: item.is_truncated,
            error: item.error.unwrap_or_default(),
            note: item.note,
        });
        Ok(())
    }

    fn append(&mut self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(self.time_s);
        self.bytes_left = self.bytes_left.saturating_sub(content.len() as u64);
        self.tar.append_data(&mut header, path, content).context("the archive cannot be written")
    }

    /// Takes over the files of another archive below `folder`, with its manifest's entries.
    ///
    /// # Errors
    /// This archive cannot be written. What is wrong with the other is noted.
    pub(in super::super) fn merge(&mut self, folder: &str, other: Collected) -> anyhow::Result<()> {
        let Collected { source, took_ms, content, .. } = &other;
        let mut entry = Entry {
            path: folder.to_owned(),
            source: source.clone(),
            took_ms: *took_ms,
            error: other.error.clone().unwrap_or_default(),
            ..Entry::default()
        };
        if let Err(error) = self.merge_files(folder, content, &mut entry)? {
            let told = if entry.error.is_empty() { "" } else { ": " };
            entry.error = format!("{}{told}not a whole archive: {error}", entry.error);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The inner error is the other archive's.
    fn merge_files(
        &mut self,
        folder: &str,
        content: &[u8],
        entry: &mut Entry,
    ) -> anyhow::Result<io::Result<()>> {
        if content.is_empty() {
            return Ok(Ok(()));
        }
        let mut tar = tar::Archive::new(GzDecoder::new(content));
        let files = match tar.entries() {
            Ok(files) => files,
            Err(error) => return Ok(Err(error)),
        };
        for file in files.take(FOREIGN_ENTRIES_MAX) {
            let (path, bytes) = match file.and_then(|it| read_file(it, self.bytes_left)) {
                Ok(read) => read,
                Err(error) => return Ok(Err(error)),
            };
            // Paths that lead elsewhere are nobody's.
            let is_plain = !path.starts_with('/') && !path.split('/').any(|it| it == "..");
            let has_room = (bytes.len() as u64) < self.bytes_left;
            if !is_plain || !has_room {
                entry.truncated = true;
                entry.error = format!("{path}: left out, for the size limit (--limit-mb)");
                continue;
            }
            if path == MANIFEST
                && let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes)
            {
                let inner = manifest.items.into_iter();
                self.entries
                    .extend(inner.map(|it| Entry { path: format!("{folder}/{}", it.path), ..it }));
            }
            self.append(&format!("{folder}/{path}"), &bytes)?;
        }
        Ok(Ok(()))
    }

    /// Writes the manifest and the end. Gives the manifest's entries.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub(in super::super) fn finish(mut self, node: &str) -> anyhow::Result<Vec<Entry>> {
        let manifest = Manifest {
            node: node.to_owned(),
            created: wall_time().to_string(),
            weir_version: env!("CARGO_PKG_VERSION").into(),
            items: std::mem::take(&mut self.entries),
        };
        self.append(MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
        let failed = "the archive cannot be written";
        let mut output = self.tar.into_inner().context(failed)?.finish().context(failed)?;
        output.flush().context(failed)?;
        Ok(manifest.items)
    }
}

fn read_file(file: tar::Entry<'_, impl Read>, bytes_max: u64) -> io::Result<(String, Vec<u8>)> {
    let path = file.path()?.to_string_lossy().into_owned();
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok((path, bytes))
}
