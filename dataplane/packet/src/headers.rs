//! What parsing finds: the kind of a frame, where its headers lie, what it is about.

use crate::flow_key::FlowKey;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    Ip(Packet),
    Arp,
    /// An 802.1Q or 802.1ad tag. Trunks deliver frames untagged; nothing behind a tag is parsed.
    Vlan,
    /// Another EtherType (or an 802.3 length, below 0x600).
    Other(u16),
}

/// An IP packet: where its headers are, and its flow (`zone` 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub headers: Headers,
    pub key: FlowKey,
}

/// Offsets into the frame in bytes, and the few fields that decisions need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Start of the IP header.
    pub l3: u16,
    /// Start of the L4 header, behind IPv4 options and IPv6 extension headers.
    pub l4: u16,
    /// End of the IP datagram. Ethernet padding may lie behind it.
    pub end: u16,
    /// 4 or 6.
    pub family: u8,
    /// The L4 protocol, behind all IPv6 extension headers.
    pub protocol: u8,
    /// [`crate::tcp_flags`]; 0 for other protocols and later fragments.
    pub tcp_flags: u8,
    pub fragment: Fragment,
    /// Time to live, or hop limit.
    pub ttl: u8,
    pub icmp: IcmpKind,
    /// IPv4 options or IPv6 extension headers are present.
    pub has_extensions: bool,
    /// Identification of a fragmented datagram; 0 where `fragment` is `None`.
    pub fragment_id: u32,
}

/// Which part of a datagram a packet holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// All of it (also an IPv6 "atomic fragment", RFC 6946).
    #[default]
    None,
    /// Its beginning, with the L4 header.
    First,
    /// A part without the L4 header.
    Later,
}

/// What an ICMP or ICMPv6 message is about. Later fragments are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IcmpKind {
    /// Not ICMP.
    #[default]
    None,
    EchoRequest,
    EchoReply,
    /// Quotes the packet that it is about: unreachable, too big, time exceeded and the like.
    Error,
    Redirect,
    NeighbourSolicitation,
    NeighbourAdvertisement,
    RouterSolicitation,
    Other,
}
