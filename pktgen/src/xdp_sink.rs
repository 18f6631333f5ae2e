//! A sink that is an AF_XDP socket: no kernel stack in front. For interfaces that native XDP sees.

use std::net::IpAddr;

use anyhow::Result;
use weir_dataplane::batch::Batch;
use weir_packet::wire::UDP_LEN;
use weir_packet::{FlowKey, Headers, Parsed, checksum, parse, protocol};

use crate::arrivals::Arrivals;
use crate::clock::now_ns;
use crate::link::Link;
use crate::namespace::Place;
use crate::wire::{Steered, Wire};

/// One socket on queue 0 of an interface.
pub struct XdpSink {
    pub wire: Wire,
    ports: (u16, u16),
    batch: Batch,
}

impl XdpSink {
    /// Opens a sink for UDP to `port` of the interface's own addresses and of `destination`. Moves
    /// the calling thread into the namespace of `place`.
    ///
    /// # Errors
    /// If the interface is not there, or the kernel refuses socket or program.
    pub fn open(place: &Place, destination: IpAddr, port: u16, size: usize) -> Result<XdpSink> {
        place.namespace.move_in()?;
        let link = Link::find(&place.interface)?;
        let mut addresses = link.addresses.clone();
        addresses.push(destination);
        let steered = Steered { addresses, ports: (port, port) };
        let wire = Wire::open(&link, 0, size, Some(&steered), place.to_string())?;
        Ok(XdpSink::new(wire, steered.ports))
    }

    /// A sink for UDP to `ports` that comes by `wire`.
    pub fn new(wire: Wire, ports: (u16, u16)) -> XdpSink {
        XdpSink { wire, ports, batch: Batch::new() }
    }

    /// Takes what waits, one burst at most; how many.
    pub fn receive(&mut self, sink: usize, arrivals: &mut Arrivals) -> usize {
        self.wire.receive(&mut self.batch);
        let (now, count) = (now_ns(), self.batch.len());
        for packet in self.batch.drain() {
            match read_udp(packet.frame.bytes(), self.ports) {
                Udp::Payload { at, headers, .. } => {
                    let end = usize::from(headers.end);
                    arrivals.take(sink, &packet.frame.bytes()[at..end], now);
                }
                Udp::Corrupted => arrivals.take_corrupted(),
                Udp::Foreign => arrivals.take_foreign(),
            }
            self.wire.recycle(packet.frame);
        }
        if count > 0 {
            self.wire.flush();
        }
        count
    }
}

/// What a frame is.
pub enum Udp {
    /// A whole datagram whose payload starts `at`.
    Payload { at: usize, headers: Headers, key: FlowKey },
    /// A datagram with a wrong checksum.
    Corrupted,
    /// Something else, or for another port.
    Foreign,
}

/// Reads a frame that should be UDP to one of `ports`. A checksum that a local sender left to the
/// hardware is taken as right.
pub fn read_udp(frame: &[u8], ports: (u16, u16)) -> Udp {
    let Ok(Parsed::Ip(packet)) = parse(frame) else { return Udp::Foreign };
    let (headers, key) = (packet.headers, packet.key);
    let is_ours = key.protocol == protocol::UDP && (ports.0..=ports.1).contains(&key.dport);
    if !is_ours {
        return Udp::Foreign;
    }
    let is_right =
        checksum::l4_is_valid(frame, &headers) || checksum::l4_is_partial(frame, &headers);
    if !is_right {
        return Udp::Corrupted;
    }
    Udp::Payload { at: usize::from(headers.l4) + UDP_LEN, headers, key }
}
