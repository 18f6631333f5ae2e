//! Round trips: packets that come back to the interface that they left by, and the reflector that
//! sends them back.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde::Serialize;
use weir_dataplane::batch::Batch;
use weir_packet::checksum;

use crate::account::Counters;
use crate::arrivals::Arrivals;
use crate::clock::now_ns;
use crate::link::Link;
use crate::sender::Sender;
use crate::sinks::wait;
use crate::wire::{FRAME_MAX, Steered, Wire};
use crate::xdp_sink::{Udp, XdpSink, read_udp};

/// How long an idle loop does not look at its flags.
const WAIT_NS: u64 = 5_000_000;

/// Sends and receives on one socket, in one thread, until all is sent and nothing came for
/// `drain_ns`.
///
/// # Errors
/// If the kernel refuses to wait.
pub fn round_trips(
    sender: &mut Sender<'_>,
    sink: &mut XdpSink,
    arrivals: &mut Arrivals,
    stop: &AtomicBool,
    drain_ns: u64,
) -> Result<()> {
    let mut quiet_since = now_ns();
    loop {
        let is_sending = !sender.is_done() && !stop.load(Ordering::Relaxed);
        if is_sending {
            sender.send_due(&mut sink.wire);
        } else {
            sender.end();
        }
        sink.wire.flush();
        let received = sink.receive(0, arrivals);
        let now = now_ns();
        if is_sending || received > 0 {
            quiet_since = now;
        } else if now - quiet_since > drain_ns {
            return Ok(());
        }
        let wake = if is_sending { sender.wake_ns() } else { now + WAIT_NS };
        if received == 0 && now < wake {
            wait([sink.wire.fd()].into_iter(), (wake - now).min(WAIT_NS))?;
        }
    }
}

/// What a reflector did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reflected {
    /// Datagrams for it.
    pub received: u64,
    /// Sent back.
    pub reflected: u64,
    /// Not sent back because there was no room.
    pub refused: u64,
    /// Neither: wrong checksums and other traffic.
    pub ignored: u64,
    /// All counters of the socket.
    pub statistics: Counters,
}

/// Sends UDP to `port` of the interface's own addresses, and of `more`, back to where it came from.
/// Until `stop` is set or the clock says `until_ns`.
///
/// # Errors
/// If the interface is not there, or the kernel refuses socket or program.
pub fn reflect(
    interface: &str,
    queue: u32,
    port: u16,
    more: &[IpAddr],
    stop: &AtomicBool,
    until_ns: u64,
) -> Result<Reflected> {
    let link = Link::find(interface)?;
    let addresses = link.addresses.iter().chain(more).copied().collect();
    let steered = Steered { addresses, ports: (port, port) };
    let mut wire = Wire::open(&link, queue, FRAME_MAX, Some(&steered), interface.into())?;
    eprintln!("reflecting UDP port {port} on {interface}");
    let mut counts = Reflected::default();
    let mut batch = Batch::new();
    while !stop.load(Ordering::Relaxed) && now_ns() < until_ns {
        wire.receive(&mut batch);
        let is_idle = batch.is_empty();
        for mut packet in batch.drain() {
            if !turn_around(packet.frame.bytes_mut(), steered.ports) {
                counts.ignored += 1;
                wire.recycle(packet.frame);
                continue;
            }
            counts.received += 1;
            let is_sent = wire.send_frame(packet.frame);
            counts.reflected += u64::from(is_sent);
            counts.refused += u64::from(!is_sent);
        }
        wire.flush();
        if is_idle {
            wait([wire.fd()].into_iter(), WAIT_NS)?;
        }
    }
    counts.statistics = wire.statistics()?;
    wire.close();
    Ok(counts)
}

/// Swaps sender and receiver. Checksums stay right: a sum does not care for the order.
fn turn_around(frame: &mut [u8], ports: (u16, u16)) -> bool {
    let Udp::Payload { headers, .. } = read_udp(frame, ports) else { return false };
    if checksum::l4_is_partial(frame, &headers) {
        checksum::complete_l4(frame, &headers);
    }
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    swap(frame, 0, 6);
    match headers.family {
        4 => swap(frame, l3 + 12, 4),
        _ => swap(frame, l3 + 8, 16),
    }
    swap(frame, l4, 2);
    true
}

/// Exchanges two neighbouring fields of `len` bytes.
fn swap(frame: &mut [u8], at: usize, len: usize) {
    let (first, second) = frame[at..at + 2 * len].split_at_mut(len);
    first.swap_with_slice(second);
}

#[cfg(test)]
mod tests {
    use weir_packet::build::{DEFAULT_TTL, Path, emit_udp};
    use weir_packet::{Mac, Parsed, parse};

    use super::*;

    #[test]
    fn a_packet_turns_around_and_stays_valid() {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let path = Path {
                dst_mac: Mac([2, 0, 0, 0, 0, 1]),
                src_mac: Mac([2, 0, 0, 0, 0, 2]),
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                sport: 1000,
                dport: 7,
                ttl: DEFAULT_TTL,
            };
            let mut frame = vec![0; 200];
            let len = emit_udp(&mut frame, &path, b"question").unwrap();
            frame.truncate(len);
            assert!(!turn_around(&mut frame.clone(), (8, 9)), "another port");
            assert!(turn_around(&mut frame, (7, 7)));
            let Ok(Parsed::Ip(packet)) = parse(&frame) else { panic!("not a packet") };
            assert!(checksum::l3_is_valid(&frame, &packet.headers));
            assert!(checksum::l4_is_valid(&frame, &packet.headers));
            assert_eq!((packet.key.src, packet.key.sport), (path.dst, 7));
            assert_eq!((packet.key.dst, packet.key.dport), (path.src, 1000));
            assert_eq!(frame[..6], path.src_mac.0);
            frame[len - 1] ^= 1;
            assert!(!turn_around(&mut frame, (1000, 1000)), "wrong checksum");
        }
    }
}
