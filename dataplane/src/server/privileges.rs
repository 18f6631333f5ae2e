//! What the process must be allowed to do, looked at before anything is touched.
//!
//! | capability | for |
//! |---|---|
//! | CAP_NET_ADMIN | links, routes, rules, neighbours, `/proc/sys/net`, attaching programs |
//! | CAP_NET_RAW | AF_XDP sockets, and the packet socket of announcements |
//! | CAP_BPF | maps, programs, links and their pins |
//! | CAP_PERFMON | the verifier admits the programs only with it |
//! | CAP_IPC_LOCK | packet memory counts as locked memory; a large enough `ulimit -l` will do too |
//!
//! Found by leaving out one after the other on Linux 6.18. CAP_SYS_ADMIN stands for CAP_BPF and
//! CAP_PERFMON; it is needed itself only to mount a bpffs where the machine has none. Nothing else
//! is needed: no CAP_SYS_RESOURCE, CAP_SYS_NICE or CAP_DAC_OVERRIDE for root.

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Capabilities that are missing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "missing {}: run weir-dataplane as root, or in a container add the capabilities NET_ADMIN, \
     NET_RAW, BPF, PERFMON and IPC_LOCK (where BPF and PERFMON are not known: SYS_ADMIN)",
    missing.join(", ")
)]
pub struct MissingCapabilities {
    /// Name and purpose of each.
    missing: Vec<String>,
}

/// Sees that this process may do what it must. `locked_bytes` is its packet memory.
///
/// # Errors
/// What is missing, all of it, and what for.
pub fn check(locked_bytes: u64) -> Result<(), MissingCapabilities> {
    // Where the kernel does not tell, its own refusals do later.
    let Ok(sets) = capabilities(None) else { return Ok(()) };
    let limit = getrlimit(Resource::Memlock).current;
    let is_lockable = limit.is_none_or(|limit| limit >= locked_bytes);
    judge(sets.effective, is_lockable)
}

fn judge(held: CapabilitySet, is_lockable: bool) -> Result<(), MissingCapabilities> {
    let is_admin = held.contains(CapabilitySet::SYS_ADMIN);
    let needed = [
        (CapabilitySet::NET_ADMIN, false, "CAP_NET_ADMIN (links, routes, programs)"),
        (CapabilitySet::NET_RAW, false, "CAP_NET_RAW (AF_XDP sockets)"),
        (CapabilitySet::BPF, is_admin, "CAP_BPF (eBPF maps and programs)"),
        (CapabilitySet::PERFMON, is_admin, "CAP_PERFMON (the eBPF verifier wants it)"),
        (CapabilitySet::IPC_LOCK, is_lockable, "CAP_IPC_LOCK (packet memory is locked memory)"),
    ];
    let missing: Vec<String> = needed
        .into_iter()
        .filter(|(capability, is_replaced, _)| !is_replaced && !held.contains(*capability))
        .map(|(_, _, name)| name.to_owned())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingCapabilities { missing }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let all = CapabilitySet::all();
        assert_eq!(judge(all, false), Ok(()));
        let old = all - CapabilitySet::BPF - CapabilitySet::PERFMON;
        assert_eq!(judge(old, false), Ok(()), "SYS_ADMIN stands for both");
        assert_eq!(judge(all - CapabilitySet::IPC_LOCK, true), Ok(()), "a large ulimit -l");
        let none = judge(CapabilitySet::empty(), false).unwrap_err().to_string();
        for name in ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON", "IPC_LOCK"] {
            assert!(none.contains(&format!("CAP_{name} (")), "{none}");
        }
        let one = judge(all - CapabilitySet::NET_RAW, true).unwrap_err().to_string();
        assert!(one.starts_with("missing CAP_NET_RAW (AF_XDP sockets): "), "{one}");
    }
}
