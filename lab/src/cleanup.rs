//! What outlives a process: names that tell whose a namespace is, removal of what dead runs left,
//! and of labs that were kept on purpose.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::namespace;

/// One folder per lab. Like /run/netns it is empty after a reboot.
const FOLDER: &str = "/run/weir-lab";

/// The machine's bpffs. Programs pinned in it outlive their process and hold on to interfaces.
const PINS: &str = "/sys/fs/bpf";

/// In a lab's folder: it was left up on purpose.
const KEPT: &str = "kept";

/// What all names of a lab start with; a host adds `-NAME`.
pub(crate) fn prefix(lab: &str, pid: u32) -> String {
    format!("weir-{lab}-{pid}")
}

pub(crate) fn folder(prefix: &str) -> PathBuf {
    Path::new(FOLDER).join(prefix)
}

pub(crate) fn pin_folder(prefix: &str) -> PathBuf {
    // bpffs refuses names with a dot.
    Path::new(PINS).join(prefix.replace('.', "_"))
}

/// Removes a lab's pinned objects; most labs have none.
pub(crate) fn unpin(prefix: &str) {
    let folder = pin_folder(prefix);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("lab {prefix}: cannot remove {}: {error}", folder.display());
        }
        _ => {}
    }
}

pub(crate) fn mark_kept(folder: &Path) {
    if let Err(error) = fs::write(folder.join(KEPT), "") {
        eprintln!("{}: the next lab will remove this kept one: {error}", folder.display());
    }
}

/// Removes what labs left whose process no longer lives, except kept ones. Errors are not this
/// run's business: another process may be removing the same.
pub(crate) fn remove_stale() {
    remove(|prefix, pid| !is_alive(pid) && !folder(prefix).join(KEPT).exists());
}

/// Whether a process runs; one that was killed and not yet waited for (state Z, X) does not.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

/// Removes every lab of that name that [`Lab::keep`](crate::Lab::keep) left up, with the processes
/// inside, and gives their prefixes. Something that is already gone is not an error.
pub fn remove_kept(lab: &str) -> Vec<String> {
    remove(|prefix, pid| {
        // Also `lab.N`, when its process made others before.
        let name =
            prefix.strip_prefix("weir-").and_then(|rest| rest.strip_suffix(&pid.to_string()));
        let name = name.and_then(|rest| rest.split(['.', '-']).next());
        name == Some(lab) && folder(prefix).join(KEPT).exists()
    })
}

fn remove(chosen: impl Fn(&str, u32) -> bool) -> Vec<String> {
    let mut namespaces = namespace::list();
    namespaces.retain(|name| owner(name).is_some_and(|(prefix, pid)| chosen(prefix, pid)));
    let mut prefixes = folders();
    prefixes.retain(|name| owner(name).is_some_and(|(prefix, pid)| chosen(prefix, pid)));
    namespace::kill_inside(&namespaces);
    for name in &namespaces {
        let _ = namespace::delete(name);
    }
    for prefix in &prefixes {
        unpin(prefix);
        let _ = fs::remove_dir_all(folder(prefix));
    }
    prefixes
}

fn folders() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The lab prefix and the process of a namespace or folder that a lab made.
fn owner(name: &str) -> Option<(&str, u32)> {
    let mut parts = name.splitn(4, '-');
    let (weir, lab, pid) = (parts.next()?, parts.next()?, parts.next()?);
    let number = pid.parse().ok()?;
    (weir == "weir").then_some((&name[..weir.len() + lab.len() + pid.len() + 2], number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let host = format!("{}-pod-1", prefix("demo.2", 4711));
        assert_eq!(owner(&host), Some(("weir-demo.2-4711", 4711)));
        assert_eq!(owner("weir-demo-4711"), Some(("weir-demo-4711", 4711)));
        for foreign in ["cni-1-2", "weir-l7", "weir-node-x", "weir", ""] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
