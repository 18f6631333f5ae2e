//! AF_XDP: sockets that share packet memory with the kernel. The only module that names `xsk-rs`.
//!
//! - [`Region`] is packet memory registered with the kernel, shared by all sockets of a process.
//! - [`XskDevice`] is one socket, on one queue of one interface: four rings and a [`Framing`].
//!
//! A chunk is always in exactly one place: a `Frame` (in a pool, a batch, another ring of ours), or
//! lent to the kernel by one device, which remembers it in a bitmap until it comes back:
//!
//! ```text
//! pool ─refill─► FILL ─► kernel ─► RX ─► recv ─► batch
//! batch ─► send ─► TX ─kick─► kernel ─► COMPLETION ─reap─► pool
//! ```
//!
//! Sockets are bound in copy mode, and programs are attached elsewhere: a device only lends out its
//! descriptor for the `XSKMAP`. Facts about the kernel: `Documentation/networking/af_xdp.rst`.

mod device;
mod framing;
mod lent;
mod socket;
mod umem;

use std::io;

pub use device::XskDevice;
pub use framing::Framing;
pub use socket::{XskConfig, XskStatistics};
pub use umem::{Region, RegionConfig};

/// Why packet memory or a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// A number that the kernel would refuse.
    #[error("AF_XDP {what}: {value} is not {expected}")]
    Config { what: &'static str, value: u32, expected: &'static str },
    /// Packet memory was not granted.
    #[error("packet memory of {chunks} chunks of {chunk_size} bytes: {source}: {advice}")]
    Memory { chunks: u32, chunk_size: u32, source: io::Error, advice: &'static str },
    /// A socket was not granted.
    #[error("AF_XDP socket on {interface} queue {queue}: {source}: {advice}")]
    Socket { interface: String, queue: u32, source: io::Error, advice: &'static str },
    /// The device whose socket registered the memory is gone, so no other can join it.
    #[error(
        "AF_XDP socket on {interface} queue {queue}: the first device of this packet memory was \
         shut down: make a new region"
    )]
    RegionEnded { interface: String, queue: u32 },
}

impl XskError {
    /// Whether the interface has no such queue (`xp_assign_dev` in the kernel: EINVAL).
    pub fn is_no_such_queue(&self) -> bool {
        let einval = Some(rustix::io::Errno::INVAL.raw_os_error());
        matches!(self, XskError::Socket { source, .. } if source.raw_os_error() == einval)
    }
}
