//! The trunk header: six bytes of the Ethernet header that name a port.
//!
//! Port to worker it is the destination MAC (the source stays for the anti-spoofing check), worker
//! to port it is the source MAC (the destination is already the port's own).

/// First byte of a header: a locally administered unicast MAC.
pub const TRUNK_MARK: u8 = 0x02;

/// The kernel of this host routed the frame to the pod; the pod did not send it.
pub const TRUNK_FLAG_FROM_HOST: u8 = 1 << 0;

/// The frame leaves by the port's outer end itself, for the host port, whose inner end (`weir0`)
/// is in the same network namespace; without it, it appears inside the port's other namespace.
pub const TRUNK_FLAG_TO_HOST: u8 = 1 << 1;

/// A port and flags, as carried in a MAC: `02 : flags : ifindex (4 bytes, big endian)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortHeader {
    /// `TRUNK_FLAG_*`.
    pub flags: u8,
    /// Interface index of the port's outer end.
    pub ifindex: u32,
}

impl PortHeader {
    /// The header as a MAC.
    pub const fn to_mac(self) -> [u8; 6] {
        let [a, b, c, d] = self.ifindex.to_be_bytes();
        [TRUNK_MARK, self.flags, a, b, c, d]
    }

    /// The header in `mac`, unless it does not bear the mark.
    pub const fn from_mac(mac: [u8; 6]) -> Option<Self> {
        let [mark, flags, a, b, c, d] = mac;
        if mark != TRUNK_MARK {
            return None;
        }
        Some(Self { flags, ifindex: u32::from_be_bytes([a, b, c, d]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_mac() {
        let header = PortHeader { flags: TRUNK_FLAG_FROM_HOST, ifindex: 0x0102_0304 };
        assert_eq!(header.to_mac(), [2, 1, 1, 2, 3, 4]);
        assert_eq!(PortHeader::from_mac(header.to_mac()), Some(header));
        assert_eq!(PortHeader::from_mac([0x33, 0x33, 0, 0, 0, 1]), None);
    }
}
