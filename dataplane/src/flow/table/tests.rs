//! The table against a naive model, expiry, fullness, and adoption.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_packet::tcp_flags::{ACK, FIN, RST, SYN};
use weir_packet::{Addr, Translation};

use super::*;
use crate::flow::Action;
use crate::flow::store::{self, StoreOptions};

fn key(number: u16) -> FlowKey {
    FlowKey {
        src: Addr::from_v4([10, 0, (number >> 8) as u8, number as u8]),
        dst: Addr::from_v4([10, 96, 0, 1]),
        sport: number,
        dport: 80,
        protocol: protocol::TCP,
        family: 4,
        zone: 0,
    }
}

fn direction(table: &FlowTable, key: FlowKey) -> Direction {
    let action = Action::Transmit { adjacency: 1 };
    let entry = FlowEntry::new(key, 1, Translation::NONE, action);
    Direction { entry, hash: table.hash(&key) }
}

fn learn_pair(table: &mut FlowTable, key: FlowKey) -> Result<u32, TableFull> {
    let forward = direction(table, key);
    let mut reverse = direction(table, key.reversed());
    reverse.entry.flags |= flow_flags::REPLY;
    table.learn(forward, Some(reverse))
}

fn find(table: &FlowTable, key: &FlowKey) -> Option<u32> {
    table.find(key, table.hash(key))
}

#[test]
fn directions_name_each_other_and_go_together() {
    let mut table = FlowTable::in_memory(16, 7, Timeouts::default());
    let number = learn_pair(&mut table, key(1)).expect("room");
    let peer = table.entry(number).peer;
    assert_eq!(find(&table, &key(1).reversed()), Some(peer));
    assert_eq!(table.entry(peer).peer, number);
    table.remove(peer);
    assert!(table.is_empty());
    assert_eq!(find(&table, &key(1)), None);
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    let mut table = FlowTable::in_memory(7, 7, Timeouts::default());
    for number in 0..3 {
        learn_pair(&mut table, key(number)).expect("room");
    }
    assert_eq!(learn_pair(&mut table, key(3)), Err(TableFull), "one entry is not two");
    assert_eq!(table.len(), 6, "nothing half-learned");
    assert!((0..3).all(|number| find(&table, &key(number)).is_some()));
}

#[test]
fn tcp_flows_expire_by_state() {
    let timeouts = Timeouts::default();
    type Case = (&'static str, &'static [(bool, u8)], u32);
    let handshake = &[(true, SYN), (false, SYN | ACK), (true, ACK)];
    let rows: [Case; 7] = [
        ("only a SYN", &[(true, SYN)], timeouts.tcp_syn_ms),
        ("answered", &[(true, SYN), (false, SYN | ACK)], timeouts.tcp_syn_ms),
        ("answered, and both go on", handshake, timeouts.tcp_established_ms),
        ("an ACK out of the blue", &[(true, ACK), (true, ACK)], timeouts.tcp_syn_ms),
        ("half closed", &[(false, SYN | ACK), (true, FIN | ACK)], timeouts.tcp_established_ms),
        ("closed", &[(false, ACK), (true, FIN), (false, FIN)], timeouts.tcp_closing_ms),
        ("reset", &[(false, ACK), (false, RST)], timeouts.tcp_closing_ms),
    ];
    for (case, packets, lifetime_ms) in rows {
        let mut table = FlowTable::in_memory(16, 7, timeouts);
        let forward = learn_pair(&mut table, key(1)).expect("room");
        let reverse = table.entry(forward).peer;
        for &(is_forward, flags) in packets {
            table.note_packet(if is_forward { forward } else { reverse }, 60, flags, 1000);
        }
        table.entry_mut(forward).last_seen_ms = 1000;
        assert_eq!(table.sweep(16, 999 + lifetime_ms), 0, "{case}: too early");
        assert_eq!(table.sweep(16, 1000 + lifetime_ms), 2, "{case}: due");
    }
}

#[test]
fn a_flow_lives_while_either_direction_speaks() {
    let mut table = FlowTable::in_memory(16, 7, Timeouts::default());
    let forward = learn_pair(&mut table, key(1)).expect("room");
    let reverse = table.entry(forward).peer;
    table.note_packet(forward, 60, SYN, 0);
    table.note_packet(reverse, 60, SYN | ACK, 0);
    table.note_packet(forward, 60, ACK, 0);
    for hour in 1..10 {
        table.note_packet(reverse, 60, ACK, hour * 3_600_000);
        assert_eq!(table.sweep(16, hour * 3_600_000 + 1), 0);
    }
}

#[test]
fn time_wraps() {
    let mut table = FlowTable::in_memory(16, 7, Timeouts::default());
    let forward = learn_pair(&mut table, key(1)).expect("room");
    let near_end = u32::MAX - 1000;
    table.note_packet(forward, 60, SYN, near_end);
    let peer = table.entry(forward).peer;
    table.entry_mut(peer).last_seen_ms = near_end;
    assert_eq!(table.sweep(16, 5000), 0);
    assert_eq!(table.sweep(16, 60_000), 2);
}

#[test]
fn the_next_process_adopts_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = StoreOptions {
        worker: 0,
        workers: 1,
        capacity: 64,
        seed: 1,
        boot_id: [3; 16],
        timeouts: Timeouts::default(),
    };
    let mut first = store::open(dir.path(), &options).expect("a new file");
    assert_eq!(first.fresh, Some("no earlier table"));
    for number in 0..5 {
        learn_pair(&mut first.table, key(number)).expect("room");
    }
    first.table.remove(find(&first.table, &key(2)).expect("learned"));
    // A half-written entry, as a kill leaves it.
    let torn = find(&first.table, &key(4)).expect("learned");
    first.table.entry_mut(torn).live = 0x11;

    let second = store::open(dir.path(), &StoreOptions { seed: 99, ..options }).expect("there");
    assert_eq!((second.fresh, second.flows), (None, 7));
    assert!(find(&second.table, &key(1)).is_some(), "the old seed is kept");
    assert!(find(&second.table, &key(2)).is_none() && find(&second.table, &key(4)).is_none());
    let orphan = find(&second.table, &key(4).reversed()).expect("whole itself");
    assert_eq!(second.table.entry(orphan).peer, FlowEntry::NO_PEER);
    assert_eq!(store::read_flows(dir.path(), 0, 100).expect("readable").len(), 7);

    // Each step changes one thing against the file that the step before left.
    let rebooted = StoreOptions { boot_id: [4; 16], ..options };
    let regrouped = StoreOptions { workers: 2, ..rebooted };
    let enlarged = StoreOptions { capacity: 128, ..regrouped };
    for (other, why) in [
        (rebooted, "the machine was restarted"),
        (regrouped, "the number of workers changed"),
        (enlarged, "the capacity or layout changed"),
    ] {
        let fresh = store::open(dir.path(), &other).expect("opened");
        assert_eq!((fresh.fresh, fresh.flows), (Some(why), 0));
    }
}

#[test]
fn removing_the_files_leaves_those_of_others() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["flows.0", "flows.12", "flows.json", "accepted"] {
        std::fs::write(dir.path().join(name), "x").expect("written");
    }
    store::remove_all(dir.path()).expect("removed");
    let left = |name: &str| dir.path().join(name).exists();
    let left = ["flows.0", "flows.12", "flows.json", "accepted"].map(left);
    assert_eq!(left, [false, false, true, true]);
    store::remove_all(&dir.path().join("absent")).expect("nothing to remove");
}

proptest! {
    #[test]
    fn equals_a_map(steps in prop::collection::vec((0u16..200, any::<bool>()), 1..400)) {
        let mut table = FlowTable::in_memory(512, 42, Timeouts::default());
        let mut model: BTreeMap<u16, ()> = BTreeMap::new();
        for (number, insert) in steps {
            let known = find(&table, &key(number));
            prop_assert_eq!(known.is_some(), model.contains_key(&number));
            match (insert, known) {
                (true, None) => {
                    learn_pair(&mut table, key(number)).expect("room");
                    model.insert(number, ());
                }
                (false, Some(at)) => {
                    table.remove(at);
                    model.remove(&number);
                }
                _ => {}
            }
            prop_assert_eq!(table.len() as usize, model.len() * 2);
        }
    }
}
