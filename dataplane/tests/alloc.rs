//! Nothing is allocated in a turn once everything is warm: neither for packets of known flows nor
//! for new flows, refusals, answers and handovers.
#![allow(unsafe_code)] // A global allocator is an unsafe trait.

mod common;

use std::alloc::{GlobalAlloc, Layout as Size, System};
use std::cell::Cell;
use std::mem::ManuallyDrop;

use weir_dataplane::clock::Clock;
use weir_dataplane::device::memory::{MemoryDevice, Packet};
use weir_dataplane::device::{Ports, RxMeta};
use weir_dataplane::drops::Drop as Reason;

use common::node::{UPLINK_PORT, port_of, tables};
use common::packet::arriving;
use common::world::{Layout, World};

/// Counts what the thread of a test allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches one
// thread-local cell that needs no initialiser and no destructor, so it allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, size: Size) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, size: Size) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(place, size) }
    }

    unsafe fn realloc(&self, place: *mut u8, size: Size, new: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(place, size, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Workers whose trunks and uplinks receive `packets` over and over, each at a worker that it may
/// arrive at.
fn looping(workers: u8, packets: &[Packet]) -> ManuallyDrop<World> {
    let layout = Layout { frames: 512, flows: 1 << 16, ..Layout::of(workers) };
    let plain = World::new(Layout::of(workers));
    let mut device = 0;
    let world = World::build(layout, tables(workers, 0), move |_| {
        // Devices are made in order: the trunk and the uplink of each worker.
        let (worker, is_uplink) = (device / 2, device % 2 == 1);
        device += 1;
        let arrives = |packet: &&Packet| match packet.0 == port_of("out") {
            true => is_uplink,
            false => !is_uplink && plain.worker_of_port(packet.0).index() == worker,
        };
        let mut own: Vec<Packet> = packets.iter().filter(arrives).cloned().collect();
        if own.is_empty() {
            own.push((port_of("nobody"), packets[0].1.clone()));
        }
        let ports = match is_uplink {
            true => Ports::Only(vec![UPLINK_PORT]),
            false => Ports::Except(vec![UPLINK_PORT]),
        };
        MemoryDevice::looping(ports, RxMeta::default(), own, 64, 1024)
    });
    // These devices never run dry, so packets are on their way between workers when the test ends.
    ManuallyDrop::new(world)
}

/// Allocations in `rounds` rounds after `warm_up` ones.
fn allocations(world: &mut World, warm_up: usize, rounds: usize) -> u64 {
    let turns = |world: &mut World, rounds| {
        for _ in 0..rounds {
            let now = world.clock.now();
            for worker in &mut world.workers {
                worker.turn(now);
            }
            world.clock.advance_ns(50_000);
        }
    };
    turns(world, warm_up);
    let before = ALLOCATIONS.get();
    turns(world, rounds);
    ALLOCATIONS.get() - before
}

#[test]
fn the_allocator_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(7_u64)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn packets_of_known_flows_allocate_nothing() {
    let texts = [
        ("blue", "udp blue:4000 > green:53"),
        ("red", "udp red:4000 > web:53"),
        ("blue", "tcp/A blue:4000 > pair:80"),
        ("grey", "udp grey:4000 > client:53"),
        ("out", "tcp/A client:4000 > lb:80"),
        ("out", "udp client:4000 > red:53"),
        ("blue", "udp blue:4000 > near:53"),
        ("blue", "ping blue > lb id 7"),
        ("blue", "tcp/S blue:4000 > empty:80"),
        ("blue", "udp green:4000 > red:53"),
    ];
    for workers in [1, 2, 4] {
        let mut packets = Vec::new();
        for family in [4, 6] {
            packets.extend(
                texts.map(|(port, text)| (port_of(port), arriving(port_of(port), text, family))),
            );
        }
        let mut world = looping(workers, &packets);
        assert_eq!(allocations(&mut world, 20, 200), 0, "{workers} workers");
        let counters = world.counters();
        assert!(counters.transmitted > 100_000 / 10, "{counters:?}");
        assert_eq!(counters.drop_of(Reason::HandoffFull), 0);
    }
}

#[test]
fn new_flows_allocate_nothing() {
    for workers in [1, 2, 4] {
        let mut packets = Vec::new();
        for sport in 1000..5000 {
            for (port, text) in [
                ("blue", format!("udp blue:{sport} > green:53")),
                ("red", format!("tcp/S red:{sport} > web:80")),
                ("out", format!("udp client:{sport} > lb:53")),
            ] {
                packets.push((port_of(port), arriving(port_of(port), &text, 4)));
            }
        }
        let mut world = looping(workers, &packets);
        assert_eq!(allocations(&mut world, 5, 50), 0, "{workers} workers");
        let flows: u32 = world.workers.iter().map(|worker| worker.flows().len()).sum();
        assert!(flows > 5000, "{flows} directions learned");
    }
}

#[test]
fn expiry_allocates_nothing() {
    let sports = 1000..3000;
    let packets: Vec<Packet> = sports
        .map(|sport| format!("udp blue:{sport} > green:53"))
        .map(|text| (port_of("blue"), arriving(port_of("blue"), &text, 4)))
        .collect();
    let mut world = looping(1, &packets);
    allocations(&mut world, 100, 0);
    let expired = world.counters().expired;
    world.clock.advance_ns(60_000_000_000);
    assert_eq!(allocations(&mut world, 0, 300), 0);
    assert!(world.counters().expired > expired);
}
