//! The device: frames in and out of the four rings.
#![allow(unsafe_code)] // Rings carry chunk numbers; turning them into frames is this file's job.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use weir_tables::PortId;
use xsk_rs::umem::frame::FrameDesc;

use super::lent::Lent;
use super::socket::Rings;
use super::umem::Shared;
use super::{Framing, Region, XskConfig, XskError, XskStatistics};
use crate::batch::{BURST, Batch};
use crate::device::{Device, DeviceCounters};
use crate::memory::{Frame, HEADROOM, Pool};

/// Kicks per flush, at most. One is enough where the kernel takes a budget; where it does not, a
/// kick sends 32 packets.
const KICKS_MAX: usize = 8;

/// One AF_XDP socket in copy mode.
pub struct XskDevice {
    shared: &'static Shared,
    rings: Rings,
    framing: Framing,
    lent: Lent,
    /// Sent packets that are not in TX yet.
    staged: [FrameDesc; BURST],
    staged_len: usize,
    scratch: [FrameDesc; BURST],
    /// TX holds packets that the kernel has not taken.
    unsent: bool,
    /// Chunks lent by `send`, and how many may be.
    tx_held: u32,
    tx_max: u32,
    /// Chunks lent for receiving, and how many should be.
    fill_held: u32,
    fill_max: u32,
    /// The last received descriptor was not the end of its packet.
    in_chain: bool,
    counters: DeviceCounters,
}

impl XskDevice {
    /// Makes a socket on `region` and binds it to a queue. It receives once a flush has lent it
    /// frames, and a program redirects to it (see [`XskDevice::as_fd`]). A queue that another
    /// process holds is tried again for three seconds, because the kernel releases it late.
    ///
    /// # Errors
    /// If a size is wrong or the kernel refuses; the message names interface, queue and remedy.
    pub fn new(region: Region, config: XskConfig) -> Result<XskDevice, XskError> {
        let shared = region.shared();
        let rings = Rings::bind(shared, &config)?;
        Ok(XskDevice {
            shared,
            rings,
            framing: config.framing,
            lent: Lent::new(shared.umem.chunks()),
            staged: [FrameDesc::default(); BURST],
            staged_len: 0,
            scratch: [FrameDesc::default(); BURST],
            unsent: false,
            tx_held: 0,
            tx_max: config.ring.min(shared.ring),
            fill_held: 0,
            fill_max: config.fill,
            in_chain: false,
            counters: DeviceCounters::default(),
        })
    }

    /// The kernel's account of what this socket lost.
    ///
    /// # Errors
    /// Only if the kernel's structure has changed.
    pub fn statistics(&self) -> io::Result<XskStatistics> {
        self.rings.statistics()
    }

    /// Sends what is staged, closes the socket and brings every frame home, also those that the
    /// kernel still had. The first device of a region ends the region: see
    /// [`XskError::RegionEnded`].
    pub fn shutdown(mut self, pool: &mut Pool) {
        self.publish();
        self.kick();
        self.reap(pool);
        if let Err(error) = self.rings.close(self.shared) {
            tracing::warn!(%error, "an AF_XDP socket stays open, and its frames with it");
            return;
        }
        while let Some(chunk) = self.lent.pop() {
            // SAFETY: this device lent the chunk and forgets it here. With the socket gone (its
            // descriptor is only ever borrowed) the kernel reads and writes it no more: the release
            // waits for receivers, and packets in flight are copies.
            pool.put(unsafe { self.shared.umem.frame(chunk, HEADROOM, 0) });
        }
    }

    /// The chunk that a ring returned, as a frame. `None` where this device did not lend it, which
    /// would be an error of the kernel; the descriptor then means nothing.
    #[inline]
    fn take_back(&mut self, desc: &FrameDesc) -> Option<Frame> {
        let chunk_size = self.shared.umem.chunk_size() as usize;
        let chunk = (desc.addr() / chunk_size) as u32;
        let head = (desc.addr() % chunk_size) as u16;
        if !self.lent.remove(chunk) {
            return None;
        }
        // SAFETY: the chunk was lent by this device and has come back, for the first time since.
        Some(unsafe { self.shared.umem.frame(chunk, head, desc.lengths().data() as u16) })
    }

    /// Moves staged packets into TX.
    fn publish(&mut self) {
        if self.staged_len == 0 {
            return;
        }
        // SAFETY: each staged chunk is lent to TX, and to nothing else, by `send`.
        let produced = unsafe { self.rings.tx.produce(&self.staged[..self.staged_len]) };
        // TX has room for all that `tx_max` allows; were it not so, they would wait here.
        if produced > 0 {
            self.staged.copy_within(produced..self.staged_len, 0);
            self.staged_len -= produced;
            self.unsent = true;
        }
    }

    /// Has the kernel send what is in TX. In copy mode it does so within the call.
    fn kick(&mut self) {
        for _ in 0..KICKS_MAX {
            if !self.unsent {
                return;
            }
            let free_before = self.rings.tx.nb_free_exact();
            match send(self.rings.fd(), &[], SendFlags::DONTWAIT) {
                Ok(_) => self.unsent = false,
                // A packet was taken and dropped: the receiving veth's ring is full.
                Err(Errno::BUSY) => self.counters.tx_failed += 1,
                // The budget is used up, or the descriptor stays because something is full.
                Err(Errno::AGAIN) if self.rings.tx.nb_free_exact() != free_before => {}
                // Nothing moves now (also: no memory, interface down or gone): next flush.
                Err(_) => return,
            }
        }
    }

    /// Brings home the frames that the kernel is done with.
    fn reap(&mut self, pool: &mut Pool) {
        while self.tx_held > 0 {
            // SAFETY: the descriptors only receive.
            let done = unsafe { self.rings.completion.consume(&mut self.scratch) };
            for place in 0..done {
                let desc = self.scratch[place];
                if let Some(frame) = self.take_back(&desc) {
                    self.tx_held -= 1;
                    pool.put(frame);
                }
            }
            if done < BURST {
                return;
            }
        }
    }

    /// Lends free frames for receiving, up to this device's share.
    fn refill(&mut self, pool: &mut Pool) {
        while self.fill_held < self.fill_max {
            let missing = ((self.fill_max - self.fill_held) as usize).min(BURST);
            let mut taken = 0;
            while taken < missing
                && let Some(frame) = pool.take()
            {
                self.scratch[taken] = self.lend(frame);
                taken += 1;
            }
            // SAFETY: the chunks were taken out of the pool and are lent to FILL alone.
            let produced = unsafe { self.rings.fill.produce(&self.scratch[..taken]) };
            self.fill_held += produced as u32;
            for place in produced..taken {
                let desc = self.scratch[place];
                self.take_back(&desc).into_iter().for_each(|frame| pool.put(frame));
            }
            if produced < BURST {
                return;
            }
        }
    }

    /// Turns a frame into a descriptor of its chunk, of length 0.
    #[inline]
    fn lend(&mut self, frame: Frame) -> FrameDesc {
        let chunk = frame.into_index();
        self.lent.insert(chunk);
        self.shared.descs[chunk as usize]
    }
}

impl Device for XskDevice {
    fn carries(&self, port: PortId) -> bool {
        self.framing.carries(port)
    }

    fn recv(&mut self, batch: &mut Batch, pool: &mut Pool) {
        let room = batch.room();
        // SAFETY: the descriptors only receive.
        let received = unsafe { self.rings.rx.consume(&mut self.scratch[..room]) };
        for place in 0..received {
            let desc = self.scratch[place];
            let Some(frame) = self.take_back(&desc) else { continue };
            self.fill_held -= 1;
            let chained = desc.has_more_frames() || self.in_chain;
            self.in_chain = desc.has_more_frames();
            match self.framing.source(frame.bytes()) {
                Some((port, meta)) if !chained => {
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += frame.len() as u64;
                    batch.receive(port, frame, meta);
                }
                _ => {
                    // A chain counts once, at its end.
                    self.counters.rx_invalid += u64::from(!self.in_chain);
                    pool.put(frame);
                }
            }
        }
    }

    fn send(&mut self, port: PortId, mut frame: Frame) -> Result<(), Frame> {
        let fits = self.tx_held < self.tx_max && self.staged_len < BURST;
        if !fits
            || !self.shared.umem.owns(&frame)
            || !self.framing.address(port, frame.bytes_mut())
            || !frame.move_to_headroom()
        {
            return Err(frame);
        }
        let len = frame.len();
        let mut desc = self.lend(frame);
        // SAFETY: the frame was ours until the line above, and is not in a ring yet.
        unsafe { self.shared.xsk.data_mut(&mut desc) }.cursor().set_pos(len);
        self.staged[self.staged_len] = desc;
        self.staged_len += 1;
        self.tx_held += 1;
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += len as u64;
        if self.staged_len == BURST {
            self.publish();
        }
        Ok(())
    }

    fn flush(&mut self, pool: &mut Pool) {
        self.publish();
        self.kick();
        self.reap(pool);
        self.refill(pool);
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn counters(&self) -> DeviceCounters {
        self.counters
    }

    fn frames_held(&self) -> usize {
        (self.tx_held + self.fill_held) as usize
    }
}

impl AsFd for XskDevice {
    /// The socket, to poll and to put into an `XSKMAP`. Never duplicate it: see
    /// [`XskDevice::shutdown`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.fd()
    }
}
