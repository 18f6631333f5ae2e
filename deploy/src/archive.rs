//! An image as one file: an OCI image layout in a tar, with docker's `manifest.json` beside it.
//!
//! OCI image specification 1.1: image-layout, manifest, config. containerd takes the name of an
//! imported image from the annotation `io.containerd.image.name`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::ImageError;
use crate::layer::{Blob, Layer, digest, new_header};

/// Images have no time of their own: it would make each build another image.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image to be written.
#[derive(Debug)]
pub struct Image<'a> {
    /// `REPOSITORY:TAG`; as Docker has it, a repository without a registry is one of
    /// `docker.io/library`.
    pub name: &'a str,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: &'a str,
    /// What runs if a container names nothing; empty for nothing.
    pub entrypoint: &'a [&'a str],
    /// `NAME=VALUE`.
    pub environment: &'a [&'a str],
    /// Of the image, for people.
    pub labels: &'a [(&'a str, &'a str)],
    /// From the bottom up.
    pub layers: &'a [Layer],
    /// Smaller and slower to make: for images that travel.
    pub is_compressed: bool,
}

/// This machine's architecture as images name it.
#[must_use]
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The name with which containerd knows an image: `weir:1` is `docker.io/library/weir:1`.
#[must_use]
pub fn full_name(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        // A registry has a dot or a port, or is this machine.
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

impl Image<'_> {
    /// Writes the archive; `path` is there only once it is whole. Gives the image's digest, as
    /// `sha256:HEX`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, path: &Path) -> Result<String, ImageError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = Path::new(&aside);
        let written = self.write_aside(aside).and_then(|digest| {
            std::fs::rename(aside, path)?;
            Ok(digest)
        });
        written.map_err(|error| {
            // It may not even have been made.
            let _ = std::fs::remove_file(aside);
            ImageError::File { path: path.to_owned(), error }
        })
    }

    fn write_aside(&self, path: &Path) -> io::Result<String> {
        let layers = self.layers.iter().map(|layer| layer.to_blob(self.is_compressed));
        let layers = layers.collect::<io::Result<Vec<_>>>()?;
        let config = self.config(&layers).to_string();
        let manifest = manifest(&config, &layers).to_string();
        let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        append(&mut tar, "oci-layout", layout.as_bytes())?;
        append(&mut tar, "index.json", self.index(&manifest).to_string().as_bytes())?;
        append(&mut tar, "manifest.json", self.docker(&config, &layers).to_string().as_bytes())?;
        append(&mut tar, &blob_path(&digest(manifest.as_bytes())), manifest.as_bytes())?;
        append(&mut tar, &blob_path(&digest(config.as_bytes())), config.as_bytes())?;
        for layer in &layers {
            append(&mut tar, &blob_path(&layer.digest), &layer.content)?;
        }
        tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        Ok(format!("sha256:{}", digest(manifest.as_bytes())))
    }

    fn config(&self, layers: &[Blob]) -> Value {
        let diff_ids = layers.iter().map(|it| format!("sha256:{}", it.diff_id));
        let labels = self.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": CREATED,
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": self.environment,
                "WorkingDir": "/",
                "Labels": labels.collect::<serde_json::Map<_, _>>(),
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>()},
        })
    }

    fn index(&self, manifest: &str) -> Value {
        let mut descriptor =
            describe("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        descriptor["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        descriptor["annotations"] = json!({
            "io.containerd.image.name": full_name(self.name),
            "org.opencontainers.image.ref.name": self.tag(),
        });
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor],
        })
    }

    /// The older format, by which docker loads.
    fn docker(&self, config: &str, layers: &[Blob]) -> Value {
        json!([{
            "Config": blob_path(&digest(config.as_bytes())),
            "RepoTags": [self.name],
            "Layers": layers.iter().map(|it| blob_path(&it.digest)).collect::<Vec<_>>(),
        }])
    }

    fn tag(&self) -> &str {
        let name = self.name.rsplit('/').next().unwrap_or(self.name);
        name.split_once(':').map_or("latest", |(_, tag)| tag)
    }
}

fn manifest(config: &str, layers: &[Blob]) -> Value {
    let layers = layers.iter().map(|it| {
        json!({
            "mediaType": it.media_type,
            "digest": format!("sha256:{}", it.digest),
            "size": it.content.len(),
        })
    });
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": layers.collect::<Vec<_>>(),
    })
}

fn describe(media_type: &str, content: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", digest(content)),
        "size": content.len(),
    })
}

fn blob_path(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, content: &[u8]) -> io::Result<()> {
    let mut header = new_header(tar::EntryType::Regular, 0o644, content.len());
    tar.append_data(&mut header, path, content)
}
