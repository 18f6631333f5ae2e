//! Packet memory that the kernel knows.
#![allow(unsafe_code)] // Turns a mapping that another crate owns into frames.

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::Mutex;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;

use super::XskError;
use crate::memory::{CHUNK_SIZE_DEFAULT, Frame, HEADROOM, Umem};

/// How much packet memory, and how large the rings that belong to it.
#[derive(Clone, Copy, Debug)]
pub struct RegionConfig {
    /// Number of chunks.
    pub chunks: u32,
    /// Bytes per chunk: a power of two from 2048 to 4096.
    pub chunk_size: u32,
    /// Entries of the FILL and of the COMPLETION ring of every device: a power of two. At least as
    /// many as the largest TX ring, else sending waits for completions.
    pub ring: u32,
}

impl RegionConfig {
    /// What one worker needs: 32 MiB, a ring that takes bursts of cut super-packets without loss.
    pub const DEFAULT: RegionConfig =
        RegionConfig { chunks: 16_384, chunk_size: CHUNK_SIZE_DEFAULT, ring: 4096 };
}

/// Packet memory of this process, shared by all its devices. It is never unmapped: frames have no
/// lifetime, and the kernel may write until the process ends.
#[derive(Clone, Copy)]
pub struct Region(&'static Shared);

/// What the devices of a region share.
pub(super) struct Shared {
    pub xsk: xsk_rs::Umem,
    pub umem: Umem,
    pub ring: u32,
    /// Per chunk: a descriptor that points at its standard headroom. `xsk-rs` hands out descriptors
    /// only once, so these are copied wherever a chunk goes into a ring.
    pub descs: Box<[FrameDesc]>,
    /// Held while a device is made or ended.
    pub anchor: Mutex<Anchor>,
}

/// The socket that registered the memory. It becomes the first device's, the others join it, and
/// `xsk-rs` keeps it open as long as the memory exists.
pub(super) enum Anchor {
    /// No device yet.
    Free,
    /// A device has it.
    Used(RawFd),
    /// That device was shut down.
    Ended,
}

impl Region {
    /// Maps packet memory, registers it with the kernel, and hands out its frames. Call it in the
    /// network namespace of the devices: the first one's socket is made here.
    ///
    /// # Errors
    /// If a number is out of range, or the kernel does not grant the memory.
    pub fn new(config: RegionConfig) -> Result<(Region, Vec<Frame>), XskError> {
        let RegionConfig { chunks, chunk_size, ring } = config;
        let expected = "a power of two from 2048 to 4096";
        if !chunk_size.is_power_of_two() || !(2048..=4096).contains(&chunk_size) {
            return Err(XskError::Config { what: "chunk size", value: chunk_size, expected });
        }
        let count = NonZeroU32::new(chunks).ok_or(XskError::Config {
            what: "number of chunks",
            value: chunks,
            expected: "at least 1",
        })?;
        let ring_size = queue_size("FILL and COMPLETION ring", ring)?;
        let frame_size = FrameSize::new(chunk_size).expect("checked above");
        let umem_config = UmemConfig::builder()
            .frame_size(frame_size)
            .fill_queue_size(ring_size)
            .comp_queue_size(ring_size)
            .build()
            .expect("a power of two with room behind the headroom");
        let (xsk, descs) = xsk_rs::Umem::new(umem_config, count, false).map_err(|error| {
            let source = cause(&error);
            XskError::Memory { chunks, chunk_size, advice: advise_memory(&source), source }
        })?;
        let base = find_base(&xsk, &descs);
        // SAFETY: `xsk-rs` has mapped and zeroed this many bytes; they stay mapped because `xsk` is
        // leaked below; it hands out no other access, and only this module passes chunks on.
        let (umem, frames) = unsafe { Umem::from_raw(base, chunks, chunk_size) };
        let descs = descs.into_boxed_slice();
        let anchor = Mutex::new(Anchor::Free);
        let shared = Box::leak(Box::new(Shared { xsk, umem, ring, descs, anchor }));
        Ok((Region(shared), frames))
    }

    pub(super) fn shared(self) -> &'static Shared {
        self.0
    }
}

/// Where the mapping starts: its first chunk's packet is one headroom into it.
fn find_base(xsk: &xsk_rs::Umem, descs: &[FrameDesc]) -> NonNull<u8> {
    // SAFETY: the descriptor is of this region, and nobody else has any of it yet.
    let first = unsafe { xsk.data(&descs[0]) };
    let address = first.contents().as_ptr().addr() - usize::from(HEADROOM);
    // `xsk-rs` passed the mapping to the kernel, so its address is exposed.
    NonNull::new(with_exposed_provenance_mut(address)).expect("a mapping is not at address 0")
}

/// A ring size in `xsk-rs`'s terms.
pub(super) fn queue_size(what: &'static str, value: u32) -> Result<QueueSize, XskError> {
    let expected = "a power of two";
    QueueSize::new(value).map_err(|_| XskError::Config { what, value, expected })
}

/// The system error behind an error of `xsk-rs`.
pub(super) fn cause(error: &dyn Error) -> io::Error {
    let inner = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

fn advise_memory(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => {
            "it counts as locked memory: grant CAP_IPC_LOCK, or raise `ulimit -l`"
        }
        Some(libc::ENOMEM) => "not enough memory: ask for fewer chunks",
        Some(libc::EPERM) => "an AF_XDP socket needs CAP_NET_RAW",
        Some(libc::EAFNOSUPPORT) => "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "the kernel refused to register packet memory",
    }
}
