//! What changes of policy cost, and the memory that it takes.

use std::hint::black_box;

use weir_perf::samples::{Group, Options, time_per_item_ns};
use weir_tables::policy::{Identity, SelectorId};
use weir_tables::{Object, Snapshot, Tables};

use crate::cluster;

const POLICIES: u32 = 1000;
const ENDPOINTS: u32 = 250;
/// Per sample; each is taken back.
const CHANGES: usize = 20;
/// An endpoint is selected by every so manieth policy.
const SELECTS: [(u32, &str); 2] = [(50, "each selects 5 pods"), (10, "each selects 25 pods")];

pub fn measure(options: &Options) {
    for (selects, name) in SELECTS {
        let what = format!("1,000 policies, {name}; 10,000 identities, 250 pods");
        one_change(options, &what, selects);
        full_load(options, &what, selects);
    }
}

fn everything(selects: u32) -> (Vec<Object>, Vec<Object>) {
    let rules = cluster::policies(POLICIES, ENDPOINTS, selects);
    let pods = (0..ENDPOINTS).map(|number| cluster::endpoint(number, &format!("rules {number}")));
    (cluster::peers(), rules.into_iter().chain(pods).collect())
}

fn load(objects: (Vec<Object>, Vec<Object>)) -> (Tables, Snapshot) {
    let mut tables = Tables::new(1);
    cluster::load(&mut tables, objects.0);
    cluster::load(&mut tables, objects.1);
    let snapshot = tables.snapshot();
    (tables, snapshot)
}

fn one_change(options: &Options, what: &str, selects: u32) {
    let heading = format!("one change, {what}");
    if !options.wants(&heading) {
        return;
    }
    let known = with_selectors_of(0, None);
    // No other identity is of both applications.
    let new = with_selectors_of(0, Some(SelectorId(7)));
    let mut group = Group::new(&heading, "us per change, with the snapshot");
    for (name, objects) in [("like others", known), ("like no other", new)] {
        let (mut tables, mut current) = load(everything(selects));
        group.case(format!("a pod with an identity {name}"), move || {
            let sample = time_per_item_ns(2 * CHANGES, || {
                for _ in 0..CHANGES {
                    cluster::load(&mut tables, objects.clone());
                    drop(std::mem::replace(&mut current, tables.snapshot()));
                    objects.iter().for_each(|object| tables.delete(&object.name()));
                    drop(std::mem::replace(&mut current, tables.snapshot()));
                }
            });
            black_box(&current);
            sample / 1e3
        });
    }
    group.measure(options).print();
}

/// One more identity with its pod: with the selectors of another, and one besides.
fn with_selectors_of(other: u32, besides: Option<SelectorId>) -> [Object; 2] {
    let [_, address] = cluster::identity(cluster::IDENTITIES);
    let [Object::Identity(other), _] = cluster::identity(other) else {
        unreachable!("an identity and its address")
    };
    let selectors = other.selectors.iter().copied().chain(besides).collect();
    let Object::PeerAddress { identity: id, .. } = address else {
        unreachable!("an identity and its address")
    };
    [Object::Identity(Identity { id, selectors, ..other }), address]
}

fn full_load(options: &Options, what: &str, selects: u32) {
    let heading = format!("full load, {what}");
    if !options.wants(&heading) {
        return;
    }
    let (tables, snapshot) = load(everything(selects));
    let all: Vec<_> = snapshot.policy().tables().collect();
    let bytes: usize = all.iter().map(|table| table.bytes()).sum();
    let rows: usize = all.iter().flat_map(|table| table.row_counts()).sum();
    let (kib, rows) = (bytes / all.len() / 1024, rows / all.len());
    println!("{what}: {kib} KiB and {rows} rows per table, without the text of rules");
    drop((tables, snapshot));
    let mut group = Group::new(&heading, "ms");
    group.case("upserts and one snapshot", || {
        let objects = everything(selects);
        let mut loaded = None;
        let sample = time_per_item_ns(1, || loaded = Some(load(objects)));
        sample / 1e6
    });
    group.measure(options).print();
}
