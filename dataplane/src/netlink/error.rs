//! What can go wrong between the dataplane and the kernel.

use std::io;
use std::net::IpAddr;

/// An error of this module: it names the object and, where known, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket in this network namespace: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("cannot {action} {object}: {source}")]
    Refused {
        /// Verb.
        action: &'static str,
        /// Which link, route, address or neighbour.
        object: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A sysctl could not be read or written.
    #[error(
        "sysctl {path}: {source}; the dataplane needs CAP_NET_ADMIN and a writable /proc/sys/net: \
         in a container mount the host's /proc/sys and name the place with --proc-sys"
    )]
    Sysctl {
        /// Path of the file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An offload could not be set.
    #[error("{device}: cannot set offload {feature}: {source}")]
    Offload {
        /// Interface.
        device: String,
        /// ethtool's name of it.
        feature: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A link that was just made or named is not there.
    #[error("{0}: no such interface in this network namespace")]
    NoLink(String),
    /// More than a single-buffer XDP program can take.
    #[error("{device}: MTU {mtu} is above {max}, the most for XDP with one buffer; lower the MTU")]
    Mtu {
        /// Interface.
        device: String,
        /// Bytes asked for.
        mtu: u32,
        /// Bytes possible.
        max: u32,
    },
    /// A prefix of one family where the host port has no address of that family.
    #[error("service range {0}: weir0 has no address of that family; configure one")]
    NoSource(String),
    /// Too many neighbours are being resolved.
    #[error("{address} on interface {ifindex}: {max} neighbours are kept resolved already")]
    TooManyNeighbours {
        /// Next hop.
        address: IpAddr,
        /// Its interface.
        ifindex: u32,
        /// The limit.
        max: usize,
    },
    /// The task behind a [`super::KernelWatch`] ended.
    #[error("the kernel watch has stopped; see the log for why, and start it again")]
    Stopped,
}

impl Error {
    /// For `map_err`: the kernel refused to `action` the `object`.
    pub(super) fn refused(
        action: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(rtnetlink::Error) -> Self {
        let object = object.into();
        move |source| Self::Refused { action, object, source }
    }
}

/// The errno of a refusal, positive; 0 if it is none of the kernel's.
pub(super) fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    }
}
