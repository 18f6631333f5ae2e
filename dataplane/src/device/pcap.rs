//! A capture file as a device: what it holds is received, and what is sent is written to another.
//!
//! Packets arrive when the clock says so. A replay moves a [`VirtualClock`] from packet to packet
//! with [`PcapDevice::advance`], as fast as it likes, and sees the timing of the capture all the
//! same:
//!
//! ```text
//! while device.advance() { worker.turn() }
//! ```

use std::borrow::Cow;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError, TsResolution};
use weir_tables::PortId;

use super::queue::SendQueue;
use super::{Device, DeviceCounters, Ports, RxMeta};
use crate::batch::Batch;
use crate::clock::{Clock, Instant, VirtualClock};
use crate::memory::{Frame, Pool};

/// Packets that wait for a flush at most.
const SENT_MAX: usize = 1024;

/// Why a replay cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum PcapDeviceError {
    /// The file cannot be read any further.
    #[error("capture: packet {packet}: {source}. Is it a complete pcap file (not pcapng)?")]
    Read { packet: u64, source: PcapError },
    /// Not an Ethernet capture.
    #[error(
        "capture: link type {found:?}, but a device needs Ethernet: capture on one interface, \
         not on `any`"
    )]
    LinkType { found: DataLink },
    /// The output cannot be written.
    #[error("capture of what was sent: {0}")]
    Write(PcapError),
}

/// Receives from one capture, sends into another.
pub struct PcapDevice<R: Read, W: Write> {
    reader: PcapReader<R>,
    writer: PcapWriter<W>,
    ports: Ports,
    source: PortId,
    meta: RxMeta,
    clock: VirtualClock,
    /// Of the first packet: since 1970 in the capture, and on the clock.
    epoch: Option<(Duration, Instant)>,
    /// The next packet and when it is due.
    next: Option<(Instant, PcapPacket<'static>)>,
    read: u64,
    sent: SendQueue,
    failed: Option<PcapDeviceError>,
    counters: DeviceCounters,
}

impl<R: Read, W: Write> PcapDevice<R, W> {
    /// Replays `reader` as packets that come in by `source`, starting now on `clock`, and writes
    /// what is sent to any of `ports` to `writer`.
    ///
    /// # Errors
    /// If the input is not a pcap file of Ethernet packets, or the output cannot be written.
    pub fn new(
        reader: R,
        writer: W,
        source: PortId,
        meta: RxMeta,
        ports: Ports,
        clock: VirtualClock,
    ) -> Result<Self, PcapDeviceError> {
        let unreadable = |source| PcapDeviceError::Read { packet: 0, source };
        let reader = PcapReader::new(reader).map_err(unreadable)?;
        let found = reader.header().datalink;
        if found != DataLink::ETHERNET {
            return Err(PcapDeviceError::LinkType { found });
        }
        let header = PcapHeader { ts_resolution: TsResolution::NanoSecond, ..Default::default() };
        let writer = PcapWriter::with_header(writer, header).map_err(PcapDeviceError::Write)?;
        let mut device = Self {
            reader,
            writer,
            ports,
            source,
            meta,
            clock,
            epoch: None,
            next: None,
            read: 0,
            sent: SendQueue::new(SENT_MAX),
            failed: None,
            counters: DeviceCounters::default(),
        };
        device.read_next();
        device.failed.take().map_or(Ok(device), Err)
    }

    /// When the next packet is due on the clock; `None` at the end of the capture.
    pub fn next_due(&self) -> Option<Instant> {
        self.next.as_ref().map(|(due, _)| *due)
    }

    /// Moves the clock to the next packet, if it is ahead. False at the end of the capture.
    pub fn advance(&mut self) -> bool {
        let Some(due) = self.next_due() else { return false };
        self.clock.advance_ns(due.0.saturating_sub(self.clock.now().0));
        true
    }

    /// Ends the replay and gives back the writer.
    ///
    /// # Errors
    /// If the capture was cut off or the output could not be written, whichever came first.
    pub fn finish(mut self, pool: &mut Pool) -> Result<W, PcapDeviceError> {
        self.flush(pool);
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.writer.into_writer()),
        }
    }

    fn read_next(&mut self) {
        self.next = match self.reader.next_packet() {
            None => None,
            Some(Ok(packet)) => {
                let packet = packet.into_owned();
                let now = self.clock.now();
                let (first, start) = *self.epoch.get_or_insert((packet.timestamp, now));
                let after_ns = packet.timestamp.saturating_sub(first).as_nanos() as u64;
                self.read += 1;
                Some((Instant(start.0.saturating_add(after_ns)), packet))
            }
            Some(Err(source)) => {
                let error = PcapDeviceError::Read { packet: self.read + 1, source };
                self.failed.get_or_insert(error);
                None
            }
        };
    }
}

impl<R: Read, W: Write> Device for PcapDevice<R, W> {
    fn carries(&self, port: PortId) -> bool {
        self.ports.contains(port)
    }

    fn recv(&mut self, batch: &mut Batch, pool: &mut Pool) {
        let now = self.clock.now();
        while batch.room() > 0 {
            let Some((_, packet)) = self.next.as_ref().filter(|(due, _)| *due <= now) else {
                break;
            };
            let Some(mut frame) = pool.take() else { break };
            // A packet that the capture cut short was never on a wire like that.
            let whole = packet.data.len() == packet.orig_len as usize;
            if whole && frame.copy_from(&packet.data) {
                self.counters.rx_packets += 1;
                self.counters.rx_bytes += frame.len() as u64;
                batch.receive(self.source, frame, self.meta);
            } else {
                self.counters.rx_invalid += 1;
                pool.put(frame);
            }
            self.read_next();
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
        let (first, start) = self.epoch.unwrap_or_default();
        let timestamp = first + Duration::from_nanos(self.clock.now().0.saturating_sub(start.0));
        for (_, frame) in self.sent.drain() {
            let data = Cow::Borrowed(frame.bytes());
            let packet = PcapPacket { timestamp, orig_len: data.len() as u32, data };
            if let Err(error) = self.writer.write_packet(&packet) {
                self.counters.tx_failed += 1;
                self.failed.get_or_insert(PcapDeviceError::Write(error));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Umem, pools};

    fn capture(packets: &[(u64, &[u8])]) -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).expect("memory");
        for (at_us, bytes) in packets {
            let timestamp = Duration::from_micros(1_700_000_000_000_000 + at_us);
            let packet = PcapPacket::new(timestamp, bytes.len() as u32, bytes);
            writer.write_packet(&packet).expect("memory");
        }
        writer.into_writer()
    }

    fn replay(
        file: &[u8],
        clock: VirtualClock,
    ) -> Result<PcapDevice<&[u8], Vec<u8>>, PcapDeviceError> {
        let ports = Ports::Only(vec![PortId(3)]);
        PcapDevice::new(file, Vec::new(), PortId::UPLINK, RxMeta::default(), ports, clock)
    }

    #[test]
    fn a_replay_keeps_the_timing_of_the_capture() {
        let mut pool = pools(Umem::anonymous(4, 2048).1, 1).remove(0);
        let clock = VirtualClock::default();
        clock.advance_ns(5);
        let file = capture(&[(0, &[1; 60]), (0, &[2; 61]), (250, &[3; 62]), (9, &[0; 1800])]);
        let mut device = replay(&file, clock.clone()).expect("a valid capture");
        let mut batch = Batch::new();
        let mut arrivals = Vec::new();
        while device.advance() {
            device.recv(&mut batch, &mut pool);
            for packet in batch.drain() {
                assert_eq!(packet.port, PortId::UPLINK);
                arrivals.push((clock.now().0, packet.frame.bytes()[0]));
                device.send(PortId(3), packet.frame).expect("room");
            }
            device.flush(&mut pool);
        }
        assert_eq!(arrivals, [(5, 1), (5, 2), (250_005, 3)]);
        assert_eq!(device.counters().rx_invalid, 1, "larger than a chunk");
        let file = device.finish(&mut pool).expect("nothing failed");
        assert!(pool.is_whole());

        let mut again = replay(&file, VirtualClock::default()).expect("what we wrote is a capture");
        again.recv(&mut batch, &mut pool);
        assert_eq!(batch.len(), 2);
        assert_eq!(again.next_due(), Some(Instant(250_000)));
        batch.drain().for_each(|packet| pool.put(packet.frame));
    }

    #[test]
    fn a_capture_that_ends_within_a_packet_is_reported() {
        let mut pool = pools(Umem::anonymous(4, 2048).1, 1).remove(0);
        let file = capture(&[(0, &[1; 60]), (1, &[2; 60])]);
        let mut device = replay(&file[..file.len() - 1], VirtualClock::default()).expect("starts");
        let mut batch = Batch::new();
        while device.advance() {
            device.recv(&mut batch, &mut pool);
        }
        assert_eq!(batch.len(), 1);
        batch.drain().for_each(|packet| pool.put(packet.frame));
        let error = device.finish(&mut pool).expect_err("cut off");
        assert!(error.to_string().starts_with("capture: packet 2:"), "{error}");
        assert!(replay(b"not a capture at all, but long enough", VirtualClock::default()).is_err());
    }
}
