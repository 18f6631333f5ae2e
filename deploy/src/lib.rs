//! Container images from files, without a container engine: the same files give the same digest.
//!
//! - [`layer`]: a layer of directories, files and links.
//! - [`archive`]: images of layers, as one file that engines load (`docker load`, `podman load`,
//!   `ctr images import`, `skopeo copy oci-archive:`).
//! - [`libraries`]: the shared libraries that programs need.
//! - [`weir`]: weir's own image.
#![forbid(unsafe_code)]

pub mod archive;
mod error;
pub mod layer;
pub mod libraries;
pub mod weir;

pub use error::ImageError;
