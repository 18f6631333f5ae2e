//! The last accepted state on disk: one `Update` with everything, in the wire form of the protocol.
//!
//! Written to a temporary file, then renamed. It is not synced: it must outlive this process, and
//! after a crash of the whole machine every pod is attached anew anyway. A file that cannot be
//! read is left where it is and reported; the process then starts empty and waits for an agent.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use weir_api::v1::Update;

/// What went wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a saved state ({source}): starting without it; the agent will send all")]
    Damaged { path: PathBuf, source: prost::DecodeError },
}

/// Reads the saved state; `None` where there is none yet.
pub fn load(path: &Path) -> Result<Option<Update>, StateFileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateFileError::Io { path: path.into(), source }),
    };
    let damaged = |source| StateFileError::Damaged { path: path.into(), source };
    Update::decode(bytes.as_slice()).map(Some).map_err(damaged)
}

/// Replaces the saved state.
pub fn save(path: &Path, state: &Update) -> Result<(), StateFileError> {
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let mut file = tempfile_in(directory, path)?;
        file.1.write_all(&state.encode_to_vec())?;
        std::fs::rename(&file.0, path)
    };
    write().map_err(|source| StateFileError::Io { path: path.into(), source })
}

fn tempfile_in(directory: &Path, path: &Path) -> std::io::Result<(PathBuf, std::fs::File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let file = std::fs::File::create(&temporary)?;
    Ok((temporary, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state/accepted.bin");
        assert!(load(&path).expect("no file is fine").is_none());
        let state = Update { revision: 7, resync: true, ..Update::default() };
        save(&path, &state).expect("saved");
        assert_eq!(load(&path).expect("readable"), Some(state));
        std::fs::write(&path, [0xff; 9]).expect("written");
        let error = load(&path).expect_err("damaged").to_string();
        assert!(error.contains("accepted.bin"), "{error}");
    }
}
