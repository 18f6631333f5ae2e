//! One socket: made, bound, tuned, asked for its statistics.
#![allow(unsafe_code)] // `xsk-rs` makes sockets by an unsafe call; one option has no safe wrapper.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::PoisonError;
use std::thread::sleep;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::net::{AddressFamily, SocketType};
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue};

use super::umem::{Anchor, Shared, cause, queue_size};
use super::{Framing, XskError};
use crate::device::Checksum;
use weir_tables::PortId;

/// A queue whose process was killed a moment ago is busy until the kernel has cleaned up behind it.
const BUSY_RETRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(30);

/// `XDP_MAX_TX_SKB_BUDGET` of linux/if_xdp.h: packets per kick, 32 where it is not set.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
const TX_BUDGET: u32 = 1024;

/// Bytes of packets on their way out before the kernel makes a kick wait.
const SEND_BUFFER: usize = 4 << 20;

/// One AF_XDP socket: where, how large, and what its frames look like.
#[derive(Clone, Debug)]
pub struct XskConfig {
    /// Name of the interface, in the network namespace of the calling thread.
    pub interface: String,
    /// Receive and transmit queue of it.
    pub queue: u32,
    /// Entries of the RX and of the TX ring, each a power of two.
    pub ring: u32,
    /// Frames lent for receiving, at most: no more than the region's FILL ring has entries, and
    /// less than a pool holds, so that one device cannot empty it.
    pub fill: u32,
    /// What its frames look like.
    pub framing: Framing,
}

impl XskConfig {
    /// The inner end of a worker's trunk. 4096 frames for receiving: with 256, bulk TCP of one pod
    /// loses packets by the thousand, because nothing pushes back on a pod.
    pub fn trunk(interface: &str, host: Option<PortId>, uplinks: Vec<PortId>) -> XskConfig {
        let framing = Framing::Trunk { host, uplinks };
        XskConfig { interface: interface.into(), queue: 0, ring: 4096, fill: 4096, framing }
    }

    /// A queue of an uplink.
    pub fn uplink(interface: &str, queue: u32, port: PortId, checksum: Checksum) -> XskConfig {
        let framing = Framing::Plain { port, checksum };
        XskConfig { interface: interface.into(), queue, ring: 2048, fill: 2048, framing }
    }
}

/// `XDP_STATISTICS` of a socket: the kernel's account of what it lost (linux/if_xdp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XskStatistics {
    /// Received packets dropped for other reasons than the ones below.
    pub rx_dropped: u64,
    /// FILL entries that were no valid chunk.
    pub rx_invalid_descs: u64,
    /// TX entries that were no valid packet.
    pub tx_invalid_descs: u64,
    /// Received packets dropped because RX was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Received packets dropped because FILL was empty: no frame was free.
    pub rx_fill_ring_empty_descs: u64,
    /// Times that TX had nothing to send.
    pub tx_ring_empty_descs: u64,
}

/// The rings of a bound socket.
pub(super) struct Rings {
    pub tx: TxQueue,
    pub rx: RxQueue,
    pub fill: FillQueue,
    pub completion: CompQueue,
}

impl Rings {
    /// Makes a socket on the region and binds it.
    pub fn bind(shared: &'static Shared, config: &XskConfig) -> Result<Rings, XskError> {
        let XskConfig { interface, queue, ring, fill, .. } = config;
        let ring = queue_size("RX and TX ring", *ring)?;
        if *fill > shared.ring {
            let expected = "within the FILL ring of the region";
            return Err(XskError::Config { what: "fill", value: *fill, expected });
        }
        let socket_config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let failed = |source: io::Error| XskError::Socket {
            interface: interface.clone(),
            queue: *queue,
            advice: advise_socket(&source),
            source,
        };
        let name: Interface =
            interface.parse().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;

        let mut anchor = shared.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*anchor, Anchor::Ended) {
            return Err(XskError::RegionEnded { interface: interface.clone(), queue: *queue });
        }
        let mut attempt = 0;
        let (tx, rx, rings) = loop {
            // SAFETY: libxdp loads no program (INHIBIT_PROG_LOAD), which is what it asks for.
            match unsafe { Socket::new(socket_config, &shared.xsk, &name, *queue) } {
                Ok(made) => break made,
                Err(error) => {
                    let source = cause(&error);
                    let busy = source.raw_os_error() == Some(libc::EBUSY);
                    if !busy || attempt == BUSY_RETRIES {
                        return Err(failed(source));
                    }
                    attempt += 1;
                    #[expect(clippy::disallowed_methods, reason = "start-up; nothing tells when")]
                    sleep(BUSY_PAUSE);
                }
            }
        };
        // The queue is bound by this region already: its rings belong to another device.
        let Some((fill, completion)) = rings else {
            return Err(failed(io::Error::from_raw_os_error(libc::EBUSY)));
        };
        let rings = Rings { tx, rx, fill, completion };
        rings.tune();
        if matches!(*anchor, Anchor::Free) {
            *anchor = Anchor::Used(rings.raw_fd());
        }
        Ok(rings)
    }

    pub fn raw_fd(&self) -> RawFd {
        self.tx.fd().as_raw_fd()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the rings keep the socket open, and the borrow keeps the rings.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }

    /// Closes the socket for good. Afterwards the kernel touches no chunk that went through it.
    ///
    /// # Errors
    /// If the socket could not be closed: its chunks are the kernel's until the process ends.
    pub fn close(self, shared: &'static Shared) -> io::Result<()> {
        let mut anchor = shared.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = self.raw_fd();
        // Unmaps the rings, and closes the socket unless it is the anchor.
        drop(self);
        match *anchor {
            Anchor::Used(used) if used == fd => {
                *anchor = Anchor::Ended;
                replace_anchor(fd)
            }
            _ => Ok(()),
        }
    }

    pub fn statistics(&self) -> io::Result<XskStatistics> {
        let counted = self.tx.fd().xdp_statistics()?;
        Ok(XskStatistics {
            rx_dropped: counted.rx_dropped(),
            rx_invalid_descs: counted.rx_invalid_descs(),
            tx_invalid_descs: counted.tx_invalid_descs(),
            rx_ring_full: counted.rx_ring_full(),
            rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs(),
            tx_ring_empty_descs: counted.tx_ring_empty_descs(),
        })
    }

    /// Lets one kick send more than the default 32 packets. Both options are improvements that the
    /// kernel may lack (6.12 has no budget) or refuse; without them a flush kicks more often.
    fn tune(&self) {
        let packets: u32 = TX_BUDGET;
        // SAFETY: the descriptor is open, and the value is a u32 of the length given.
        let budget = unsafe {
            libc::setsockopt(
                self.raw_fd(),
                libc::SOL_XDP,
                XDP_MAX_TX_SKB_BUDGET,
                (&raw const packets).cast(),
                size_of_val(&packets) as libc::socklen_t,
            )
        };
        if budget != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "no XDP_MAX_TX_SKB_BUDGET: 32 packets per kick");
        }
        if let Err(error) = set_socket_send_buffer_size_force(self.fd(), SEND_BUFFER) {
            tracing::debug!(%error, "send buffer stays at its default");
        }
    }
}

/// Puts a socket without queue or memory in place of the one that libxdp keeps open until the
/// region is unmapped, which is never. The kernel then releases the old one. libxdp needs the
/// number to be an AF_XDP socket all the same: it asks it where rings lie when it unmaps those of
/// other devices.
fn replace_anchor(fd: RawFd) -> io::Result<()> {
    let empty = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None)?;
    // SAFETY: both are open. libxdp uses the number for nothing else, because `Anchor::Ended` keeps
    // more sockets from joining the region.
    match unsafe { libc::dup3(empty.as_raw_fd(), fd, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn advise_socket(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "another process has this queue (another weir, or an AF_XDP program): end it first"
        }
        Some(libc::ENODEV | libc::ENXIO) => "no such interface in this network namespace",
        Some(libc::ENETDOWN) => "the interface is down: `ip link set up`",
        Some(libc::EINVAL) => "the interface has no such queue (see `ethtool -l`), or a ring size",
        Some(libc::EOPNOTSUPP) => "the driver has no AF_XDP: use another interface",
        Some(libc::EPERM) => "an AF_XDP socket needs CAP_NET_RAW in this network namespace",
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "not enough (locked) memory: grant CAP_IPC_LOCK, or use smaller rings"
        }
        _ => "the kernel refused the socket",
    }
}
