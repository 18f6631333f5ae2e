//! The pin directory and the bpffs it must be in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::statfs,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use weir_xdp_redirect::LAYOUT_VERSION;

use super::AttachError;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Where systemd and others mount a bpffs; a directory cannot be made there otherwise.
const USUAL_MOUNT: &str = "/sys/fs/bpf";
const MAPS_PREFIX: &str = "maps_v";

/// Where the maps of this version are pinned.
pub fn maps_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("{MAPS_PREFIX}{LAYOUT_VERSION}"))
}

/// Where links are pinned.
pub fn links_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("links")
}

/// Makes `pin_dir` and its parts, and mounts a bpffs if there is none. Maps of other layouts are
/// unpinned: programs that still use them keep them until they are replaced.
pub fn prepare(pin_dir: &Path) -> Result<(), AttachError> {
    let usual = Path::new(USUAL_MOUNT);
    if pin_dir.starts_with(usual) && usual.exists() && !is_bpffs(usual)? {
        mount_bpffs(usual)?;
    }
    fs::create_dir_all(pin_dir).map_err(error(pin_dir, "making the directory"))?;
    if !is_bpffs(pin_dir)? {
        mount_bpffs(pin_dir)?;
    }
    let maps_dir = maps_dir(pin_dir);
    for dir in [&maps_dir, &links_dir(pin_dir)] {
        fs::create_dir_all(dir).map_err(error(dir, "making the directory"))?;
    }
    for dir in our_dirs(pin_dir)? {
        if dir != maps_dir && dir != links_dir(pin_dir) {
            fs::remove_dir_all(&dir).map_err(error(&dir, "removing maps of another version"))?;
        }
    }
    Ok(())
}

/// Whether a directory is in a bpffs.
pub fn is_bpffs(path: &Path) -> Result<bool, AttachError> {
    let stat = statfs(path).map_err(|e| error(path, "looking at its file system")(e.into()))?;
    Ok(stat.f_type as i64 == BPF_FS_MAGIC)
}

/// Removes everything of ours under `pin_dir`, the directory itself, and the bpffs mounted on it.
pub fn clear(pin_dir: &Path) -> Result<(), AttachError> {
    for dir in our_dirs(pin_dir)? {
        fs::remove_dir_all(&dir).map_err(error(&dir, "removing pins"))?;
    }
    let is_mount_point = match pin_dir.parent() {
        Some(parent) => !is_bpffs(parent)?,
        None => true,
    };
    if is_mount_point {
        unmount(pin_dir, UnmountFlags::empty())
            .map_err(|e| error(pin_dir, "unmounting its bpffs")(e.into()))?;
    }
    fs::remove_dir(pin_dir).map_err(error(pin_dir, "removing the directory"))
}

/// The directories of pins in `pin_dir`, of any version; the kernel has files of its own in the
/// root of a bpffs.
fn our_dirs(pin_dir: &Path) -> Result<Vec<PathBuf>, AttachError> {
    let is_ours = |dir: &PathBuf| {
        let name = dir.file_name().and_then(|name| name.to_str());
        *dir == links_dir(pin_dir) || name.is_some_and(|name| name.starts_with(MAPS_PREFIX))
    };
    Ok(entries(pin_dir)?.into_iter().filter(is_ours).collect())
}

/// Paths of a directory's entries, sorted.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>, AttachError> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .map_err(error(dir, "listing pins"))?;
    paths.sort();
    Ok(paths)
}

fn mount_bpffs(path: &Path) -> Result<(), AttachError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", path, "bpf", flags, None)
        .map_err(|e| error(path, "mounting a bpffs")(e.into()))?;
    tracing::info!(path = %path.display(), "mounted a bpffs");
    Ok(())
}

fn error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> AttachError {
    let path = path.to_owned();
    move |source| AttachError::Bpffs { path, action, source }
}
