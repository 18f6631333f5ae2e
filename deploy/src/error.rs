//! Why an image is not made.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// An image could not be made.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file of this machine cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A program that makes the image did not run.
    #[error("cannot run {program}: {error}: is it installed?")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        error: io::Error,
    },
    /// A program that makes the image failed.
    #[error("{program} {path} failed: {output}")]
    Failed {
        /// The program.
        program: &'static str,
        /// Its argument.
        path: PathBuf,
        /// What it said.
        output: String,
    },
    /// A program would not start in the image.
    #[error("{path} needs the shared library {library}, which is not on this machine")]
    LibraryMissing {
        /// The program.
        path: PathBuf,
        /// The library.
        library: String,
    },
    /// A program of the host itself must not need what the host may not have.
    #[error("{path} is not static: it runs on hosts whose libraries may be older than {needs}")]
    NotStatic {
        /// The program.
        path: PathBuf,
        /// One of the libraries that it needs.
        needs: String,
    },
}

impl ImageError {
    /// For `map_err`, of what was done to `path`.
    pub(crate) fn of_file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }
}
