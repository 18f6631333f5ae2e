//! One layer of an image. Entries are sorted, belong to root and have no time, so that the same
//! content gives the same digest whenever and wherever it is built.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

use crate::ImageError;

const DIRECTORY_MODE: u32 = 0o755;

#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: PathBuf },
}

/// What a layer holds, by absolute path.
#[derive(Debug, Default)]
pub struct Layer {
    /// Relative to the root. Sorted: a directory comes before what is in it.
    entries: BTreeMap<PathBuf, Entry>,
}

/// A layer as a blob of an archive.
#[derive(Debug)]
pub struct Blob {
    pub(crate) content: Vec<u8>,
    /// SHA-256 of the content as it lies in the archive, in hex.
    pub(crate) digest: String,
    /// SHA-256 of the tar inside, in hex.
    pub(crate) diff_id: String,
    pub(crate) media_type: &'static str,
}

impl Layer {
    /// Adds a directory, and those above it.
    pub fn add_directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.insert(path, Entry::Directory { mode })
    }

    /// Adds a file, and the directories above it.
    pub fn add_file(&mut self, path: &str, mode: u32, content: Vec<u8>) -> &mut Self {
        self.insert(path, Entry::File { mode, content })
    }

    /// Adds a file of this machine; links are followed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn add_copy(
        &mut self,
        path: &str,
        mode: u32,
        source: &Path,
    ) -> Result<&mut Self, ImageError> {
        let content = fs::read(source).map_err(ImageError::of_file(source))?;
        Ok(self.add_file(path, mode, content))
    }

    /// Adds a symbolic link, and the directories above it.
    pub fn add_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(path, Entry::Link { target: target.into() })
    }

    fn insert(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = Path::new(path.trim_start_matches('/'));
        for parent in path.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty()) {
            let directory = Entry::Directory { mode: DIRECTORY_MODE };
            self.entries.entry(parent.to_owned()).or_insert(directory);
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// The layer as a tar.
    ///
    /// # Errors
    /// A path is too long for a tar.
    pub fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => {
                    let mut header = new_header(tar::EntryType::Directory, *mode, 0);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Entry::File { mode, content } => {
                    let size = content.len();
                    let mut header = new_header(tar::EntryType::Regular, *mode, size);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    let mut header = new_header(tar::EntryType::Symlink, 0o777, 0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.into_inner()
    }

    /// The layer for archives. Compressed it is smaller and slower to make: for images that travel.
    ///
    /// # Errors
    /// A path is too long for a tar.
    pub fn to_blob(&self, is_compressed: bool) -> io::Result<Blob> {
        let tar = self.to_tar()?;
        let diff_id = digest(&tar);
        if !is_compressed {
            let media_type = "application/vnd.oci.image.layer.v1.tar";
            return Ok(Blob { content: tar, digest: diff_id.clone(), diff_id, media_type });
        }
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&tar)?;
        let content = gzip.finish()?;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        Ok(Blob { digest: digest(&content), content, diff_id, media_type })
    }
}

/// Of an entry that belongs to root and has no time.
pub(crate) fn new_header(entry_type: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// SHA-256 in hex.
#[must_use]
pub fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(layer: &Layer) -> Vec<(String, u32, u64)> {
        let tar = layer.to_tar().unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let describe = |it: tar::Entry<'_, _>| {
            let path = it.path().unwrap().display().to_string();
            (path, it.header().mode().unwrap(), it.header().mtime().unwrap())
        };
        entries.map(describe).collect()
    }

    #[test]
    fn entries_are_sorted_below_their_directories_and_have_no_time() {
        let mut layer = Layer::default();
        layer.add_file("/usr/bin/b", 0o755, b"b".to_vec());
        layer.add_file("/usr/bin/a", 0o644, b"a".to_vec());
        layer.add_link("/bin", "usr/bin").add_directory("/tmp", 0o1777);
        let expected = [
            ("bin", 0o777),
            ("tmp", 0o1777),
            ("usr", 0o755),
            ("usr/bin", 0o755),
            ("usr/bin/a", 0o644),
            ("usr/bin/b", 0o755),
        ];
        let expected = expected.map(|(path, mode)| (path.to_owned(), mode, 0));
        assert_eq!(list(&layer), expected);
    }

    #[test]
    fn the_order_in_which_a_layer_is_filled_does_not_matter() {
        let (mut one, mut other) = (Layer::default(), Layer::default());
        one.add_directory("/tmp", 0o1777).add_file("/tmp/x", 0o644, b"x".to_vec());
        other.add_file("/tmp/x", 0o644, b"x".to_vec()).add_directory("/tmp", 0o1777);
        for is_compressed in [false, true] {
            let blobs = [&one, &other].map(|it| it.to_blob(is_compressed).unwrap());
            assert_eq!(blobs[0].digest, blobs[1].digest);
            assert_eq!(blobs[0].digest == blobs[0].diff_id, !is_compressed);
        }
        other.add_file("/tmp/x", 0o644, b"y".to_vec());
        assert_ne!(one.to_blob(false).unwrap().digest, other.to_blob(false).unwrap().digest);
    }

    #[test]
    fn a_digest_is_that_of_the_standard() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc"), expected);
    }
}
