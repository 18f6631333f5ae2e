//! The shared libraries that programs need, as this machine's loader finds them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ImageError;

/// The libraries that any of the programs needs, the loader among them, sorted.
///
/// # Errors
/// `ldd` does not run; a library is not on this machine.
pub fn find_libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(libraries_of(program)?);
    }
    Ok(libraries)
}

/// The libraries that a program needs; none if it is static.
///
/// # Errors
/// As [`find_libraries`].
pub fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, ImageError> {
    // The text of ldd is translated.
    let output = Command::new("ldd").env("LC_ALL", "C").arg(program).output();
    let output = output.map_err(|error| ImageError::Run { program: "ldd", error })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        if complaint.contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        let (path, output) = (program.to_owned(), complaint.trim().to_owned());
        return Err(ImageError::Failed { program: "ldd", path, output });
    }
    parse_ldd(&text).map_err(|library| ImageError::LibraryMissing {
        path: program.to_owned(),
        library: library.to_owned(),
    })
}

/// The paths in what `ldd` says, or the name of a library that it did not find.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>, &str> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            return Err(name);
        }
        // The kernel's own (linux-vdso) has no path.
        if place.starts_with('/') {
            let path = place.split_once(" (").map_or(place, |(path, _)| path);
            paths.push(path.into());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_what_is_missing_is_named() {
        let text = "\tlinux-vdso.so.1 (0x00007f71fe597000)\n\
                    \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f71fe54c000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f71fe599000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(text), Ok(expected.map(PathBuf::from).to_vec()));
        assert_eq!(parse_ldd("\tstatically linked\n"), Ok(vec![]));
        assert_eq!(parse_ldd("\tlibelf.so.1 => not found\n"), Err("libelf.so.1"));
    }
}
