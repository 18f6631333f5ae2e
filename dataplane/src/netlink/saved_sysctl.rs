//! Sysctls that weir changes with a way back: what they were before is kept in a file.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Error, SysctlChange, sysctl};

/// By sysctl: the value before weir, and weir's.
type Saved = BTreeMap<String, (String, String)>;

/// Sets a sysctl to what `wanted` makes of its value before weir, noted in the file `saved`.
pub(super) fn adjust(
    path: &str,
    saved: &Path,
    wanted: impl Fn(&str) -> Result<String, String>,
) -> Result<Option<SysctlChange>, String> {
    let text = |error: Error| error.to_string();
    let current = sysctl::read(path).map_err(text)?.unwrap_or_default();
    let mut all = load(saved);
    let before = match all.get(path) {
        Some((before, ours)) if *ours == current => before.clone(),
        _ => current.clone(),
    };
    let value = wanted(&before)?;
    if value == current {
        return Ok(None);
    }
    // The file first: whoever dies in between has changed nothing.
    all.insert(path.into(), (before, value.clone()));
    store(saved, &all)?;
    sysctl::set(path, &value).map_err(text)
}

/// Undoes every change that the file has noted; a sysctl that somebody else has set since stays,
/// and one of a device that is gone went with it.
///
/// # Errors
/// [`Error::Sysctl`], also for the file.
pub fn restore(saved: &Path) -> Result<Vec<SysctlChange>, Error> {
    let mut changes = Vec::new();
    for (path, (before, ours)) in load(saved) {
        match sysctl::read(&path) {
            Ok(Some(current)) if current == ours => changes.extend(sysctl::set(&path, &before)?),
            Ok(_) => {
                tracing::info!(path, before, "sysctl was set by somebody else since: it stays");
            }
            Err(Error::Sysctl { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    match std::fs::remove_file(saved) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Sysctl { path: saved.display().to_string(), source })
        }
        _ => Ok(changes),
    }
}

fn load(saved: &Path) -> Saved {
    let text = std::fs::read_to_string(saved).unwrap_or_default();
    // A damaged file holds nothing to go back to.
    serde_json::from_str(&text).unwrap_or_default()
}

fn store(saved: &Path, all: &Saved) -> Result<(), String> {
    let text = serde_json::to_string_pretty(all).map_err(|error| error.to_string())?;
    std::fs::write(saved, text).map_err(|error| format!("{}: {error}", saved.display()))
}
