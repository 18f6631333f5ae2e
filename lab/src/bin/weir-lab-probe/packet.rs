//! Packets that no socket of every kernel makes, and the sockets that carry them.

use std::{io, net::SocketAddr};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};
use tokio::net::UdpSocket;

/// Marks a packet as one of a question, whose number follows.
const MARK: [u8; 8] = *b"weir-lab";
/// Source port of every INIT.
const SCTP_SOURCE_PORT: u16 = 5000;
const SCTP_INIT: u8 = 1;
const SCTP_HEADER_BYTES: usize = 12;

/// What a raw socket is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw {
    Sctp,
    Icmp,
}

/// A raw socket of a family, or, where `is_ping` and for ICMP, one that the kernel numbers.
pub fn open(raw: Raw, is_v4: bool, is_ping: bool) -> io::Result<UdpSocket> {
    let family = if is_v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol: Protocol = match (raw, is_v4) {
        (Raw::Sctp, _) => ipproto::SCTP,
        (Raw::Icmp, true) => ipproto::ICMP,
        (Raw::Icmp, false) => ipproto::ICMPV6,
    };
    let kind = if is_ping { SocketType::DGRAM } else { SocketType::RAW };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, kind, flags, Some(protocol))?;
    // The same system calls carry datagrams of any protocol.
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

/// The same, speaking as `from`.
pub fn open_at(raw: Raw, from: std::net::IpAddr, is_ping: bool) -> io::Result<UdpSocket> {
    let socket = open(raw, from.is_ipv4(), is_ping)?;
    rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
    Ok(socket)
}

/// An INIT that opens an association (RFC 9260 section 3.3.2); its tag is the question's number.
pub fn make_init(id: u32, port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(SCTP_SOURCE_PORT.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 8]); // verification tag, checksum
    packet.extend([SCTP_INIT, 0, 0, 20]);
    packet.extend(id.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes()); // receive window
    packet.extend([0, 1, 0, 1]); // streams each way
    packet.extend(id.to_be_bytes()); // first TSN
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..SCTP_HEADER_BYTES].copy_from_slice(&checksum);
    packet
}

/// The number of the question whose INIT this is.
pub fn read_init(packet: &[u8]) -> Option<u32> {
    let chunk = packet.get(SCTP_HEADER_BYTES..)?;
    let is_init = *chunk.first()? == SCTP_INIT && packet[..2] == SCTP_SOURCE_PORT.to_be_bytes();
    is_init.then_some(u32::from_be_bytes(chunk.get(4..8)?.try_into().ok()?))
}

/// An ICMP message of this type. The kernel completes the checksum of ICMPv6 and of pings.
pub fn make_icmp(id: u32, kind: u8) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    packet.extend(MARK);
    packet.extend(id.to_be_bytes());
    let sum = packet.chunks(2).map(|it| u32::from(it[0]) << 8 | u32::from(it[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Type and question of an ICMP message made here, or of its echo.
pub fn read_icmp(packet: &[u8]) -> Option<(u8, u32)> {
    let data = packet.get(8..)?.strip_prefix(&MARK)?;
    Some((*packet.first()?, u32::from_be_bytes(data.get(..4)?.try_into().ok()?)))
}

/// What follows an IPv4 header, which raw sockets of that family give as well.
pub fn skip_header(packet: &[u8], is_v4: bool) -> Option<&[u8]> {
    let length = if is_v4 { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    packet.get(length..)
}

/// The checksum of SCTP (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_rfc_3720() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packets_tell_their_question() {
        assert_eq!(read_init(&make_init(7, 80)), Some(7));
        assert_eq!(read_icmp(&make_icmp(7, 13)), Some((13, 7)));
        assert_eq!(read_init(&make_init(7, 80)[..15]), None);
        assert_eq!(read_icmp(&[8; 20]), None);
    }
}
