//! An archive of images: `manifest.json`, a configuration per image, and the layers they share.

use std::{collections::BTreeSet, fs::File, io::BufWriter, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};
use weir_deploy::{archive::host_architecture, layer::Layer};

const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin:/sbin:/";

/// A layer as a tar.
pub struct Blob {
    bytes: Vec<u8>,
    /// SHA-256 of the bytes, in hexadecimal.
    digest: String,
}

impl Blob {
    pub fn new(layer: &Layer) -> Result<Self> {
        let bytes = layer.to_tar()?;
        let digest = digest_of(&bytes);
        Ok(Self { bytes, digest })
    }
}

/// SHA-256 in hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One image: its names and what it runs. All of an archive's images share what layers they can.
pub struct Image<'a> {
    pub names: Vec<String>,
    pub layers: Vec<&'a Blob>,
    pub entrypoint: Vec<&'a str>,
    /// The entrypoint's arguments when nobody gives others.
    pub arguments: Vec<&'a str>,
}

impl Image<'_> {
    fn config(&self) -> Value {
        let digests = self.layers.iter().map(|layer| format!("sha256:{}", layer.digest));
        json!({
            "architecture": host_architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "Env": [PATH],
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": digests.collect::<Vec<_>>() },
        })
    }
}

/// Writes the archive, whole or not at all.
pub fn write(path: &Path, images: &[Image]) -> Result<()> {
    let unfinished = path.with_extension("new");
    let file = File::create(&unfinished)
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    let mut tar = Builder::new(BufWriter::new(file));
    let (mut manifest, mut written) = (Vec::new(), BTreeSet::new());
    for image in images {
        let config = image.config().to_string();
        let config_name = format!("{}.json", digest_of(config.as_bytes()));
        append(&mut tar, &config_name, config.as_bytes())?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let name = format!("{}.tar", layer.digest);
            if written.insert(name.clone()) {
                append(&mut tar, &name, &layer.bytes)?;
            }
            layers.push(name);
        }
        manifest.push(json!({
            "Config": config_name,
            "RepoTags": image.names,
            "Layers": layers,
        }));
    }
    append(&mut tar, "manifest.json", Value::from(manifest).to_string().as_bytes())?;
    tar.into_inner()?.into_inner().map_err(|error| error.into_error())?;
    std::fs::rename(&unfinished, path)?;
    Ok(())
}

fn append(tar: &mut Builder<BufWriter<File>>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, io::Read};

    #[test]
    fn images_share_a_layer_and_name_it_by_its_digest() {
        let mut layer = Layer::default();
        layer.add_file("/etc/x", 0o644, b"x".to_vec());
        let layer = Blob::new(&layer).unwrap();
        let image = |name: &str, entrypoint| Image {
            names: vec![name.into()],
            layers: vec![&layer],
            entrypoint: vec![entrypoint],
            arguments: vec![],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.tar");
        write(&path, &[image("docker.io/a:1", "/a"), image("docker.io/b:1", "/b")]).unwrap();

        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(files.insert(name, bytes).is_none());
        }
        assert_eq!(files.len(), 4, "a manifest, two configurations, one layer");
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        for (number, entrypoint) in ["/a", "/b"].into_iter().enumerate() {
            let config = manifest[number]["Config"].as_str().unwrap();
            let config: Value = serde_json::from_slice(&files[config]).unwrap();
            assert_eq!(config["config"]["Entrypoint"][0], entrypoint);
            let name = manifest[number]["Layers"][0].as_str().unwrap();
            let digest = format!("sha256:{}", digest_of(&files[name]));
            assert_eq!(config["rootfs"]["diff_ids"][0], digest);
        }
    }
}
