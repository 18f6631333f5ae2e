//! One end of the wire: an AF_XDP socket with its own packet memory, and, where it receives, the
//! steering program on its interface.
//!
//! Only UDP to given addresses and ports is steered into the socket (and, because they could belong
//! to it, fragments and ICMP errors to these addresses); ARP, ND and everything else stay with the
//! kernel, so the interface goes on working.

use std::fs;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use weir_dataplane::attach::{Heartbeats, Interface, Programs, remove_all};
use weir_dataplane::batch::Batch;
use weir_dataplane::device::xsk::{Region, RegionConfig, XskConfig, XskDevice};
use weir_dataplane::device::{Checksum, Device, DeviceCounters};
use weir_dataplane::memory::{Frame, HEADROOM, Pool, pools};
use weir_tables::PortId;
use weir_xdp_redirect::{AddressClass, Settings, uplink_slot_base};

use crate::account::Counters;
use crate::clock::now_ns;
use crate::link::Link;

const CHUNKS: u32 = 16_384;
const CHUNK_SIZES: [u32; 2] = [2048, 4096];
const RING: u32 = 4096;

const PINS: &str = "/sys/fs/bpf";
const PINS_PREFIX: &str = "weir_pktgen_";

/// The longest frame that fits a chunk.
pub const FRAME_MAX: usize = CHUNK_SIZES[1] as usize - HEADROOM as usize;

/// UDP that is steered into a socket.
#[derive(Clone, Debug)]
pub struct Steered {
    /// Destination addresses.
    pub addresses: Vec<IpAddr>,
    /// Destination ports, both ends included.
    pub ports: (u16, u16),
}

/// A socket and everything that belongs to it.
pub struct Wire {
    device: XskDevice,
    pool: Pool,
    port: PortId,
    label: String,
    /// Removed when the wire is dropped.
    _pins: Option<Pins>,
}

impl Wire {
    /// Opens a socket on a queue of an interface in the calling thread's network namespace. It
    /// receives what is `steered`. `label` names it in messages.
    ///
    /// # Errors
    /// If the kernel refuses the socket or the program; the message says what to do.
    pub fn open(
        link: &Link,
        queue: u32,
        size: usize,
        steered: Option<&Steered>,
        label: String,
    ) -> Result<Wire> {
        let chunk_size =
            CHUNK_SIZES[usize::from(size > CHUNK_SIZES[0] as usize - HEADROOM as usize)];
        let (region, frames) =
            Region::new(RegionConfig { chunks: CHUNKS, chunk_size, ring: RING })?;
        let port = PortId(link.ifindex);
        let config = XskConfig {
            ring: RING,
            fill: if steered.is_some() { RING } else { 0 },
            ..XskConfig::uplink(&link.name, queue, port, Checksum::MaybePartial)
        };
        let device = XskDevice::new(region, config)?;
        let mut wire = Wire { device, pool: pools(frames, 1).remove(0), port, label, _pins: None };
        // Lends frames for receiving before the first packet can come.
        wire.flush();
        if let Some(steered) = steered {
            wire._pins = Some(Pins::attach(link, queue, steered, &wire.device)?);
        }
        Ok(wire)
    }

    /// Sends a packet that `write` makes; false if there is no room now.
    #[inline]
    pub fn send(&mut self, template: &[u8], write: impl FnOnce(&mut [u8])) -> bool {
        let Some(mut frame) = self.pool.take() else { return false };
        if !frame.copy_from(template) {
            self.pool.put(frame);
            return false;
        }
        write(frame.bytes_mut());
        self.send_frame(frame)
    }

    /// Sends a frame; false, and the frame goes home, if there is no room now.
    pub fn send_frame(&mut self, frame: Frame) -> bool {
        match self.device.send(self.port, frame) {
            Ok(()) => true,
            Err(frame) => {
                self.pool.put(frame);
                false
            }
        }
    }

    /// Has the kernel send, takes finished frames back and lends free ones.
    pub fn flush(&mut self) {
        self.device.flush(&mut self.pool);
    }

    /// Receives into `batch`.
    pub fn receive(&mut self, batch: &mut Batch) {
        self.device.recv(batch, &mut self.pool);
    }

    /// Ends a received frame.
    pub fn recycle(&mut self, frame: Frame) {
        self.pool.put(frame);
    }

    /// What to poll for input.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.device.wait_fd().expect("an AF_XDP device is a socket")
    }

    /// Packets and bytes so far.
    pub fn counters(&self) -> DeviceCounters {
        self.device.counters()
    }

    /// Packets that left: accepted, and not refused by the wire.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn sent(&self) -> Result<u64> {
        let DeviceCounters { tx_packets, tx_failed, .. } = self.device.counters();
        Ok(tx_packets.saturating_sub(tx_failed + self.device.statistics()?.tx_invalid_descs))
    }

    /// Whether nothing that was sent is still on its way to the wire.
    pub fn is_idle(&self, lent_for_receiving: usize) -> bool {
        self.device.frames_held() <= lent_for_receiving
    }

    /// Frames lent for receiving when all of them are.
    pub fn lent_for_receiving(&self) -> usize {
        if self._pins.is_some() { RING as usize } else { 0 }
    }

    /// The six counters of the kernel (`XDP_STATISTICS`), and our own two.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn statistics(&self) -> Result<Counters> {
        let kernel = self.device.statistics().with_context(|| self.label.clone())?;
        let own = self.device.counters();
        let values = [
            ("rx_dropped", kernel.rx_dropped),
            ("rx_invalid_descs", kernel.rx_invalid_descs),
            ("tx_invalid_descs", kernel.tx_invalid_descs),
            ("rx_ring_full", kernel.rx_ring_full),
            ("rx_fill_ring_empty_descs", kernel.rx_fill_ring_empty_descs),
            ("tx_ring_empty_descs", kernel.tx_ring_empty_descs),
            ("rx_invalid", own.rx_invalid),
            ("tx_failed", own.tx_failed),
        ];
        Ok(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Of the statistics, those that each stand for a received packet lost. A packet that finds no
    /// free frame counts as `rx_dropped` too, so an empty FILL ring is not one of them.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn losses(&self) -> Result<Counters> {
        let is_loss = |name: &str| matches!(name, "rx_dropped" | "rx_ring_full" | "rx_invalid");
        let statistics = self.statistics()?.into_iter();
        let losses = statistics.filter(|(name, _)| is_loss(name));
        Ok(losses.map(|(name, value)| (format!("{} AF_XDP {name}", self.label), value)).collect())
    }

    /// Closes the socket and detaches the program.
    pub fn close(mut self) {
        self._pins = None;
        self.device.shutdown(&mut self.pool);
    }
}

/// The program on an interface, and the directory that keeps it there.
struct Pins(PathBuf);

impl Pins {
    fn attach(link: &Link, queue: u32, steered: &Steered, device: &XskDevice) -> Result<Pins> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_stale();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pins = Pins(Path::new(PINS).join(format!("{PINS_PREFIX}{}_{number}", process::id())));
        let programs = Programs::open(&pins.0)?;
        let mut maps = programs.maps()?;
        maps.set_settings(Settings {
            // The socket lives as long as this process, and without it packets pass.
            heartbeat_timeout_ns: u64::MAX,
            snat_port_min: steered.ports.0,
            snat_port_max: steered.ports.1,
            ..Settings::DEFAULT
        })?;
        for address in &steered.addresses {
            maps.set_address(*address, AddressClass::NODE)?;
        }
        let slot = uplink_slot_base(0).expect("there is a first uplink") + queue;
        maps.set_xsk(slot, device.wait_fd().expect("an AF_XDP device is a socket"))?;
        Heartbeats::open(&pins.0)?.stamp(slot, now_ns())?;
        programs.attach_uplink(&Interface::by_name(&link.name)?, 0)?;
        Ok(pins)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.0) {
            eprintln!("weir-pktgen: {error}");
        }
    }
}

/// Removes what killed processes left behind.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(PINS) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(PINS_PREFIX));
        let pid = rest.and_then(|rest| rest.split('_').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another generator may be removing it too.
            let _ = remove_all(&entry.path());
        }
    }
}
