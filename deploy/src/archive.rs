//! Images as one file: an OCI image layout in a tar, with docker's `manifest.json` beside it.
//!
//! OCI image specification 1.1: image-layout, manifest, config. containerd takes the name of an
//! imported image from the annotation `io.containerd.image.name`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::ImageError;
use crate::layer::{Blob, digest, new_header};

/// Images have no time of their own: it would make each build another image.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image to be written.
#[derive(Debug)]
pub struct Image<'a> {
    /// Each a `REPOSITORY:TAG`; as Docker has it, a repository without a registry is one of
    /// `docker.io/library`.
    pub names: &'a [&'a str],
    /// What runs if a container names nothing; empty for nothing.
    pub entrypoint: &'a [&'a str],
    /// The entrypoint's if a container gives no others.
    pub arguments: &'a [&'a str],
    /// `NAME=VALUE`.
    pub environment: &'a [&'a str],
    /// Of the image, for people.
    pub labels: &'a [(&'a str, &'a str)],
    /// From the bottom up. What images of one archive share is in it once.
    pub layers: &'a [&'a Blob],
}

/// This machine's architecture as images name it, who have it from Go.
fn host_architecture() -> &'static str {
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

/// Writes the archive; `path` is there only once it is whole. Gives the images' digests, each as
/// `sha256:HEX`.
///
/// # Errors
/// A file cannot be written.
pub fn write(path: &Path, images: &[Image]) -> Result<Vec<String>, ImageError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = Path::new(&aside);
    let written = write_aside(aside, images).and_then(|digests| {
        std::fs::rename(aside, path)?;
        Ok(digests)
    });
    written.map_err(|error| {
        // It may not even have been made.
        let _ = std::fs::remove_file(aside);
        ImageError::File { path: path.to_owned(), error }
    })
}

fn write_aside(path: &Path, images: &[Image]) -> io::Result<Vec<String>> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    let (mut written, mut digests) = (BTreeSet::new(), Vec::new());
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
    append(&mut tar, "oci-layout", layout.as_bytes())?;
    for image in images {
        let config = image.config().to_string();
        let manifest = manifest(&config, image.layers).to_string();
        let manifest_digest = digest(manifest.as_bytes());
        index.extend(image.describe(&manifest));
        docker.push(image.docker(&config));
        let own = [
            (manifest_digest.clone(), manifest.as_bytes()),
            (digest(config.as_bytes()), config.as_bytes()),
        ];
        let layers = image.layers.iter().map(|it| (it.digest.clone(), it.content.as_slice()));
        for (digest, content) in own.into_iter().chain(layers) {
            if written.insert(digest.clone()) {
                append(&mut tar, &blob_path(&digest), content)?;
            }
        }
        digests.push(format!("sha256:{manifest_digest}"));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": index,
    });
    append(&mut tar, "index.json", index.to_string().as_bytes())?;
    append(&mut tar, "manifest.json", Value::from(docker).to_string().as_bytes())?;
    tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
    Ok(digests)
}

impl Image<'_> {
    fn config(&self) -> Value {
        let diff_ids = self.layers.iter().map(|it| format!("sha256:{}", it.diff_id));
        let labels = self.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        json!({
            "architecture": host_architecture(),
            "os": "linux",
            "created": CREATED,
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "Env": self.environment,
                "WorkingDir": "/",
                "Labels": labels.collect::<serde_json::Map<_, _>>(),
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>()},
        })
    }

    /// For the index, by each name.
    fn describe(&self, manifest: &str) -> impl Iterator<Item = Value> {
        let mut descriptor =
            describe("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        descriptor["platform"] = json!({"architecture": host_architecture(), "os": "linux"});
        self.names.iter().map(move |name| {
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({
                "io.containerd.image.name": full_name(name),
                "org.opencontainers.image.ref.name": tag_of(name),
            });
            descriptor
        })
    }

    /// The older format, by which docker loads.
    fn docker(&self, config: &str) -> Value {
        json!({
            "Config": blob_path(&digest(config.as_bytes())),
            "RepoTags": self.names,
            "Layers": self.layers.iter().map(|it| blob_path(&it.digest)).collect::<Vec<_>>(),
        })
    }
}

fn tag_of(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn manifest(config: &str, layers: &[&Blob]) -> Value {
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
