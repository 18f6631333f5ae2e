//! Trunks: a single-queue veth pair per worker, shared by all ports of that worker.
//!
//! Frames of ports are redirected into the outer end and arrive at the inner end's XDP program,
//! thus at the worker's socket; frames that the worker sends leave by the outer end. The kernel
//! itself must never put a packet there, so a trunk has no addresses, no ARP and no IPv6.

use super::{Error, Link, Netlink, link, offload, sysctl};

/// Largest MTU of the outer end when the inner end has a native XDP program with one buffer: a page
/// less headroom, Ethernet header and `skb_shared_info` (`veth_xdp_set` in `drivers/net/veth.c`).
pub const MTU_MAX: u32 = 3506;

/// How trunks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrunkConfig {
    /// Bytes; at least the pods' and the uplink's, at most [`MTU_MAX`].
    pub mtu: u32,
    /// The kernel finishes TCP and UDP checksums on the sender's core before a frame reaches the
    /// worker (`tx off` on the outer end). Otherwise the worker sees partial checksums.
    pub kernel_completes_checksums: bool,
}

impl Default for TrunkConfig {
    fn default() -> Self {
        Self { mtu: 1500, kernel_completes_checksums: true }
    }
}

/// A worker's trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// The end that tcx programs redirect into.
    pub outer: Link,
    /// The end with the XDP program and the socket.
    pub inner: Link,
}

impl Netlink {
    /// The trunk of `worker`: `weirtN` (outer) and `weirtNi` (inner), made if absent, adopted if it
    /// has the right shape, made anew otherwise; in any case configured and up.
    ///
    /// # Errors
    /// [`Error::Mtu`], or what the kernel refused.
    pub async fn ensure_trunk(&self, worker: u32, config: &TrunkConfig) -> Result<Trunk, Error> {
        let (outer, inner) = (format!("weirt{worker}"), format!("weirt{worker}i"));
        if config.mtu > MTU_MAX {
            return Err(Error::Mtu { device: outer, mtu: config.mtu, max: MTU_MAX });
        }
        let pair = link::VethPair { a: &outer, b: &inner, is_single_queue: true };
        let (outer, inner) = pair.ensure(&self.handle).await?;
        for end in [&outer, &inner] {
            sysctl::disable_ipv6(&end.name)?;
            offload::set(&end.name, offload::Offload::Gro, false)?;
        }
        let tx = !config.kernel_completes_checksums;
        offload::set(&outer.name, offload::Offload::TxChecksum, tx)?;
        for end in [&inner, &outer] {
            link::set_up(&self.handle, end, config.mtu, false).await?;
        }
        Ok(Trunk {
            outer: link::require(&self.handle, &outer.name).await?,
            inner: link::require(&self.handle, &inner.name).await?,
        })
    }
}

/// Whether a link of this name is the outer end of a trunk.
pub(super) fn is_outer_name(name: &str) -> bool {
    name.strip_prefix("weirt")
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::is_outer_name;

    #[test]
    fn only_outer_ends_of_trunks_bear_their_name() {
        assert!(is_outer_name("weirt0") && is_outer_name("weirt63"));
        for other in ["weirt", "weirt0i", "weirtx", "weir0", "eth0"] {
            assert!(!is_outer_name(other), "{other}");
        }
    }
}
