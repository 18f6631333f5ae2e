//! A device without a kernel: packets come from a queue or from a fixed list, and go to a queue or
//! nowhere. For tests, fuzzing, simulation and benches.
//!
//! - [`MemoryDevice::linked`]: the other side is a [`MemoryLink`], which puts packets in and takes
//!   out what was sent. Bounded; what does not fit is counted.
//! - [`MemoryDevice::looping`]: the same packets come again and again, and what is sent goes
//!   straight back to the pool. Nothing is allocated after construction.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_tables::PortId;

use super::queue::SendQueue;
use super::{Device, DeviceCounters, Ports, RxMeta};
use crate::batch::Batch;
use crate::memory::{Frame, Pool};

/// A packet outside packet memory: where it came from or goes to, and its bytes.
pub type Packet = (PortId, Vec<u8>);

/// A device made of memory.
pub struct MemoryDevice {
    ports: Ports,
    meta: RxMeta,
    wire: Wire,
    /// Accepted by `send`, until the flush.
    sent: SendQueue,
    counters: DeviceCounters,
}

/// The far side of a [`MemoryDevice`]. Clones are the same link.
#[derive(Clone, Debug)]
pub struct MemoryLink(Arc<Mutex<Queues>>);

enum Wire {
    Link(MemoryLink),
    Loop { packets: Vec<Packet>, next: usize, burst: usize },
}

#[derive(Debug)]
struct Queues {
    to_device: VecDeque<Packet>,
    from_device: VecDeque<Packet>,
    capacity: usize,
    refused: u64,
}

impl MemoryDevice {
    /// A device that delivers to `ports`, and the far side of its wire. Each queue holds `capacity`
    /// packets; received packets carry `meta`.
    pub fn linked(ports: Ports, meta: RxMeta, capacity: usize) -> (MemoryDevice, MemoryLink) {
        let link = MemoryLink(Arc::new(Mutex::new(Queues {
            to_device: VecDeque::with_capacity(capacity),
            from_device: VecDeque::with_capacity(capacity),
            capacity,
            refused: 0,
        })));
        (Self::new(ports, meta, capacity, Wire::Link(link.clone())), link)
    }

    /// A device that receives `packets` over and over, at most `burst` per call, and takes up to
    /// `capacity` packets per flush, which it forgets.
    ///
    /// # Panics
    /// If there are no packets.
    pub fn looping(
        ports: Ports,
        meta: RxMeta,
        packets: Vec<Packet>,
        burst: usize,
        capacity: usize,
    ) -> MemoryDevice {
        assert!(!packets.is_empty(), "a loop needs a packet");
        Self::new(ports, meta, capacity, Wire::Loop { packets, next: 0, burst })
    }

    fn new(ports: Ports, meta: RxMeta, capacity: usize, wire: Wire) -> MemoryDevice {
        let sent = SendQueue::new(capacity);
        MemoryDevice { ports, meta, wire, sent, counters: DeviceCounters::default() }
    }
}

impl Device for MemoryDevice {
    fn carries(&self, port: PortId) -> bool {
        self.ports.contains(port)
    }

    fn recv(&mut self, batch: &mut Batch, pool: &mut Pool) {
        let Self { wire, meta, counters, .. } = self;
        let mut arrivals = Arrivals { meta: *meta, counters, batch, pool };
        match wire {
            Wire::Link(link) => {
                let queue = &mut link.lock().to_device;
                while queue.front().is_some_and(|packet| arrivals.receive(packet)) {
                    queue.pop_front();
                }
            }
            Wire::Loop { packets, next, burst } => {
                for _ in 0..*burst {
                    if !arrivals.receive(&packets[*next]) {
                        break;
                    }
                    *next = if *next + 1 == packets.len() { 0 } else { *next + 1 };
                }
            }
        }
    }

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        if !self.carries(port) {
            return Err(frame);
        }
        let bytes = frame.len() as u64;
        self.sent.push(port, frame)?;
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += bytes;
        Ok(())
    }

    fn flush(&mut self, pool: &mut Pool) {
        let Self { wire, sent, counters, .. } = self;
        let mut link = match wire {
            Wire::Link(link) => Some(link.lock()),
            Wire::Loop { .. } => None,
        };
        for (port, frame) in sent.drain() {
            if let Some(queues) = &mut link {
                if queues.from_device.len() < queues.capacity {
                    queues.from_device.push_back((port, frame.bytes().to_vec()));
                } else {
                    counters.tx_failed += 1;
                }
            }
            pool.put(frame);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> DeviceCounters {
        self.counters
    }

    fn frames_held(&self) -> usize {
        self.sent.len()
    }
}

/// Where received packets go.
struct Arrivals<'a> {
    meta: RxMeta,
    counters: &'a mut DeviceCounters,
    batch: &'a mut Batch,
    pool: &'a mut Pool,
}

impl Arrivals<'_> {
    /// Copies a packet into a free frame. False where it has to wait, because the batch is full or
    /// the pool is empty.
    fn receive(&mut self, (port, bytes): &Packet) -> bool {
        if self.batch.room() == 0 {
            return false;
        }
        let Some(mut frame) = self.pool.take() else { return false };
        if frame.copy_from(bytes) {
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += bytes.len() as u64;
            self.batch.receive(*port, frame, self.meta);
        } else {
            self.counters.rx_invalid += 1;
            self.pool.put(frame);
        }
        true
    }
}

impl MemoryLink {
    /// Sends a packet to the device, as if it came in by `port`. False where the queue is full: the
    /// packet is gone and counted.
    pub fn inject(&self, port: PortId, bytes: &[u8]) -> bool {
        let mut queues = self.lock();
        if queues.to_device.len() == queues.capacity {
            queues.refused += 1;
            return false;
        }
        queues.to_device.push_back((port, bytes.to_vec()));
        true
    }

    /// Takes everything the device has sent so far, in order.
    pub fn take_sent(&self) -> Vec<Packet> {
        self.lock().from_device.drain(..).collect()
    }

    /// Packets injected that the device has not received.
    pub fn waiting(&self) -> usize {
        self.lock().to_device.len()
    }

    /// Packets that `inject` refused.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // The queues hold whole packets at any moment, also after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BURST;
    use crate::device::Checksum;
    use crate::memory::{Umem, pools};

    const POD: PortId = PortId(7);

    fn pool(frames: u32) -> Pool {
        pools(Umem::anonymous(frames, 2048).1, 1).remove(0)
    }

    fn any_port() -> Ports {
        Ports::Except(vec![PortId::UPLINK])
    }

    #[test]
    fn packets_go_through_and_frames_come_home() {
        let mut pool = pool(8);
        let meta = RxMeta { checksum: Checksum::MaybePartial };
        let (mut device, link) = MemoryDevice::linked(any_port(), meta, 16);
        for number in 0..12 {
            assert!(link.inject(PortId(number), &[number as u8; 60]));
        }
        let mut batch = Batch::new();
        let mut numbers = Vec::new();
        for _ in 0..2 {
            device.recv(&mut batch, &mut pool);
            for packet in batch.drain() {
                assert_eq!(packet.meta.checksum, Checksum::MaybePartial);
                numbers.push(packet.port.0);
                device.send(POD, packet.frame).expect("room for sixteen");
            }
            device.flush(&mut pool);
            assert!(pool.is_whole());
        }
        assert_eq!(numbers, (0..12).collect::<Vec<_>>(), "an empty pool makes packets wait");
        let sent = link.take_sent();
        assert_eq!(sent.len(), 12);
        assert_eq!(sent[11], (POD, vec![11; 60]));
        assert_eq!((device.counters().rx_bytes, device.counters().tx_bytes), (720, 720));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_counted() {
        let mut pool = pool(8);
        let (mut device, link) = MemoryDevice::linked(any_port(), RxMeta::default(), 2);
        assert!(link.inject(POD, &[0; 60]) && link.inject(POD, &[0; 4000]));
        assert!(!link.inject(POD, &[0; 60]));
        assert_eq!((link.refused(), link.waiting()), (1, 2));
        let mut batch = Batch::new();
        device.recv(&mut batch, &mut pool);
        assert_eq!((batch.len(), device.counters().rx_invalid), (1, 1));

        let first = batch.drain().next().expect("one packet").frame;
        let frame = device.send(PortId::UPLINK, first).expect_err("not carried");
        device.send(POD, frame).expect("room");
        device.send(POD, pool.take().expect("a frame")).expect("room");
        let third = device.send(POD, pool.take().expect("a frame")).expect_err("full");
        pool.put(third);
        assert_eq!(device.frames_held(), 2);
        device.flush(&mut pool);
        device.send(POD, pool.take().expect("a frame")).expect("room");
        device.flush(&mut pool);
        assert_eq!(device.counters().tx_failed, 1, "nobody took the first two");
        assert!(pool.is_whole());
    }

    #[test]
    fn a_loop_repeats_its_packets_in_bursts() {
        let mut pool = pool(100);
        let packets = (0..3).map(|number| (PortId(number), vec![number as u8; 64])).collect();
        let mut device =
            MemoryDevice::looping(any_port(), RxMeta::default(), packets, BURST, BURST);
        let mut batch = Batch::new();
        for turn in 0..10 {
            device.recv(&mut batch, &mut pool);
            assert_eq!(batch.len(), BURST);
            for (place, packet) in batch.drain().enumerate() {
                assert_eq!(packet.port.0 as usize, (turn * BURST + place) % 3);
                device.send(POD, packet.frame).expect("a burst fits");
            }
            device.flush(&mut pool);
            assert!(pool.is_whole());
        }
        assert_eq!(device.counters().tx_packets, 640);
    }
}
