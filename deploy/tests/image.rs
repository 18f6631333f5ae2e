//! An archive holds what the specifications say, and a program in it has the libraries it needs.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::BTreeMap;
use std::env::current_exe;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};
use weir_deploy::ImageError;
use weir_deploy::archive::{self, Image, full_name};
use weir_deploy::layer::{Blob, Layer};
use weir_deploy::libraries::{find_libraries, libraries_of};

fn layers(is_compressed: bool) -> [Blob; 2] {
    let (mut one, mut two) = (Layer::default(), Layer::default());
    one.add_directory("/tmp", 0o1777);
    two.add_file("/usr/local/bin/hello", 0o755, b"hello".to_vec());
    [one, two].map(|it| it.to_blob(is_compressed).unwrap())
}

fn image<'a>(names: &'a [&'a str], layers: &'a [&'a Blob]) -> Image<'a> {
    Image {
        names,
        entrypoint: &["/usr/local/bin/hello"],
        arguments: &["world"],
        environment: &["PATH=/usr/local/bin"],
        labels: &[("org.opencontainers.image.title", "weir")],
        layers,
    }
}

fn read(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), content);
    }
    files
}

fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap()
}

/// The blob of a descriptor, whose size and digest must be right.
fn follow<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let blob = &files[&format!("blobs/sha256/{hex}")];
    assert_eq!(descriptor["size"], blob.len());
    assert_eq!(hex, sha256(blob));
    blob
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|it| format!("{it:02x}")).collect()
}

#[test]
fn an_archive_leads_from_its_index_to_every_layer() {
    let directory = tempfile::tempdir().unwrap();
    for is_compressed in [false, true] {
        let path = directory.path().join("image.tar");
        let [one, two] = layers(is_compressed);
        let digests = archive::write(&path, &[image(&["weir:0.1.0"], &[&one, &two])]).unwrap();
        let files = read(&path);
        assert_eq!(json(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
        let index = json(&files, "index.json");
        let named = &index["manifests"][0];
        assert_eq!(digests, [named["digest"].as_str().unwrap()]);
        assert_eq!(
            named["annotations"]["io.containerd.image.name"],
            "docker.io/library/weir:0.1.0"
        );
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "0.1.0");
        let manifest: Value = serde_json::from_slice(follow(&files, named)).unwrap();
        let config: Value = serde_json::from_slice(follow(&files, &manifest["config"])).unwrap();
        assert_eq!(config["architecture"], named["platform"]["architecture"]);
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/hello");
        assert_eq!(config["config"]["Cmd"][0], "world");
        let mut layer_paths = Vec::new();
        for (layer, diff_id) in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
        {
            let blob = follow(&files, layer);
            let mut tar = Vec::new();
            match layer["mediaType"].as_str().unwrap() {
                "application/vnd.oci.image.layer.v1.tar" => tar.extend_from_slice(blob),
                "application/vnd.oci.image.layer.v1.tar+gzip" if is_compressed => {
                    flate2::read::GzDecoder::new(blob).read_to_end(&mut tar).unwrap();
                }
                other => panic!("{other}"),
            }
            assert_eq!(diff_id.as_str().unwrap(), format!("sha256:{}", sha256(&tar)));
            let hex = layer["digest"].as_str().unwrap().replace(':', "/");
            layer_paths.push(Value::String(format!("blobs/{hex}")));
        }
        let docker = json(&files, "manifest.json");
        assert_eq!(docker[0]["RepoTags"][0], "weir:0.1.0");
        assert_eq!(docker[0]["Layers"], Value::Array(layer_paths));
        assert!(files.contains_key(docker[0]["Config"].as_str().unwrap()));
    }
}

#[test]
fn images_have_all_their_names_and_share_their_layers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("images.tar");
    let [one, two] = layers(false);
    let (both, first) = ([&one, &two], [&one]);
    let images = [image(&["a:1", "a:2"], &both), image(&["b:1"], &first)];
    let digests = archive::write(&path, &images).unwrap();
    // `read` would take the second of two files of the same name.
    let count = tar::Archive::new(fs::File::open(&path).unwrap()).entries().unwrap().count();
    let files = read(&path);
    assert_eq!((count, files.len()), (9, 9), "three of the archive, two an image, two layers");
    let (index, docker) = (json(&files, "index.json"), json(&files, "manifest.json"));
    let names = ["a:1", "a:2", "b:1"];
    for (i, (name, digest)) in names.iter().zip([0, 0, 1].map(|it| &digests[it])).enumerate() {
        let named = &index["manifests"][i];
        assert_eq!(named["digest"], digest.as_str());
        let known_as = format!("docker.io/library/{name}");
        assert_eq!(named["annotations"]["io.containerd.image.name"], known_as);
        follow(&files, named);
    }
    assert_eq!(docker[0]["RepoTags"], serde_json::json!(["a:1", "a:2"]));
    assert_eq!(docker[0]["Layers"][0], docker[1]["Layers"][0]);
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| directory.path().join(name));
    for path in &paths {
        let [one, two] = layers(true);
        archive::write(path, &[image(&["weir:0.1.0"], &[&one, &two])]).unwrap();
    }
    assert_eq!(fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap());
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_archive_that_cannot_be_written_is_named() {
    let path = Path::new("/proc/weir-no-such-folder/image.tar");
    let error = archive::write(path, &[]).unwrap_err().to_string();
    assert!(error.starts_with("/proc/weir-no-such-folder/image.tar: "), "{error}");
}

#[test]
fn names_are_completed_as_docker_does() {
    assert_eq!(full_name("weir:0.1.0"), "docker.io/library/weir:0.1.0");
    assert_eq!(full_name("team/weir:1"), "docker.io/team/weir:1");
    assert_eq!(full_name("registry.example:5000/weir:1"), "registry.example:5000/weir:1");
    assert_eq!(full_name("localhost/weir:1"), "localhost/weir:1");
}

/// This test's own program starts in a root that holds nothing but what the image would.
#[test]
fn a_program_finds_its_libraries_in_the_image() {
    let program = current_exe().unwrap();
    let libraries = find_libraries(std::slice::from_ref(&program)).unwrap();
    assert!(libraries.iter().any(|it| it.to_string_lossy().contains("/libc.so")));
    let mut layer = Layer::default();
    layer.add_copy("/program", 0o755, &program).unwrap();
    for library in &libraries {
        layer.add_copy(&library.to_string_lossy(), 0o755, library).unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    tar::Archive::new(layer.to_tar().unwrap().as_slice()).unpack(root.path()).unwrap();
    let output = Command::new("chroot").arg(root.path()).args(["/program", "--list"]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("cannot change root directory") {
        println!("skipped: a program in a root of its own needs root: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(listed.contains("a_program_finds_its_libraries_in_the_image: test"), "{listed}");
}

#[test]
fn what_is_no_program_is_named() {
    let missing = PathBuf::from("/proc/weir-no-such-program");
    assert!(matches!(libraries_of(&missing), Err(ImageError::Failed { program: "ldd", .. })));
    // A file that is no program needs no libraries.
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), "#!/bin/sh\n").unwrap();
    assert_eq!(libraries_of(script.path()).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn weirs_image_wants_its_programs_and_a_static_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("weir.tar");
    let write = || weir_deploy::weir::write(folder.path(), "weir:0.1.0", false, &out);
    let error = write().unwrap_err().to_string();
    assert!(error.contains("/weir-cni: No such file"), "{error}");
    for program in weir_deploy::weir::PROGRAMS {
        fs::copy(current_exe().unwrap(), folder.path().join(program)).unwrap();
    }
    let error = write().unwrap_err().to_string();
    assert!(error.contains("/weir-cni is not static"), "{error}");
    assert!(!out.exists());
}
