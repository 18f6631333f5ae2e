//! What the CNI plugin and the agent must agree on without asking: names, and the gateway.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::convert::Mac;
use crate::v1::Attachment;

/// Next hop of every pod; no interface has it, pods know it by a permanent neighbour entry.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// MAC address of the gateway, and of the host side of every pod's veth.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x77, 0x65, 0x69, 0x72, 0x01]);

/// What the names of the host sides of all pods' veths begin with.
pub const HOST_INTERFACE_PREFIX: &str = "weirp";

/// Digits behind the prefix: together 15 bytes, the most that a name can have (IFNAMSIZ).
const NAME_DIGITS: usize = 10;

/// Name of the host side of an attachment's veth. It follows from the attachment alone, so that a
/// veth can be removed while no agent answers. Of 250 attachments two have the same name with a
/// probability below 1 in 30 million; the agent refuses the second.
#[must_use]
pub fn host_interface(attachment: &Attachment) -> String {
    let digits = format!("{:016x}", hash(attachment, b"name"));
    format!("{HOST_INTERFACE_PREFIX}{}", &digits[..NAME_DIGITS])
}

/// Whether a name is one that [`host_interface`] gives.
#[must_use]
pub fn is_host_interface(name: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.strip_prefix(HOST_INTERFACE_PREFIX)
        .is_some_and(|it| it.len() == NAME_DIGITS && it.bytes().all(is_digit))
}

/// MAC address of the interface inside the container: locally administered, unicast, never the
/// gateway's.
#[must_use]
pub fn pod_mac(attachment: &Attachment) -> Mac {
    let [a, b, c, d, e, ..] = hash(attachment, b"mac").to_be_bytes();
    // The second nibble tells locally administered from given by a maker (IEEE 802); 0x0a keeps
    // off 0x02, which the gateway and the trunk's headers begin with.
    Mac([0x0a, a, b, c, d, e])
}

/// FNV-1a with 64 bits, and the finalizer of SplitMix64 so that leading digits spread.
fn hash(attachment: &Attachment, purpose: &[u8]) -> u64 {
    let parts = [attachment.container_id.as_bytes(), attachment.ifname.as_bytes(), purpose];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.join(&0_u8) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn attachment(container_id: &str, ifname: &str) -> Attachment {
        Attachment { container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn names_are_stable_and_fit() {
        let eth0 = attachment("4b1d6c", "eth0");
        // A plugin of another version must find the same interface.
        assert_eq!(host_interface(&eth0), "weirp733ee668f6");
        assert_eq!(host_interface(&eth0).len(), 15);
        assert!(is_host_interface(&host_interface(&eth0)));
        for other in ["weir0", "weirt0", "weirp", "weirp0123", "weirpABCDEF0123", "eth0"] {
            assert!(!is_host_interface(other), "{other}");
        }
        let others = [attachment("4b1d6c", "eth1"), attachment("4b1d6", "ceth0")];
        for other in others {
            assert_ne!(host_interface(&other), host_interface(&eth0));
            assert_ne!(pod_mac(&other), pod_mac(&eth0));
        }
    }

    #[test]
    fn many_attachments_have_names_of_their_own() {
        let all: BTreeSet<_> =
            (0..10_000).map(|it| host_interface(&attachment(&format!("{it:x}"), "eth0"))).collect();
        assert_eq!(all.len(), 10_000);
        let mac = pod_mac(&attachment("a", "eth0"));
        assert_eq!(mac.0[0] & 3, 2, "locally administered, unicast");
    }
}
