//! Whatever a kill or a bad disk leaves behind, what is read is a state that was accepted.

use weir_api::v1::{BackendSet, Object, ObjectRef as WireRef, object, object_ref};

use super::*;
use crate::clock::{Clock, MonotonicClock};

fn set(name: &str, backends: usize) -> Object {
    let backend = v1::Backend { address: vec![10, 0, 0, 1], l4_port: 80, ..Default::default() };
    let backends = vec![backend; backends];
    let set = BackendSet { name: name.into(), backends, ..BackendSet::default() };
    Object { kind: Some(object::Kind::BackendSet(set)) }
}

fn change(revision: u64, upserts: Vec<Object>, deletes: &[&str]) -> Update {
    let name = |name: &&str| WireRef { kind: Some(object_ref::Kind::BackendSet((*name).into())) };
    Update { revision, resync: false, upserts, deletes: deletes.iter().map(name).collect() }
}

fn state(revision: u64, upserts: Vec<Object>) -> Update {
    Update { revision, resync: true, upserts, deletes: Vec::new() }
}

/// A base of revision 1 with two sets, and the changes up to revision 4; the state after each.
fn write(path: &Path) -> Vec<Update> {
    let (a, b) = (set("a", 1), set("b", 2));
    let mut file = StateFile::new(path.into());
    assert!(!file.is_open());
    file.replace(1, [&a, &b].into_iter()).expect("saved");
    file.append(&change(2, vec![set("a", 3)], &[])).expect("appended");
    file.append(&change(3, vec![set("c", 1)], &["b"])).expect("appended");
    file.append(&change(4, vec![], &["a", "unknown"])).expect("appended");
    vec![
        state(1, vec![a, b.clone()]),
        state(2, vec![set("a", 3), b]),
        state(3, vec![set("a", 3), set("c", 1)]),
        state(4, vec![set("c", 1)]),
    ]
}

fn load(path: &Path) -> Option<Update> {
    StateFile::new(path.into()).load().expect("readable")
}

#[test]
fn what_was_saved_is_loaded_and_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state/state.pb");
    assert!(load(&path).is_none(), "no file is fine");
    let states = write(&path);
    let mut file = StateFile::new(path.clone());
    assert_eq!(file.load().expect("readable").as_ref(), states.last());
    assert!(file.is_open() && !file.is_long());
    file.append(&change(5, vec![set("d", 1)], &["c"])).expect("appended");
    assert_eq!(load(&path), Some(state(5, vec![set("d", 1)])));
}

#[test]
fn damage_of_the_base_is_named_and_the_next_state_is_saved() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.pb");
    write(&path);
    let whole = std::fs::read(&path).expect("a base");
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
    damaged.push([&whole[..], &[0]].concat());
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damaged.push(bytes);
    }
    for bytes in damaged {
        std::fs::write(&path, &bytes).expect("written");
        let mut file = StateFile::new(path.clone());
        let error = file.load().expect_err("damaged").to_string();
        assert!(error.contains("state.pb is not a saved state"), "{error}");
        assert_eq!(std::fs::read(&path).expect("left"), bytes, "it stays where it is");
        // The journal of the lost base must not be taken for one of the new base.
        assert!(!file.is_open());
        let journal = dir.path().join("state.pb.journal");
        let old = std::fs::read(&journal).expect("a journal");
        file.replace(9, [set("z", 1)].iter()).expect("saved");
        std::fs::write(&journal, &old).expect("killed before the new journal");
        assert_eq!(load(&path), Some(state(9, vec![set("z", 1)])));
        write(&path);
    }
}

#[test]
fn a_journal_cut_anywhere_keeps_all_that_is_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.pb");
    let states = write(&path);
    let journal = dir.path().join("state.pb.journal");
    let whole = std::fs::read(&journal).expect("a journal");
    let ends = record_ends(&whole);
    assert_eq!(ends.len(), states.len());
    for length in 0..=whole.len() {
        std::fs::write(&journal, &whole[..length]).expect("written");
        let records = ends.iter().filter(|&&end| end <= length).count();
        let mut file = StateFile::new(path.clone());
        let loaded = file.load().expect("readable");
        assert_eq!(loaded.as_ref(), Some(&states[records.max(1) - 1]), "{length} bytes");
        // A journal without its header is written anew, after a new base.
        assert_eq!(file.is_open(), records > 0);
        if file.is_open() {
            file.append(&change(7, vec![set("new", 1)], &[])).expect("appended");
            let after = load(&path).expect("a state");
            assert_eq!(after.revision, 7, "{length} bytes");
            assert!(after.upserts.contains(&set("new", 1)));
        }
    }
}

#[test]
fn a_flipped_bit_ends_the_journal_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.pb");
    let states = write(&path);
    let journal = dir.path().join("state.pb.journal");
    let whole = std::fs::read(&journal).expect("a journal");
    let ends = record_ends(&whole);
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&journal, &bytes).expect("written");
        let records = ends.iter().filter(|&&end| end <= bit / 8).count();
        assert_eq!(load(&path), Some(states[records.max(1) - 1].clone()), "bit {bit}");
    }
}

#[test]
fn a_long_journal_asks_for_a_new_base_and_its_generation_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.pb");
    write(&path);
    let mut file = StateFile::new(path.clone());
    file.load().expect("readable");
    let large = set("large", 20_000);
    let mut revision = 4;
    while !file.is_long() {
        revision += 1;
        file.append(&change(revision, vec![large.clone()], &[])).expect("appended");
    }
    let journal = dir.path().join("state.pb.journal");
    let old = std::fs::read(&journal).expect("a journal");
    assert!(old.len() as u64 > JOURNAL_BYTES_MIN, "{} bytes", old.len());
    file.replace(revision, [&large].into_iter()).expect("saved");
    assert!(!file.is_long());
    let expected = Some(state(revision, vec![large]));
    assert_eq!(load(&path), expected);
    // A process that is killed after the rename leaves the old journal, or none.
    std::fs::write(&journal, &old[..old.len() / 2]).expect("written");
    assert_eq!(load(&path), expected);
    std::fs::remove_file(&journal).expect("removed");
    assert_eq!(load(&path), expected);
}

#[test]
fn a_change_of_a_large_state_costs_as_much_as_the_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.pb");
    let sets: Vec<Object> =
        (0..10_000).map(|number| set(&format!("default/service-{number}:http"), 10)).collect();
    let timed = |what: &str, run: &mut dyn FnMut()| {
        let start = MonotonicClock.now();
        run();
        println!("{what}: {} us", (MonotonicClock.now().0 - start.0) / 1000);
    };
    let mut file = StateFile::new(path.clone());
    timed("base of 10,000 sets of 10", &mut || file.replace(1, sets.iter()).expect("saved"));
    let base = std::fs::metadata(&path).expect("a base").len();
    let changed = set("default/service-7:http", 9);
    timed("one change", &mut || {
        file.append(&change(2, vec![changed.clone()], &[])).expect("appended");
    });
    let journal = std::fs::metadata(dir.path().join("state.pb.journal")).expect("a journal").len();
    println!("base {base} bytes, journal {journal} bytes");
    assert!(base > 1_000_000 && journal < 1000);
    let mut loaded = None;
    timed("read again", &mut || loaded = load(&path));
    let loaded = loaded.expect("a state");
    assert_eq!((loaded.revision, loaded.upserts.len()), (2, 10_000));
    assert!(loaded.upserts.contains(&changed));
}

/// Where the header and each record end.
fn record_ends(journal: &[u8]) -> Vec<usize> {
    let mut ends = vec![HEADER_BYTES];
    while let Some((_, end)) = read_record(journal, ends[ends.len() - 1]) {
        ends.push(end);
    }
    ends
}
