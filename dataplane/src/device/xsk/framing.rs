//! How a port is told apart on the wire: not at all, or by the trunk's header.

use weir_tables::PortId;
use weir_xdp_redirect::{PortHeader, TRUNK_FLAG_FROM_HOST, TRUNK_FLAG_TO_HOST};

use super::super::{Checksum, RxMeta};

/// Bytes of an Ethernet header: the least that is a packet.
const ETHERNET_LEN: usize = 14;

/// What the frames of a device look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Plain Ethernet: an uplink. Everything received is from [`PortId::UPLINK`].
    Plain {
        /// The uplink's interface: the one port this device delivers to.
        port: PortId,
        /// `MaybePartial` where the other end is a veth of this machine.
        checksum: Checksum,
    },
    /// A MAC of each frame names a port: the destination of what is received, the source of what is
    /// sent (`weir_xdp_redirect::PortHeader`).
    Trunk {
        /// The outer end of `weir0`, if there is one: the port of the host. Frames for it leave by
        /// the interface itself, all others appear inside the pod. [`PortId::HOST`] means this one.
        host: Option<PortId>,
        /// Ports that this trunk does not deliver to.
        uplinks: Vec<PortId>,
    },
}

impl Framing {
    /// Whether a device with this framing delivers to `port`.
    #[inline]
    pub fn carries(&self, port: PortId) -> bool {
        match self {
            Framing::Plain { port: own, .. } => port == *own,
            Framing::Trunk { host, .. } if port == PortId::HOST => host.is_some(),
            Framing::Trunk { uplinks, .. } => port != PortId::UPLINK && !uplinks.contains(&port),
        }
    }

    /// Where a received frame came from; `None` where it is no packet of a port.
    #[inline]
    pub fn source(&self, bytes: &[u8]) -> Option<(PortId, RxMeta)> {
        if bytes.len() < ETHERNET_LEN {
            return None;
        }
        match self {
            Framing::Plain { checksum, .. } => {
                Some((PortId::UPLINK, RxMeta { checksum: *checksum }))
            }
            Framing::Trunk { host, .. } => {
                let mac = bytes.first_chunk()?;
                let header = PortHeader::from_mac(*mac)?;
                let port = match (header.flags, PortId(header.ifindex)) {
                    // No interface has these numbers, and here they would mean something else.
                    (_, PortId::UPLINK | PortId::HOST) => return None,
                    // By its own port (to a service), or routed to a pod's veth.
                    (0, port) if *host == Some(port) => PortId::HOST,
                    (TRUNK_FLAG_FROM_HOST, _) => PortId::HOST,
                    (0, port) => port,
                    _ => return None,
                };
                Some((port, RxMeta { checksum: Checksum::MaybePartial }))
            }
        }
    }

    /// Addresses a frame to `port`. False where it is shorter than an Ethernet header, or this
    /// device does not carry the port.
    #[inline]
    pub fn address(&self, port: PortId, bytes: &mut [u8]) -> bool {
        if bytes.len() < ETHERNET_LEN || !self.carries(port) {
            return false;
        }
        if let Framing::Trunk { host, .. } = self {
            let header = match host {
                Some(host) if port == PortId::HOST || port == *host => {
                    PortHeader { flags: TRUNK_FLAG_TO_HOST, ifindex: host.0 }
                }
                _ => PortHeader { flags: 0, ifindex: port.0 },
            };
            bytes[6..12].copy_from_slice(&header.to_mac());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: PortId = PortId(2);
    const HOST: PortId = PortId(9);

    fn trunk() -> Framing {
        Framing::Trunk { host: Some(HOST), uplinks: vec![UPLINK] }
    }

    fn frame(start: [u8; 12]) -> [u8; 60] {
        let mut frame = [0; 60];
        frame[..12].copy_from_slice(&start);
        frame
    }

    #[test]
    fn a_trunk_reads_the_port_from_the_destination() {
        let source = |start| trunk().source(&frame(start)).map(|(port, _)| port);
        assert_eq!(source([2, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0]), Some(PortId(260)));
        assert_eq!(source([2, 1, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0]), Some(PortId::HOST));
        assert_eq!(source([2, 0x80, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0]), None, "unknown flag");
        assert_eq!(source([0x33; 12]), None, "no mark");
        assert_eq!(source([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "no interface");
        assert!(trunk().source(&[2; 13]).is_none(), "less than a header");
        let (_, meta) =
            trunk().source(&frame([2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])).expect("a port");
        assert_eq!(meta.checksum, Checksum::MaybePartial, "pods leave them to the hardware");
    }

    #[test]
    fn a_trunk_writes_the_port_to_the_source() {
        let mut bytes = frame([0xaa; 12]);
        assert!(trunk().address(PortId(0x0102_0304), &mut bytes));
        assert_eq!(bytes[..12], [0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 2, 0, 1, 2, 3, 4]);
        for host in [HOST, PortId::HOST] {
            assert!(trunk().address(host, &mut bytes));
            assert_eq!(bytes[6..12], [2, TRUNK_FLAG_TO_HOST, 0, 0, 0, 9]);
        }
        assert!(
            !trunk().address(UPLINK, &mut bytes) && !trunk().address(PortId::UPLINK, &mut bytes)
        );
        assert!(!trunk().address(HOST, &mut [0; 13]));
        let without = Framing::Trunk { host: None, uplinks: vec![] };
        assert!(!without.carries(PortId::HOST) && without.carries(HOST));
    }

    #[test]
    fn an_uplink_carries_itself_and_changes_nothing() {
        let plain = Framing::Plain { port: UPLINK, checksum: Checksum::Full };
        let mut bytes = frame([0xaa; 12]);
        assert!(plain.address(UPLINK, &mut bytes) && !plain.address(HOST, &mut bytes));
        assert_eq!(bytes, frame([0xaa; 12]));
        let (port, meta) = plain.source(&bytes).expect("a packet");
        assert_eq!((port, meta.checksum), (PortId::UPLINK, Checksum::Full));
    }
}
