//! Finds weir's other binaries.

use std::path::{Path, PathBuf};

/// The binary of this name beside our own, else the name alone, for the search path.
pub(super) fn locate_binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|folder| folder.join(name));
    beside.filter(|it| it.is_file()).unwrap_or_else(|| name.into())
}
