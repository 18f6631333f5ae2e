//! The last accepted state on disk: a base with everything, and a journal of the updates since.
//!
//! ```text
//! state.pb           header, one record: an `Update` with all objects
//! state.pb.journal   header, one record per accepted `Update`, appended before its verdict
//! ```
//!
//! A header is a magic, the layout's version and the generation; a record is a length and the
//! bytes of the wire form of the protocol; both carry a CRC-32. A change costs as much as it is
//! large, however large the state is. When the journal has outgrown the base, a new base takes its
//! place: written beside it and renamed, with the next generation, so that a journal of the one
//! before counts no more. What a killed process has torn off at the journal's end was never
//! acknowledged; it is cut off.
//!
//! Nothing is synced: the files must outlive this process, and after a crash of the whole machine
//! every pod is attached anew anyway, and the agent sends all. A base that cannot be read is left
//! where it is and reported; the process then starts empty and waits for an agent.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use weir_api::v1::{self, Update};
use weir_tables::ObjectRef;

use super::convert;

/// Changes whenever the meaning of the files does.
const LAYOUT_VERSION: u32 = 1;
const BASE: [u8; 8] = *b"weirbase";
const JOURNAL: [u8; 8] = *b"weirjrnl";
/// Magic, layout, generation, and the checksum of these.
const HEADER_BYTES: usize = 24;
/// Length and checksum.
const RECORD_HEAD_BYTES: usize = 8;
/// A journal of this size is never worth a new base.
const JOURNAL_BYTES_MIN: u64 = 1 << 20;

/// What went wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a saved state ({reason}): starting without it; the agent will send all")]
    Damaged { path: PathBuf, reason: &'static str },
}

/// Where the accepted state is saved.
pub struct StateFile {
    path: PathBuf,
    generation: u64,
    base_bytes: u64,
    /// `None` where changes cannot be appended: a new base must be written first.
    journal: Option<Journal>,
}

struct Journal {
    file: File,
    bytes: u64,
}

impl StateFile {
    /// Files at `path` and beside it, whatever they hold now: changes are saved from a first
    /// [`Self::replace`] on.
    pub fn new(path: PathBuf) -> StateFile {
        StateFile { path, generation: 0, base_bytes: 0, journal: None }
    }

    /// Reads the saved state, as one update; `None` where there is none yet.
    pub fn load(&mut self) -> Result<Option<Update>, StateFileError> {
        let journal = read(&self.journal_path()).unwrap_or_else(|error| {
            tracing::error!(%error, "the last changes are lost; the agent will send all");
            None
        });
        let journal = journal.unwrap_or_default();
        let journal_generation = read_header(JOURNAL, &journal);
        // A new base must outdo the journal that is there, also where the old base is unreadable.
        self.generation = journal_generation.unwrap_or(0);
        let Some(bytes) = read(&self.path)? else { return Ok(None) };
        let damaged = |reason| StateFileError::Damaged { path: self.path.clone(), reason };
        let generation =
            read_header(BASE, &bytes).ok_or_else(|| damaged("its header is not ours"))?;
        self.generation = self.generation.max(generation);
        let (base, end) =
            read_record(&bytes, HEADER_BYTES).ok_or_else(|| damaged("its content is damaged"))?;
        if end != bytes.len() {
            return Err(damaged("there is more than it should hold"));
        }
        self.base_bytes = bytes.len() as u64;
        let mut merged = Merged { revision: base.revision, ..Merged::default() };
        merged.apply(base);
        if journal_generation == Some(generation) {
            let end = replay(&journal, &mut merged);
            if end < journal.len() {
                let (path, cut) = (self.journal_path(), journal.len() - end);
                tracing::warn!(path = %path.display(), cut, "the journal's end is torn: cut off");
            }
            match self.continue_journal(end as u64) {
                Ok(journal) => self.journal = Some(journal),
                Err(error) => tracing::warn!(%error, "the journal ends: a new base follows"),
            }
        }
        Ok(Some(merged.into_update()))
    }

    /// Opens the journal to append after `end`, and cuts off what is behind.
    fn continue_journal(&self, end: u64) -> io::Result<Journal> {
        let mut file = OpenOptions::new().write(true).open(self.journal_path())?;
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Journal { file, bytes: end })
    }

    /// Whether changes can be appended; else [`Self::replace`] must come first.
    pub fn is_open(&self) -> bool {
        self.journal.is_some()
    }

    /// Whether the journal has become so long that a new base is due.
    pub fn is_long(&self) -> bool {
        let limit = self.base_bytes.max(JOURNAL_BYTES_MIN);
        self.journal.as_ref().is_none_or(|journal| journal.bytes > limit)
    }

    /// Appends a change. After an error nothing can be appended until the state is replaced.
    pub fn append(&mut self, change: &Update) -> Result<(), StateFileError> {
        let path = self.journal_path();
        let failed = |source| StateFileError::Io { path: path.clone(), source };
        let closed = || failed(io::ErrorKind::NotConnected.into());
        // Taken out: behind half a record nothing would be found.
        let mut journal = self.journal.take().ok_or_else(closed)?;
        let mut record = vec![0; RECORD_HEAD_BYTES];
        encode(change, &mut record);
        seal(&mut record, 0).and_then(|()| journal.file.write_all(&record)).map_err(failed)?;
        journal.bytes += record.len() as u64;
        self.journal = Some(journal);
        Ok(())
    }

    /// Makes `objects` the saved state, with an empty journal. The cost follows the state's size.
    pub fn replace<'a>(
        &mut self,
        revision: u64,
        objects: impl Iterator<Item = &'a v1::Object>,
    ) -> Result<(), StateFileError> {
        self.journal = None;
        self.generation += 1;
        let mut bytes = header(BASE, self.generation).to_vec();
        bytes.extend([0; RECORD_HEAD_BYTES]);
        encode(&Update { revision, resync: true, ..Update::default() }, &mut bytes);
        for object in objects {
            // Messages that follow each other are read as one: no second copy of the whole state.
            let update = Update { upserts: vec![object.clone()], ..Update::default() };
            encode(&update, &mut bytes);
        }
        let mut write = || {
            seal(&mut bytes, HEADER_BYTES)?;
            std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
            let beside = self.beside(".new");
            std::fs::write(&beside, &bytes)?;
            std::fs::rename(&beside, &self.path)?;
            let mut file = File::create(self.journal_path())?;
            file.write_all(&header(JOURNAL, self.generation))?;
            Ok(Journal { file, bytes: HEADER_BYTES as u64 })
        };
        let journal = write();
        let failed = |source| StateFileError::Io { path: self.path.clone(), source };
        self.journal = Some(journal.map_err(failed)?);
        self.base_bytes = bytes.len() as u64;
        Ok(())
    }

    fn journal_path(&self) -> PathBuf {
        self.beside(".journal")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }
}

/// A state as it is put together from the base and the journal.
#[derive(Default)]
struct Merged {
    revision: u64,
    objects: BTreeMap<ObjectRef, v1::Object>,
}

impl Merged {
    fn apply(&mut self, update: Update) {
        self.revision = update.revision;
        for name in update.deletes.iter().filter_map(|name| convert::reference(name).ok()) {
            self.objects.remove(&name);
        }
        for object in update.upserts {
            let name = object.reference().and_then(|name| convert::reference(&name).ok());
            // What has no name was never accepted.
            if let Some(name) = name {
                self.objects.insert(name, object);
            }
        }
    }

    fn into_update(self) -> Update {
        let upserts = self.objects.into_values().collect();
        Update { revision: self.revision, resync: true, upserts, deletes: Vec::new() }
    }
}

/// Applies a journal's whole records; where they end.
fn replay(journal: &[u8], merged: &mut Merged) -> usize {
    let mut end = HEADER_BYTES;
    while let Some((update, next)) = read_record(journal, end) {
        merged.apply(update);
        end = next;
    }
    end
}

/// The whole file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StateFileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateFileError::Io { path: path.into(), source }),
    }
}

fn header(magic: [u8; 8], generation: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&LAYOUT_VERSION.to_le_bytes());
    bytes[12..20].copy_from_slice(&generation.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The generation of a file with a whole header of this layout.
fn read_header(magic: [u8; 8], bytes: &[u8]) -> Option<u64> {
    let found = bytes.first_chunk::<HEADER_BYTES>()?;
    let generation = u64::from_le_bytes(*found[12..].first_chunk()?);
    (*found == header(magic, generation)).then_some(generation)
}

fn encode(update: &Update, bytes: &mut Vec<u8>) {
    update.encode(bytes).expect("a vector grows");
}

/// Fills in the head of the record that begins at `at` and ends with `bytes`.
fn seal(bytes: &mut [u8], at: usize) -> io::Result<()> {
    let (head, content) = bytes[at..].split_at_mut(RECORD_HEAD_BYTES);
    let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&checksum(length, content).to_le_bytes());
    Ok(())
}

/// The update of the record at `at`, and where the next one begins; `None` where none is whole.
fn read_record(bytes: &[u8], at: usize) -> Option<(Update, usize)> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<RECORD_HEAD_BYTES>()?;
    let [a, b, c, d, e, f, g, h] = *head;
    let length = u32::from_le_bytes([a, b, c, d]);
    let content = rest.get(..length as usize)?;
    if checksum(length, content) != u32::from_le_bytes([e, f, g, h]) {
        return None;
    }
    Some((Update::decode(content).ok()?, at + RECORD_HEAD_BYTES + content.len()))
}

/// Of the length as well: eight zero bytes are no record.
fn checksum(length: u32, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
