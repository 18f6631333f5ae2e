//! Manifests from files, folders and standard input, once.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::source::file::FILE_BYTES_MAX;

/// Folders deeper than this are not read: a link into a parent would never end.
const DEPTH_MAX: usize = 16;

/// A manifest cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Not there, not to be read, or not text.
    #[error("{path}: cannot read the manifests: {error}")]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Longer than the agent takes.
    #[error("{path}: {bytes} bytes are more than {FILE_BYTES_MAX}: split the file")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

/// The texts of a file, whatever its name; of all manifests below a folder, as the agent's file
/// source reads them; or, for `-`, of standard input. In order of their paths.
///
/// # Errors
/// One cannot be read.
pub fn read_texts(path: &Path) -> Result<Vec<(PathBuf, String)>, ReadError> {
    let failed = |error| ReadError::File { path: path.to_owned(), error };
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map_err(failed)?;
        return Ok(vec![(PathBuf::from("stdin"), text)]);
    }
    let mut files = Vec::new();
    if fs::metadata(path).map_err(failed)?.is_dir() {
        list_manifests(path, DEPTH_MAX, &mut files)?;
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    files.into_iter().map(|path| Ok((path.clone(), read_text(path)?))).collect()
}

fn read_text(path: PathBuf) -> Result<String, ReadError> {
    let bytes = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) => return Err(ReadError::File { path, error }),
    };
    if bytes > FILE_BYTES_MAX as u64 {
        return Err(ReadError::TooLong { path, bytes });
    }
    fs::read_to_string(&path).map_err(|error| ReadError::File { path, error })
}

/// Hidden entries are left out, as in the agent's file source.
fn list_manifests(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), ReadError> {
    let failed = |error| ReadError::File { path: folder.to_owned(), error };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(b".") {
            continue;
        }
        // A link to nothing is no file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let extension = path.extension().and_then(|it| it.to_str());
        if metadata.is_dir() && depth > 0 {
            list_manifests(&path, depth - 1, files)?;
        } else if metadata.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    Ok(())
}
