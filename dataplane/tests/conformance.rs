//! What weir does with each field of a Kubernetes Service, row by row.
//!
//! A row is a script in `conformance/`: Kubernetes YAML in, packets in, packets and counters out.
//! Its first lines are the row of the README's feature table. `conformance/README.md` says how to
//! read and write scripts; no Rust is needed for that.
//!
//! Every script runs in every arrangement that must not matter: both families, 1, 2 and 4 workers,
//! pods on any of them, any queue of arrival.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;
#[path = "conformance/run/mod.rs"]
mod run;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use run::readme;
use run::script::Script;

/// The folder of the scripts.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// All scripts, in order.
fn scripts() -> Vec<Script> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
    paths.sort();
    assert!(paths.len() > 30, "the scripts are gone: {paths:?}");
    let cluster = std::fs::read_to_string(folder().join("cluster.yaml")).unwrap();
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        let text = std::fs::read_to_string(path).unwrap();
        Script::read(&name, &cluster, &text).unwrap_or_else(|error| panic!("{error}"))
    };
    paths.iter().map(read).collect()
}

/// `SCRIPT=name cargo test ...` runs only scripts whose file name contains this.
#[test]
fn every_script_gives_what_it_says() {
    let only = std::env::var("SCRIPT").unwrap_or_default();
    let mut scripts = scripts();
    scripts.retain(|script| script.file.contains(&only));
    assert!(!scripts.is_empty(), "no script is called {only}");
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = run::run(script) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn the_readme_has_a_row_for_every_script() {
    let path = folder().join("../../../README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let rows: Vec<(String, String)> =
        scripts().iter().map(|script| (script.feature.clone(), script.sentence.clone())).collect();
    let expected = readme::with_rows(&text, &rows).unwrap_or_else(|error| panic!("{error}"));
    if expected == text {
        return;
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    panic!(
        "README.md, the table of \"What works\", is not what the first lines of \
         dataplane/tests/conformance/*.txt say:\n{}edit the script where the sentence is wrong, \
         then UPDATE=1 cargo test -p weir-dataplane --test conformance",
        readme::difference(&text, &expected)
    );
}

#[test]
fn tests_that_scripts_point_to_exist() {
    for script in scripts() {
        let Some(path) = script.shown_by else { continue };
        let there = folder().join("../../..").join(&path).exists();
        assert!(there, "{}: there is no {path}", script.file);
    }
}

#[test]
fn a_wrong_script_fails_and_says_where() {
    let cluster = std::fs::read_to_string(folder().join("cluster.yaml")).unwrap();
    let text = "\
Wrong
never

== packets
from client-pod  udp client-pod:4000 > web-1:53
  to web-1       udp client-pod:4000 > web-1:53
from client-pod  udp client-pod:4001 > web-1:53
  to web-2       udp client-pod:4001 > web-1:53
";
    let script = Script::read("wrong.txt", &cluster, text).unwrap();
    let failure = run::run(&script).unwrap_err();
    for part in [
        "wrong.txt:7: from client-pod udp client-pod:4001 > web-1:53",
        "in IPv4, 1 worker",
        "expected  web-2: udp client-pod:4001 > web-1:53",
        "found     web-1: udp client-pod:4001 > web-1:53",
    ] {
        assert!(failure.contains(part), "{part}: {failure}");
    }
    let counters = text.replace("to web-2", "to web-1") + "  counters no_backend 1\n";
    let script = Script::read("wrong.txt", &cluster, &counters).unwrap();
    let failure = run::run(&script).unwrap_err();
    assert!(failure.contains("            counters no_backend 1\n  found"), "{failure}");
}
