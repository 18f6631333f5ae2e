//! Devices: rings and memory that move frames, and nothing else.
//!
//! A [`Device`] carries one or many *ports*. A port is where a packet came from or goes to: a NIC's
//! uplink, or one of the pods behind a trunk. How a port is told apart on the wire (the trunk's
//! header, see `weir_xdp_redirect`) stays inside the device; the pipeline never sees it.
//!
//! | device | what it is | used by |
//! |---|---|---|
//! | [`memory::MemoryDevice`] | packets from a queue or a list | tests, fuzzing, simulation |
//! | [`pcap::PcapDevice`] | one capture in, another out | replay, regressions |
//! | [`faulty::Faulty`] | wraps a device: loss, doubling, reordering, corruption | robustness |
//! | [`xsk::XskDevice`] | an AF_XDP socket on a NIC queue or a trunk | production |
//!
//! The worker calls, in each turn: `recv` on each device, `send` for each packet that leaves, and
//! one `flush` per device. None of them blocks or allocates.

use std::os::fd::BorrowedFd;

use weir_tables::PortId;

use crate::batch::Batch;
pub use crate::batch::{Checksum, RxMeta};
use crate::memory::{Frame, Pool};

pub mod faulty;
pub mod memory;
pub mod pcap;
mod queue;
pub mod xsk;

/// Which ports a device can deliver to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// These: an uplink.
    Only(Vec<PortId>),
    /// All but these: a trunk reaches every port that is no uplink.
    Except(Vec<PortId>),
}

impl Ports {
    /// Whether `port` is one of them.
    #[inline]
    pub fn contains(&self, port: PortId) -> bool {
        match self {
            Ports::Only(ports) => ports.contains(&port),
            Ports::Except(ports) => !ports.contains(&port),
        }
    }
}

/// Counters of one device; they only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Packets handed to the worker.
    pub rx_packets: u64,
    /// Bytes of those packets.
    pub rx_bytes: u64,
    /// Packets that `send` accepted; of these, `tx_failed` went nowhere.
    pub tx_packets: u64,
    /// Bytes of those packets.
    pub tx_bytes: u64,
    /// Received, but not a packet for the worker: chained descriptors, no trunk header.
    pub rx_invalid: u64,
    /// Accepted by `send`, then refused by the wire.
    pub tx_failed: u64,
}

/// Moves frames. One worker owns a device.
pub trait Device {
    /// Whether this device can deliver to `port`.
    fn carries(&self, port: PortId) -> bool;

    /// Moves received packets into `batch` until it is full or nothing waits.
    fn recv(&mut self, batch: &mut Batch, pool: &mut Pool);

    /// Queues a packet for `port`. A full device gives the frame back, and so does one that cannot
    /// send it: a port it does not carry, less than an Ethernet header, memory of another region.
    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame>;

    /// Publishes what `send` queued, wakes the wire, brings finished frames home to `pool`, and
    /// lends free frames to the receiving side.
    fn flush(&mut self, pool: &mut Pool);

    /// What a sleeping worker polls for input; `None` for a device without a kernel. Only to poll:
    /// a duplicate would keep a socket alive after its device.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Totals since start.
    fn counters(&self) -> DeviceCounters;

    /// Packets queued by `send` that the wire has not finished with, and frames lent for receiving.
    fn frames_held(&self) -> usize;
}
