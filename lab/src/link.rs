//! Plain veth pairs between hosts.

use std::{fmt::Write, sync::Arc};

use crate::{Host, Result, command, host::format_mac, lab::Inner};

/// How a veth pair is made; the default leaves everything to the kernel.
#[derive(Clone, Debug, Default)]
pub struct LinkOptions {
    /// Of both ends, in bytes.
    pub mtu: Option<u32>,
    /// Receive and transmit queues of each end: an AF_XDP socket is bound to one.
    pub queues: Option<u32>,
    /// MAC address of the first end.
    pub mac_a: Option<[u8; 6]>,
    /// MAC address of the second end.
    pub mac_b: Option<[u8; 6]>,
}

/// Makes the pair, both ends down, straight in the two namespaces: no name outside them is used.
pub(crate) fn add(
    lab: &Arc<Inner>,
    a: (&Host, &str),
    b: (&Host, &str),
    options: &LinkOptions,
) -> Result<()> {
    let (end_a, end_b) =
        (describe_end(a, options.mac_a, options), describe_end(b, options.mac_b, options));
    lab.with_made(|made| {
        command::ip(&format!("link add {end_a} type veth peer {end_b}"))?;
        made.links.push((a.0.namespace().into(), a.1.into()));
        Ok(())
    })
}

fn describe_end(end: (&Host, &str), mac: Option<[u8; 6]>, options: &LinkOptions) -> String {
    let (host, interface) = end;
    let mut words = format!("name {interface} netns {}", host.namespace());
    if let Some(mac) = mac {
        let _ = write!(words, " address {}", format_mac(mac));
    }
    if let Some(mtu) = options.mtu {
        let _ = write!(words, " mtu {mtu}");
    }
    if let Some(queues) = options.queues {
        let _ = write!(words, " numrxqueues {queues} numtxqueues {queues}");
    }
    words
}
