//! Packet memory: one region of fixed-size chunks, and the two ways to hold a chunk.
//!
//! - [`Umem`] is the region. It is mapped once and never unmapped, so a frame needs no lifetime.
//! - [`Frame`] is the *sole owner* of one chunk. It is neither `Clone` nor `Copy`, and dropping one
//!   is a bug (a debug build panics): a frame ends in a [`Pool`] or in a device's ring.
//! - [`Pool`] holds a worker's free frames, and sends frames that belong to another worker home.
//!
//! The kernel's half of a frame's life (FILL, RX, TX, COMPLETION) is in `device::xsk`, which turns
//! a frame into its chunk index and back.

mod pool;
mod umem;

pub use pool::{Pool, pools};
pub use umem::{Frame, Umem};

/// Bytes of a chunk. An AF_XDP chunk is a power of two between 2048 and the page size
/// (kernel `Documentation/networking/af_xdp.rst`, UMEM).
pub const CHUNK_SIZE_DEFAULT: u32 = 2048;

/// Bytes that the kernel keeps in front of received data (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: u16 = 256;
