//! What `weir policy check` says, workers do: the truth table of `policy/`, by packets in memory.
//!
//! Each node of its world is run with 1, 2 and 4 workers. The policies of one case follow those of
//! the one before, as users change them. For every probe a first packet comes in; it must go on or
//! be dropped, and by the very rules, as the offline judge says of the pods that the node has.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "../../control/tests/policy_truth/cases.rs"]
#[allow(dead_code, reason = "the expected verdicts are compared where the judge is tested")]
mod cases;
mod common;
#[path = "policy/run.rs"]
mod run;
#[path = "conformance/run/mod.rs"]
#[allow(dead_code, reason = "scripts are run elsewhere")]
mod scripts;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::world::Layout;
use run::{Node, Tally};
use weir_control::offline::Cluster;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy")
}

/// `CASE=name cargo test ...` runs only cases whose name contains this.
#[test]
fn packets_fare_as_the_check_says() {
    let (world, mut cases) = cases::read_folder(&folder());
    let only = std::env::var("CASE").unwrap_or_default();
    cases.retain(|case| case.name.contains(&only));
    assert!(!cases.is_empty(), "no case is called {only}");
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    let judge = |case: &cases::Case| {
        Cluster::read(&[file("world.yaml", &world), file("case.yaml", &case.manifests)]).0
    };
    let judges: Vec<Cluster> = cases.iter().map(judge).collect();
    let runs: Vec<(&str, Layout)> =
        ["node-1", "node-2"].iter().flat_map(|node| layouts().map(move |it| (*node, it))).collect();
    let (next, tally, failures) =
        (AtomicUsize::new(0), Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, layout)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut node = Node::new(name, layout.clone(), &world);
                    for (case, judge) in cases.iter().zip(&judges) {
                        failures.lock().unwrap().extend(node.run(case, judge));
                    }
                    tally.lock().unwrap().add(&node.tally);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let shown = &failures[..failures.len().min(20)];
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), shown.join("\n"));
    let tally = tally.into_inner().unwrap();
    println!("{} cases: {tally:?}", cases.len());
    assert!(!only.is_empty() || tally.is_telling(), "{tally:?}");
}

fn layouts() -> impl Iterator<Item = Layout> {
    [(1, 0), (2, 0), (2, 1), (4, 2)].into_iter().map(|(workers, salt)| Layout {
        salt,
        seed: u64::from(salt),
        flows: 1 << 15,
        ..Layout::of(workers)
    })
}
