//! Why a frame was refused: one counted reason each.

use core::fmt;

/// What is wrong with a frame. The discriminant indexes counters, from 0 without gaps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Malformed {
    /// Shorter than an Ethernet header.
    TruncatedEthernet,
    /// Shorter than an IPv4 header.
    TruncatedIpv4,
    /// Shorter than an IPv6 header, or an extension header is cut off.
    TruncatedIpv6,
    /// The fixed TCP, UDP, SCTP or ICMP header is cut off.
    TruncatedL4,
    /// The version in the IP header contradicts the EtherType.
    BadVersion,
    /// IPv4 header length below 20 bytes.
    Ipv4HeaderLength,
    /// IPv4 total length below the header's or beyond the frame.
    Ipv4TotalLength,
    /// IPv4 options overrun the header.
    Ipv4Options,
    /// IPv6 payload length beyond the frame.
    Ipv6PayloadLength,
    /// Too many IPv6 extension headers, or in an order that RFC 8200 forbids.
    Ipv6Extensions,
    /// An IPv6 packet with an IPv4-mapped address, which must not be on the wire.
    MappedAddress,
    /// An IPv4 source-route option, or an IPv6 routing header with segments left.
    SourceRoute,
    /// A fragment that is empty, ragged, too long, or overlaps the TCP header.
    BadFragment,
    /// TCP data offset below 20 bytes or beyond the packet.
    TcpHeaderLength,
    /// UDP length below 8 bytes or beyond the packet.
    UdpLength,
}

impl Malformed {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Malformed; 15] = [
        Malformed::TruncatedEthernet,
        Malformed::TruncatedIpv4,
        Malformed::TruncatedIpv6,
        Malformed::TruncatedL4,
        Malformed::BadVersion,
        Malformed::Ipv4HeaderLength,
        Malformed::Ipv4TotalLength,
        Malformed::Ipv4Options,
        Malformed::Ipv6PayloadLength,
        Malformed::Ipv6Extensions,
        Malformed::MappedAddress,
        Malformed::SourceRoute,
        Malformed::BadFragment,
        Malformed::TcpHeaderLength,
        Malformed::UdpLength,
    ];

    /// The name used in metrics and by the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Malformed::TruncatedEthernet => "truncated_ethernet",
            Malformed::TruncatedIpv4 => "truncated_ipv4",
            Malformed::TruncatedIpv6 => "truncated_ipv6",
            Malformed::TruncatedL4 => "truncated_l4",
            Malformed::BadVersion => "bad_version",
            Malformed::Ipv4HeaderLength => "ipv4_header_length",
            Malformed::Ipv4TotalLength => "ipv4_total_length",
            Malformed::Ipv4Options => "ipv4_options",
            Malformed::Ipv6PayloadLength => "ipv6_payload_length",
            Malformed::Ipv6Extensions => "ipv6_extensions",
            Malformed::MappedAddress => "mapped_address",
            Malformed::SourceRoute => "source_route",
            Malformed::BadFragment => "bad_fragment",
            Malformed::TcpHeaderLength => "tcp_header_length",
            Malformed::UdpLength => "udp_length",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl core::error::Error for Malformed {}
