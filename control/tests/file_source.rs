//! The watched directory: every way in which files change, with the kernel's real events.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::service;
use tokio::sync::mpsc;
use weir_control::model::{Object, ObjectKey};
use weir_control::source::Batch;
use weir_control::source::file::spawn_file_source;

struct Watched {
    folder: tempfile::TempDir,
    batches: mpsc::Receiver<Batch>,
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<String>,
}

impl Watched {
    /// Writes the files, starts the source and takes its first batch.
    async fn start(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(folder.path(), name, text);
        }
        let (sender, batches) = mpsc::channel(1);
        spawn_file_source(folder.path(), sender).unwrap();
        let mut watched = Self { folder, batches, objects: BTreeMap::new(), problems: Vec::new() };
        watched.next().await;
        watched
    }

    async fn next(&mut self) {
        let next = tokio::time::timeout(Duration::from_secs(10), self.batches.recv()).await;
        let batch = next.expect("no batch within 10 s").expect("the source has ended");
        for object in batch.upserts {
            self.objects.insert(object.key(), object);
        }
        for key in batch.removes {
            assert!(self.objects.remove(&key).is_some(), "{key} removed twice");
        }
        self.problems = batch.problems.iter().map(ToString::to_string).collect();
    }

    /// Takes batches until the names of the objects are these.
    async fn wait_for(&mut self, expected: &[&str]) {
        for _ in 0..50 {
            if self.names() == expected {
                return;
            }
            self.next().await;
        }
        panic!("never {expected:?}, but {:?}", self.names());
    }

    async fn expect_quiet(&mut self) {
        let quiet = tokio::time::timeout(Duration::from_millis(300), self.batches.recv()).await;
        assert!(quiet.is_err(), "an unexpected batch: {quiet:?}");
    }

    fn names(&self) -> Vec<String> {
        self.objects.keys().map(|key| key.name.name.clone()).collect()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn named(name: &str) -> String {
    service(name, "10.96.0.1", 80)
}

#[tokio::test]
async fn files_appear_change_move_and_go() {
    let mut watched = Watched::start(&[
        ("a.yaml", &named("a")),
        ("deep/er/b.yml", &named("b")),
        ("c.json", r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"c"}}"#),
        ("notes.txt", "not: [a manifest"),
        (".hidden.yaml", &named("hidden")),
        ("..data/x.yaml", &named("hidden")),
    ])
    .await;
    assert_eq!(watched.names(), ["a", "b", "c"], "{:?}", watched.problems);

    write(watched.path(), "new/folder/d.yaml", &named("d"));
    watched.wait_for(&["a", "b", "d", "c"]).await;
    write(watched.path(), "a.yaml", &named("a2"));
    watched.wait_for(&["a2", "b", "d", "c"]).await;
    // As editors and `kubectl kustomize > tmp && mv` do it.
    write(watched.path(), ".a.yaml.tmp", &named("a3"));
    fs::rename(watched.path().join(".a.yaml.tmp"), watched.path().join("a.yaml")).unwrap();
    watched.wait_for(&["a3", "b", "d", "c"]).await;
    fs::rename(watched.path().join("a.yaml"), watched.path().join("renamed.yaml")).unwrap();
    watched.expect_same_objects(&["a3", "b", "d", "c"]).await;
    fs::rename(watched.path().join("renamed.yaml"), watched.path().join("renamed.bak")).unwrap();
    watched.wait_for(&["b", "d", "c"]).await;
    fs::remove_dir_all(watched.path().join("deep")).unwrap();
    watched.wait_for(&["d", "c"]).await;
    fs::remove_file(watched.path().join("c.json")).unwrap();
    watched.wait_for(&["d"]).await;
}

impl Watched {
    /// A batch may come (places change), but no object goes.
    async fn expect_same_objects(&mut self, expected: &[&str]) {
        self.next().await;
        assert_eq!(self.names(), expected);
    }
}

#[tokio::test]
async fn a_broken_file_keeps_its_objects() {
    let text = named("a") + &named("b");
    let mut watched = Watched::start(&[("all.yaml", &text)]).await;
    write(watched.path(), "all.yaml", &(named("a") + "kind: [Service"));
    watched.next().await;
    assert_eq!(watched.names(), ["a", "b"]);
    assert_eq!(watched.problems.len(), 1, "{:?}", watched.problems);
    let problem = &watched.problems[0];
    assert!(problem.contains("all.yaml:6: refused: "), "{problem}");
    assert!(problem.ends_with("; staying as before: Service default/b"), "{problem}");
    write(watched.path(), "all.yaml", &named("b"));
    watched.wait_for(&["b"]).await;
    assert_eq!(watched.problems, [] as [String; 0]);
    // Not text at all.
    fs::write(watched.path().join("all.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    watched.next().await;
    assert_eq!(watched.names(), ["b"]);
    assert!(
        watched.problems[0].contains("all.yaml: refused: cannot read"),
        "{:?}",
        watched.problems
    );
}

#[tokio::test]
async fn a_file_that_is_being_written_is_read_when_it_is_closed() {
    let text = named("a") + &named("b") + &named("c");
    let mut watched = Watched::start(&[("all.yaml", &text)]).await;
    // Truncated, then written slowly: each prefix alone is fine YAML with fewer objects.
    let mut file = fs::File::create(watched.path().join("all.yaml")).unwrap();
    for name in ["a", "b"] {
        file.write_all(named(name).as_bytes()).unwrap();
        file.flush().unwrap();
        watched.expect_quiet().await;
    }
    file.write_all(named("d").as_bytes()).unwrap();
    drop(file);
    watched.next().await;
    assert_eq!(watched.names(), ["a", "b", "d"]);

    // A writer that never closes does not hold it up for ever.
    let mut file = fs::File::create(watched.path().join("all.yaml")).unwrap();
    file.write_all(named("e").as_bytes()).unwrap();
    watched.wait_for(&["e"]).await;
    drop(file);
}

#[tokio::test]
async fn a_config_map_volume_is_read_through_its_links() {
    let mut watched = Watched::start(&[]).await;
    let folder = watched.path().to_owned();
    write(&folder, "..2024/web.yaml", &named("a"));
    std::os::unix::fs::symlink("..2024", folder.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/web.yaml", folder.join("web.yaml")).unwrap();
    watched.wait_for(&["a"]).await;
    // The kubelet's update: a new folder, and the link replaced in one step.
    write(&folder, "..2025/web.yaml", &named("b"));
    std::os::unix::fs::symlink("..2025", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    watched.wait_for(&["b"]).await;
}

#[tokio::test]
async fn a_directory_that_goes_away_withdraws_nothing() {
    let mut watched = Watched::start(&[("sub/a.yaml", &named("a"))]).await;
    let folder = watched.path().to_owned();
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).unwrap();
    watched.next().await;
    assert_eq!(watched.names(), ["a"]);
    assert!(watched.problems[0].contains("everything stays as before"), "{:?}", watched.problems);
    fs::remove_dir_all(&aside).unwrap();
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, _receiver) = mpsc::channel(1);
    let error = spawn_file_source(&folder.path().join("none"), sender).unwrap_err();
    assert!(error.to_string().contains("none: cannot read the manifests: No such file"), "{error}");
}
