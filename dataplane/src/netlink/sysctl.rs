//! Sysctls of this network namespace, through `/proc/sys/net` (which shows the namespace of the
//! thread that opens it).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Error;

/// Where this process finds `/proc/sys` writable.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Names the directory to use instead of `/proc/sys`, which is read-only in most containers: a
/// mount of the host's. Once, before anything else here; a second call changes nothing.
pub fn set_root(directory: &Path) {
    ROOT.get_or_init(|| directory.to_owned());
}

/// The file of a sysctl.
fn file(path: &str) -> PathBuf {
    ROOT.get().map_or(Path::new("/proc/sys"), PathBuf::as_path).join(path)
}

/// A sysctl that was changed, for the log and for whoever wants to undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlChange {
    /// File below `/proc/sys`.
    pub path: String,
    /// Value before.
    pub old: String,
    /// Value now.
    pub new: String,
}

/// Sets `/proc/sys/<path>` and logs the change; `None` if it had the value, or if the file is not
/// there because this kernel has no IPv6.
pub(super) fn set(path: &str, value: &str) -> Result<Option<SysctlChange>, Error> {
    let Some(old) = read(path)? else { return Ok(None) };
    if old == value {
        return Ok(None);
    }
    let file = file(path);
    // An empty value must be written too: nothing written is nothing set.
    std::fs::write(&file, format!("{value}\n"))
        .map_err(|source| Error::Sysctl { path: file.display().to_string(), source })?;
    tracing::info!(path, old, new = value, "sysctl changed");
    Ok(Some(SysctlChange { path: path.into(), old, new: value.into() }))
}

/// The value of `/proc/sys/<path>`; `None` for an IPv6 sysctl on a kernel without IPv6.
pub(super) fn read(path: &str) -> Result<Option<String>, Error> {
    let file = file(path);
    match std::fs::read_to_string(&file) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound && path.starts_with("net/ipv6/") => Ok(None),
        Err(source) => Err(Error::Sysctl { path: file.display().to_string(), source }),
    }
}

/// Keeps IPv6 off a device that only carries weir's frames: no address, no ND, no MLD.
pub(super) fn disable_ipv6(device: &str) -> Result<(), Error> {
    set(&format!("net/ipv6/conf/{device}/addr_gen_mode"), "1")?;
    set(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")?;
    Ok(())
}

/// Makes this namespace forward IPv4 and IPv6, for punted packets and for pods while no worker
/// runs. A forwarding host ignores router advertisements and drops the routes learned from them
/// (`Documentation/networking/ip-sysctl.rst`, accept_ra), so devices that obey them are first told
/// to go on.
pub(super) fn enable_forwarding() -> Result<Vec<SysctlChange>, Error> {
    let mut changes = Vec::new();
    if read("net/ipv6/conf/all/forwarding")?.as_deref() == Some("0") {
        let folder = file("net/ipv6/conf");
        let devices = std::fs::read_dir(&folder)
            .map_err(|source| Error::Sysctl { path: folder.display().to_string(), source })?;
        for device in devices.flatten().map(|entry| entry.file_name()) {
            if device == "all" || device == "default" {
                continue; // Links made later shall not obey advertisements: they may be pods'.
            }
            let path = format!("net/ipv6/conf/{}/accept_ra", device.to_string_lossy());
            if read(&path)?.as_deref() == Some("1") {
                changes.extend(set(&path, "2")?);
            }
        }
    }
    changes.extend(set("net/ipv6/conf/all/forwarding", "1")?);
    changes.extend(set("net/ipv4/ip_forward", "1")?);
    Ok(changes)
}
