//! Wraps any device and makes its wire bad: packets are lost, doubled, reordered and corrupted, as
//! a seed decides. The same seed and the same calls give the same history.
//!
//! No frame is ever lost: a lost *packet's* frame goes to the pool, a doubled one takes a free
//! frame, and a held one is released after at most [`Faults::hold_max`] later packets or flushes.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weir_tables::PortId;

use super::queue::SendQueue;
use super::{Device, DeviceCounters, RxMeta};
use crate::batch::{BURST, Batch};
use crate::memory::{Frame, Pool};

/// Packets that wait for a flush at most, in the sending direction.
const PENDING_MAX: usize = 1024;

/// How bad one direction is. Probabilities are per packet, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The packet vanishes.
    pub loss: f64,
    /// It comes twice.
    pub duplicate: f64,
    /// It is held back while others overtake it.
    pub reorder: f64,
    /// Its bytes are changed: flipped, cut off, padded, or its length fields lie.
    pub corrupt: f64,
    /// Packets or flushes that a held packet waits for, at most.
    pub hold_max: u32,
}

/// What was done to packets, per direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
}

/// A device with a bad wire.
pub struct Faulty<D> {
    inner: D,
    rx: Direction<RxMeta>,
    tx: Direction<()>,
    /// Where the inner device receives to.
    inbox: Batch,
    /// Received packets that the caller's batch had no room for yet.
    ready: VecDeque<Parcel<RxMeta>>,
    /// Sent packets that no flush has looked at yet.
    pending: SendQueue,
    tx_failed: u64,
}

/// A packet in the hands of the faulty wire.
struct Parcel<M> {
    port: PortId,
    frame: Frame,
    meta: M,
}

/// Faults of one direction, and what it holds back.
struct Direction<M> {
    faults: Faults,
    rng: SmallRng,
    held: Vec<(u64, Parcel<M>)>,
    /// Counts packets and flushes: what a held packet waits for.
    tick: u64,
    counters: FaultCounters,
}

impl<D: Device> Faulty<D> {
    /// Wraps `inner`, with faults for what it receives and for what it sends.
    pub fn new(inner: D, rx: Faults, tx: Faults, seed: u64) -> Faulty<D> {
        Faulty {
            inner,
            rx: Direction::new(rx, seed),
            tx: Direction::new(tx, seed.wrapping_add(1)),
            inbox: Batch::new(),
            ready: VecDeque::with_capacity(2 * BURST),
            pending: SendQueue::new(PENDING_MAX),
            tx_failed: 0,
        }
    }

    /// What happened to received and to sent packets so far.
    pub fn fault_counters(&self) -> (FaultCounters, FaultCounters) {
        (self.rx.counters, self.tx.counters)
    }

    /// The wrapped device.
    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }

    /// Loses what the wire holds; the frames go to `pool`.
    pub fn release(&mut self, pool: &mut Pool) {
        for (_, frame) in self.pending.drain() {
            pool.put(frame);
        }
        for frame in self.held_frames() {
            pool.put(frame);
        }
    }
}

impl<D> Faulty<D> {
    fn held_frames(&mut self) -> impl Iterator<Item = Frame> {
        let ready = self.ready.drain(..).map(|parcel| parcel.frame);
        ready.chain(self.rx.drain()).chain(self.tx.drain())
    }
}

impl<D> Drop for Faulty<D> {
    /// Gives up what the wire holds.
    fn drop(&mut self) {
        for frame in self.held_frames() {
            let _ = frame.into_index();
        }
    }
}

impl<D: Device> Device for Faulty<D> {
    fn carries(&self, port: PortId) -> bool {
        self.inner.carries(port)
    }

    fn recv(&mut self, batch: &mut Batch, pool: &mut Pool) {
        let Self { inner, rx, inbox, ready, .. } = self;
        if ready.len() < batch.room() {
            inner.recv(inbox, pool);
            rx.release(|parcel| ready.push_back(parcel));
            for packet in inbox.drain() {
                let parcel = Parcel { port: packet.port, frame: packet.frame, meta: packet.meta };
                rx.pass(parcel, pool, |parcel, _| ready.push_back(parcel));
            }
        }
        let fits = batch.room().min(ready.len());
        for parcel in ready.drain(..fits) {
            batch.receive(parcel.port, parcel.frame, parcel.meta);
        }
    }

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        if !self.inner.carries(port) {
            return Err(frame);
        }
        self.pending.push(port, frame)
    }

    fn flush(&mut self, pool: &mut Pool) {
        let Self { inner, tx, pending, tx_failed, .. } = self;
        let mut deliver = |parcel: Parcel<()>, pool: &mut Pool| {
            if let Err(frame) = inner.send(parcel.port, parcel.frame) {
                *tx_failed += 1;
                pool.put(frame);
            }
        };
        tx.release(|parcel| deliver(parcel, pool));
        for (port, frame) in pending.drain() {
            tx.pass(Parcel { port, frame, meta: () }, pool, &mut deliver);
        }
        inner.flush(pool);
    }

    /// The inner device's. What this wire holds back does not wake a sleeper.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    /// Those of the inner device, and what it refused.
    fn counters(&self) -> DeviceCounters {
        let counters = self.inner.counters();
        DeviceCounters {
            tx_packets: counters.tx_packets + self.tx_failed,
            tx_failed: counters.tx_failed + self.tx_failed,
            ..counters
        }
    }

    fn frames_held(&self) -> usize {
        let own = self.ready.len() + self.pending.len() + self.rx.held.len() + self.tx.held.len();
        own + self.inner.frames_held()
    }
}

impl<M: Copy> Direction<M> {
    fn new(faults: Faults, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        // At most one packet is held per tick, and none for longer than this many.
        let held = Vec::with_capacity(faults.hold_max as usize);
        Direction { faults, rng, held, tick: 0, counters: FaultCounters::default() }
    }

    /// Lets one packet through the wire, with whatever befalls it on the way, and the held packets
    /// that waited for it.
    fn pass(
        &mut self,
        mut parcel: Parcel<M>,
        pool: &mut Pool,
        mut deliver: impl FnMut(Parcel<M>, &mut Pool),
    ) {
        if self.befalls(self.faults.loss) {
            self.counters.lost += 1;
            pool.put(parcel.frame);
            return;
        }
        if self.befalls(self.faults.corrupt) {
            self.counters.corrupted += 1;
            corrupt(&mut parcel.frame, &mut self.rng);
        }
        if self.befalls(self.faults.duplicate)
            && let Some(mut frame) = pool.take()
        {
            self.counters.duplicated += 1;
            // A packet that a frame held fits a frame, unless it grew into its headroom.
            if frame.copy_from(parcel.frame.bytes()) {
                deliver(Parcel { port: parcel.port, frame, meta: parcel.meta }, pool);
            } else {
                pool.put(frame);
            }
        }
        if self.faults.hold_max > 0 && self.befalls(self.faults.reorder) {
            self.counters.reordered += 1;
            let wait = self.rng.random_range(1..=self.faults.hold_max);
            self.held.push((self.tick + u64::from(wait), parcel));
        } else {
            deliver(parcel, pool);
        }
        self.release(|parcel| deliver(parcel, pool));
    }

    /// One tick: releases the held packets that have waited long enough, in the order they came.
    fn release(&mut self, mut deliver: impl FnMut(Parcel<M>)) {
        self.tick += 1;
        for (_, parcel) in self.held.extract_if(.., |(due, _)| *due <= self.tick) {
            deliver(parcel);
        }
    }

    fn drain(&mut self) -> impl Iterator<Item = Frame> {
        self.held.drain(..).map(|(_, parcel)| parcel.frame)
    }

    fn befalls(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability.min(1.0))
    }
}

/// Damages a packet in one of the ways that a parser has to survive.
fn corrupt(frame: &mut Frame, rng: &mut SmallRng) {
    let len = frame.len();
    if len == 0 {
        return;
    }
    match rng.random_range(0..4) {
        0 => {
            for _ in 0..rng.random_range(1..=4) {
                frame.bytes_mut()[rng.random_range(0..len)] ^= 1 << rng.random_range(0..8);
            }
        }
        1 => frame.set_len(rng.random_range(1..=len)),
        2 => {
            let room = frame.capacity().saturating_sub(len).min(64);
            frame.set_len(len + rng.random_range(0..=room));
            rng.fill(&mut frame.bytes_mut()[len..]);
        }
        _ => {
            // Version and header length, total or payload length, fragment, next header, and the
            // length fields of TCP and UDP, behind an Ethernet header.
            const FIELDS: [usize; 8] = [14, 16, 17, 18, 20, 38, 46, 58];
            let at = FIELDS[rng.random_range(0..FIELDS.len())].min(len - 1);
            frame.bytes_mut()[at] = rng.random();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Ports;
    use crate::device::memory::{MemoryDevice, MemoryLink, Packet};
    use crate::memory::{Umem, pools};

    const BAD: Faults =
        Faults { loss: 0.1, duplicate: 0.1, reorder: 0.2, corrupt: 0.2, hold_max: 30 };

    fn wire(rx: Faults, tx: Faults, seed: u64) -> (Faulty<MemoryDevice>, MemoryLink) {
        let (device, link) = MemoryDevice::linked(Ports::Except(vec![]), RxMeta::default(), 10_000);
        (Faulty::new(device, rx, tx, seed), link)
    }

    fn pool(frames: u32) -> Pool {
        pools(Umem::anonymous(frames, 2048).1, 1).remove(0)
    }

    /// Sends numbered packets through both directions and returns what came out, in order.
    fn echo(
        device: &mut Faulty<MemoryDevice>,
        link: &MemoryLink,
        pool: &mut Pool,
        packets: u32,
    ) -> Vec<Packet> {
        let mut batch = Batch::new();
        for turn in 0..packets.div_ceil(16) + 64 {
            for number in (turn * 16..packets).take(16) {
                let mut bytes = vec![0x45; 100];
                bytes[..4].copy_from_slice(&number.to_be_bytes());
                assert!(link.inject(PortId(number), &bytes));
            }
            device.recv(&mut batch, pool);
            for packet in batch.drain() {
                device.send(packet.port, packet.frame).expect("fewer than fit");
            }
            device.flush(pool);
        }
        link.take_sent()
    }

    #[test]
    fn one_seed_gives_one_history_and_every_frame_comes_home() {
        for seed in [1, 2, 0xfeed] {
            println!("seed {seed}");
            let run = |seed| {
                let mut pool = pool(256);
                let (mut device, link) = wire(BAD, BAD, seed);
                let sent = echo(&mut device, &link, &mut pool, 5000);
                assert_eq!(device.frames_held(), 0, "the last flushes released everything");
                assert!(pool.is_whole());
                (sent, device.fault_counters())
            };
            let (sent, (rx, tx)) = run(seed);
            for counters in [rx, tx] {
                assert!((350..650).contains(&counters.lost), "{counters:?}");
                assert!((350..650).contains(&counters.duplicated), "{counters:?}");
                assert!((700..1300).contains(&counters.reordered), "{counters:?}");
                assert!((700..1300).contains(&counters.corrupted), "{counters:?}");
            }
            let balance = 5000 + rx.duplicated + tx.duplicated - rx.lost - tx.lost;
            assert_eq!(sent.len() as u64, balance);
            let (again, counters) = run(seed);
            assert!(again == sent && counters == (rx, tx), "seed {seed} has two histories");
            assert_ne!(run(seed + 1).0, sent);
        }
    }

    #[test]
    fn an_empty_pool_and_a_full_device_lose_packets_and_no_frames() {
        let mut pool = pool(48);
        let (device, link) = MemoryDevice::linked(Ports::Except(vec![]), RxMeta::default(), 40);
        let mut device = Faulty::new(device, BAD, Faults { duplicate: 1.0, ..BAD }, 7);
        let mut batch = Batch::new();
        for turn in 0..500_u32 {
            for number in 0..40 {
                link.inject(PortId(turn), &[number; 60]);
            }
            device.recv(&mut batch, &mut pool);
            for packet in batch.drain() {
                if let Err(frame) = device.send(packet.port, packet.frame) {
                    pool.put(frame);
                }
            }
            device.flush(&mut pool);
            assert_eq!(pool.free() + device.frames_held(), 48);
            if turn % 2 == 0 {
                link.take_sent();
            }
        }
        assert!(device.counters().tx_failed > 0);
        device.release(&mut pool);
        device.inner_mut().flush(&mut pool);
        assert!(pool.is_whole());
    }

    #[test]
    fn a_held_packet_is_released_by_flushes_alone() {
        let mut pool = pool(8);
        let hold = Faults { reorder: 1.0, hold_max: 5, ..Faults::default() };
        let (mut device, link) = wire(Faults::default(), hold, 3);
        let mut frame = pool.take().expect("a frame");
        assert!(frame.copy_from(&[9; 60]));
        device.send(PortId(1), frame).expect("room");
        device.flush(&mut pool);
        for _ in 0..5 {
            device.flush(&mut pool);
        }
        assert_eq!(link.take_sent(), [(PortId(1), vec![9; 60])]);
        assert!(pool.is_whole());
    }

    #[test]
    fn a_good_wire_changes_nothing() {
        let mut pool = pool(64);
        let (mut device, link) = wire(Faults::default(), Faults::default(), 1);
        let sent = echo(&mut device, &link, &mut pool, 500);
        let order: Vec<u32> = sent.iter().map(|(port, _)| port.0).collect();
        assert_eq!(order, (0..500).collect::<Vec<_>>());
    }
}
