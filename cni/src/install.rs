//! `weir-cni --install DIR`: puts a copy of this program where runtimes look for plugins.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Name of the plugin's file.
pub const NAME: &str = "weir-cni";

/// Copies this program into `folder`, in one step: a runtime starts the old one or the new one,
/// and one that runs is not disturbed.
///
/// # Errors
/// The message names the file.
pub fn install(folder: &Path) -> io::Result<PathBuf> {
    let named = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"))
    };
    let own = Path::new("/proc/self/exe");
    let program = fs::read(own).map_err(named(own))?;
    let target = folder.join(NAME);
    let fresh = folder.join(format!(".{NAME}.{}", std::process::id()));
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(&program)?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        file.sync_all()?;
        // Closed before it can be started: a file open for writing is busy.
        drop(file);
        fs::rename(&fresh, &target)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&fresh);
        named(&target)(error)
    })?;
    Ok(target)
}
