//! What can go wrong, with the name of the thing and what to do.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use super::Interface;

/// An error of loading, attaching, or of a map.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The directory for pins cannot be used.
    #[error("{path}: {action}: {source}; pins need a bpffs: mount -t bpf bpf {path}")]
    Bpffs {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },

    /// The kernel refused the object or a map.
    #[error(
        "eBPF object with maps under {pin_dir}: {}; it needs CAP_BPF and CAP_NET_ADMIN, \
         and Linux 5.15",
        chain(source.as_ref())
    )]
    Load {
        /// The pin directory.
        pin_dir: PathBuf,
        /// Why it failed.
        source: Box<EbpfError>,
    },

    /// The kernel refused a program.
    #[error(
        "eBPF program {program}: {}; it needs CAP_BPF, CAP_NET_ADMIN and Linux 5.15",
        chain(source.as_ref())
    )]
    Program {
        /// The program.
        program: &'static str,
        /// Why it failed, with the verifier's words.
        source: Box<ProgramError>,
    },

    /// There is no such interface in this network namespace.
    #[error("{name}: no such interface in this network namespace: {source}")]
    NoInterface {
        /// Its name, or `ifindex N`.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// Another program sits on the interface.
    #[error(
        "{device}: another XDP program is attached; remove it (ip link set dev {0} xdp off, or \
         its owner's way) or choose another device",
        device.name
    )]
    Busy {
        /// The interface.
        device: Interface,
    },

    /// The program could not be attached.
    #[error("{device}: attaching {program}: {reason}")]
    Attach {
        /// The interface.
        device: Interface,
        /// The program.
        program: &'static str,
        /// Why, and what to do.
        reason: String,
        /// What the kernel said.
        source: Box<ProgramError>,
    },

    /// More uplinks or workers than there are socket slots.
    #[error("{device}: number {number} has no socket slot; use fewer uplinks or workers")]
    NoSlot {
        /// The interface.
        device: Interface,
        /// Number of the uplink or worker.
        number: u32,
    },

    /// A pinned link could not be read, made or removed.
    #[error("{path}: {action}: {}", chain(source.as_ref()))]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A map could not be opened, read or written.
    #[error("map {map}: {action}: {}", chain(source.as_ref()))]
    Map {
        /// The map.
        map: &'static str,
        /// What was tried, with the key.
        action: String,
        /// Why it failed.
        source: Box<MapError>,
    },

    /// A map has no room left.
    #[error("map {map}: {action}: all {max} entries are in use")]
    MapFull {
        /// The map.
        map: &'static str,
        /// What was tried, with the key.
        action: String,
        /// How many entries it has.
        max: u32,
    },
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The error number inside a program error, if the kernel gave one.
pub(super) fn os_error(error: &ProgramError) -> Option<i32> {
    use aya::programs::{tc::TcError, xdp::XdpError};
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    }
}
