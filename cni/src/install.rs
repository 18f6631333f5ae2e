//! `weir-cni --install DIR`: puts a copy of this program where runtimes look for plugins, and the
//! plugin `loopback` beside it if there is none.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Name of the plugin's file.
pub const NAME: &str = "weir-cni";

/// Name of the plugin for `lo`. Ours is a link to [`NAME`] beside it: it follows every update, and
/// is told apart from another project's by what it leads to.
pub const LOOPBACK: &str = "loopback";

/// Copies this program into `folder`, in one step: a runtime starts the old one or the new one,
/// and one that runs is not disturbed. Gives what is ours there.
///
/// # Errors
/// The message names the file.
pub fn install(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let own = Path::new("/proc/self/exe");
    let program = fs::read(own).map_err(of_file(own))?;
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
        of_file(&target)(error)
    })?;
    let loopback = folder.join(LOOPBACK);
    match symlink(NAME, &loopback) {
        // Ours already, or somebody else's, which stays.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.map_err(of_file(&loopback))?,
    }
    Ok(find_own(folder))
}

/// Removes what [`install`] made, and gives it.
///
/// # Errors
/// The message names the file.
pub fn remove(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let own = find_own(folder);
    // The link first: it must never lead nowhere.
    for path in own.iter().rev() {
        fs::remove_file(path).map_err(of_file(path))?;
    }
    Ok(own)
}

fn find_own(folder: &Path) -> Vec<PathBuf> {
    let [program, loopback] = [NAME, LOOPBACK].map(|name| folder.join(name));
    let mut own = Vec::new();
    own.extend(program.exists().then_some(program));
    let is_own = fs::read_link(&loopback).is_ok_and(|target| target == Path::new(NAME));
    own.extend(is_own.then_some(loopback));
    own
}

fn of_file(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}
