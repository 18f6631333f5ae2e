//! Flow entries in a file on tmpfs, so that a restarted process keeps its connections.
//!
//! The file is a 4096-byte header and the entries of one worker. A header that does not match
//! (another layout, number of workers, capacity, or boot) means a fresh start: the entries are
//! zeroed.
#![allow(unsafe_code)] // Mapping a file is a promise about who else writes it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::table::Entries;
use super::{FlowEntry, FlowTable, Timeouts, huge};

/// Changes whenever the meaning of the file does.
const LAYOUT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"weirflow";
const HEADER_BYTES: usize = 4096;

/// Why a flow table's file cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("flow table {path}: {source}; the run directory should be on tmpfs with room for it")]
    File { path: PathBuf, source: io::Error },
}

/// First bytes of the file.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StoreHeader {
    magic: [u8; 8],
    layout: u32,
    workers: u32,
    worker: u32,
    capacity: u32,
    seed: u64,
    /// Boot id of the kernel: monotonic times mean nothing after a reboot.
    boot_id: [u8; 16],
}

/// What a table was opened with.
pub struct Adopted {
    pub table: FlowTable,
    /// Flow directions taken over from an earlier process.
    pub flows: u32,
    /// Why nothing was taken over; `None` if the file was adopted.
    pub fresh: Option<&'static str>,
}

/// Which table to open.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    pub worker: u32,
    pub workers: u32,
    /// Entries, one per direction of a flow.
    pub capacity: u32,
    /// Seed for a fresh table; an adopted one keeps its own.
    pub seed: u64,
    pub boot_id: [u8; 16],
    pub timeouts: Timeouts,
}

/// Opens the table of a worker in `dir`, adopting what fits. The mapping lives until the process
/// ends.
pub fn open(dir: &Path, options: &StoreOptions) -> Result<Adopted, StoreError> {
    let path = file_path(dir, options.worker);
    let fail = |source| StoreError::File { path: path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fail)?;
    let bytes = HEADER_BYTES + options.capacity as usize * size_of::<FlowEntry>();
    let fresh = judge(&file, bytes as u64, options).map_err(fail)?;
    if fresh.is_some() {
        // Cutting the file gives the pages back and reads as zeros afterwards.
        file.set_len(0).and_then(|()| file.set_len(bytes as u64)).map_err(fail)?;
    }
    // All of it now: were the disk full later, a write would end the process.
    let allocated = fallocate(&file, FallocateFlags::empty(), 0, bytes as u64);
    allocated.map_err(|error| fail(error.into()))?;
    // SAFETY: the run directory belongs to this dataplane alone (its lock file is held), one worker
    // writes, and other processes only `read` the file, which copies.
    let map = unsafe { huge::map_file(&file, bytes) }.map_err(fail)?;
    huge::collapse(map);
    let (head, entries) = map.split_at_mut(HEADER_BYTES);
    let mut header = read_header(head);
    if fresh.is_some() {
        header = StoreHeader::fresh(options);
        head[..size_of::<StoreHeader>()].copy_from_slice(header.as_bytes());
    }
    let entries = <[FlowEntry]>::mut_from_bytes(entries).expect("page-aligned and a multiple");
    let table = FlowTable::over(Entries::Mapped(entries), header.seed, options.timeouts);
    Ok(Adopted { flows: table.len(), table, fresh })
}

/// Reads the live entries of a worker's file, for people. Entries that change meanwhile may be
/// torn; they are only shown.
pub fn read_flows(dir: &Path, worker: u32, limit: usize) -> io::Result<Vec<FlowEntry>> {
    use std::os::unix::fs::FileExt;
    let file = File::open(file_path(dir, worker))?;
    let size = file.metadata()?.len();
    let mut flows = Vec::new();
    let mut at = HEADER_BYTES as u64;
    let mut chunk = vec![FlowEntry::new_zeroed(); 2048];
    while at < size && flows.len() < limit {
        let room = ((size - at) as usize).min(chunk.len() * size_of::<FlowEntry>());
        let read = file.read_at(&mut chunk.as_mut_bytes()[..room], at)?;
        let whole = read / size_of::<FlowEntry>();
        if whole == 0 {
            break;
        }
        flows.extend(chunk[..whole].iter().filter(|entry| entry.live == FlowEntry::LIVE));
        at += (whole * size_of::<FlowEntry>()) as u64;
    }
    flows.truncate(limit);
    Ok(flows)
}

/// Deletes the tables of all workers in `dir`.
pub fn remove_all(dir: &Path) -> Result<(), StoreError> {
    let fail = |path: &Path, source| StoreError::File { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| fail(dir, error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| fail(dir, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let worker = name.and_then(|name| name.strip_prefix("flows."));
        if worker.is_some_and(|worker| worker.parse::<u32>().is_ok()) {
            std::fs::remove_file(&path).map_err(|error| fail(&path, error))?;
        }
    }
    Ok(())
}

fn file_path(dir: &Path, worker: u32) -> PathBuf {
    dir.join(format!("flows.{worker}"))
}

/// Why the file cannot be adopted; `None` if it can.
fn judge(file: &File, bytes: u64, options: &StoreOptions) -> io::Result<Option<&'static str>> {
    use std::os::unix::fs::FileExt;
    let size = file.metadata()?.len();
    if size == 0 {
        return Ok(Some("no earlier table"));
    }
    if size != bytes {
        return Ok(Some("the capacity or layout changed"));
    }
    let mut head = [0; size_of::<StoreHeader>()];
    file.read_exact_at(&mut head, 0)?;
    let found = read_header(&head);
    let expected = StoreHeader { seed: found.seed, ..StoreHeader::fresh(options) };
    Ok(if found == expected {
        None
    } else if found.boot_id != expected.boot_id {
        Some("the machine was restarted")
    } else if found.workers != expected.workers {
        Some("the number of workers changed")
    } else {
        Some("another layout wrote it")
    })
}

fn read_header(head: &[u8]) -> StoreHeader {
    StoreHeader::read_from_prefix(head).expect("a whole header").0
}

impl StoreHeader {
    fn fresh(options: &StoreOptions) -> StoreHeader {
        StoreHeader {
            magic: MAGIC,
            layout: LAYOUT_VERSION,
            workers: options.workers,
            worker: options.worker,
            capacity: options.capacity,
            seed: options.seed,
            boot_id: options.boot_id,
        }
    }
}
