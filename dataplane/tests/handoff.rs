//! Two workers: every packet arrives at one and leaves by the other.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use weir_dataplane::batch::Batch;
use weir_dataplane::clock::{Instant, MonotonicClock};
use weir_dataplane::device::memory::{MemoryDevice, Packet};
use weir_dataplane::device::{Device, DeviceCounters, Ports, RxMeta};
use weir_dataplane::drops::Drop as Reason;
use weir_dataplane::flow::{FlowTable, Timeouts};
use weir_dataplane::memory::{Frame, Pool, Umem, pools};
use weir_dataplane::verdicts::VerdictLog;
use weir_dataplane::worker::{Counters, HandoffPorts, Parts, Sleeper, Worker, connect};
use weir_tables::{PortId, Snapshot, WorkerId};

use common::node::{UPLINK_PORT, port_of, tables};
use common::packet::arriving;

/// A looping device that stops receiving after a number of packets.
struct Limited {
    inner: MemoryDevice,
    left: u64,
}

impl Device for Limited {
    fn carries(&self, port: PortId) -> bool {
        self.inner.carries(port)
    }

    fn recv(&mut self, batch: &mut Batch, pool: &mut Pool) {
        if self.left > 0 {
            let before = batch.len();
            self.inner.recv(batch, pool);
            self.left = self.left.saturating_sub((batch.len() - before) as u64);
        }
    }

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        self.inner.send(port, frame)
    }

    fn flush(&mut self, pool: &mut Pool) {
        self.inner.flush(pool);
    }

    fn wait_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> DeviceCounters {
        self.inner.counters()
    }

    fn frames_held(&self) -> usize {
        self.inner.frames_held()
    }
}

/// Packets between two threads.
const TOTAL: u64 = 10_000_000;

/// Pods' names are such that blue and green have different workers.
fn salt() -> u32 {
    let workers_differ = |salt: &u32| {
        let tables = tables(2, *salt);
        let worker = |name| {
            let name = common::node::pod_name(name, *salt);
            tables.endpoint(&name).expect("attached").1
        };
        worker("blue") == WorkerId(0) && worker("green") == WorkerId(1)
    };
    (0..1000).find(workers_differ).expect("one in four is so")
}

/// What two workers share.
struct Pair {
    snapshots: Arc<ArcSwap<Snapshot>>,
    counters: [Arc<Counters>; 2],
}

impl Pair {
    fn new() -> Pair {
        let snapshot = tables(2, salt()).snapshot();
        Pair { snapshots: Arc::new(ArcSwap::from_pointee(snapshot)), counters: Default::default() }
    }

    /// A worker with one device.
    fn worker<D: Device>(&self, id: u8, handoff: HandoffPorts, pool: Pool, device: D) -> Worker<D> {
        Worker::new(Parts {
            id: WorkerId(id),
            workers: 2,
            devices: vec![device],
            pool,
            flows: FlowTable::in_memory(1024, 7, Timeouts::default()),
            snapshots: Arc::clone(&self.snapshots),
            handoff,
            counters: Arc::clone(&self.counters[usize::from(id)]),
            verdicts: Arc::new(VerdictLog::new()),
            uplink_owners: vec![],
            unresolved: rtrb::RingBuffer::new(16).0,
            doorbell: None,
        })
    }
}

/// A trunk that receives `left` packets of blue to green.
fn trunk(left: u64) -> Limited {
    let flows: Vec<Packet> = (0..64)
        .map(|flow| format!("udp blue:{} > green:53", 4000 + flow))
        .map(|text| (port_of("blue"), arriving(port_of("blue"), &text, 4)))
        .collect();
    let ports = Ports::Except(vec![UPLINK_PORT]);
    let inner = MemoryDevice::looping(ports, RxMeta::default(), flows, 64, 2048);
    Limited { inner, left }
}

#[test]
fn every_packet_between_two_threads_is_accounted_for() {
    let pair = Pair::new();
    let (sleepers, wakers): (Vec<_>, Vec<_>) =
        (0..2).map(|_| Sleeper::new().expect("an eventfd")).unzip();
    let pools = pools(Umem::anonymous(2 * 4096, 2048).1, 2);
    let ends = connect(&wakers).into_iter().zip(pools).zip([TOTAL, 0]).zip(0..);
    let mut workers: Vec<_> = ends
        .map(|(((handoff, pool), left), id)| pair.worker(id, handoff, pool, trunk(left)))
        .collect();
    let counters = &pair.counters;
    let stop = AtomicBool::new(false);
    // Everything has ended somewhere.
    let is_done = || {
        let ended = counters[1].read();
        let first = counters[0].read();
        first.received >= TOTAL
            && ended.handed_in == first.handed_out
            && ended.transmitted + ended.dropped() == ended.handed_in
    };
    std::thread::scope(|scope| {
        let (stop, is_done) = (&stop, &is_done);
        for (worker, mut sleeper) in workers.iter_mut().zip(sleepers) {
            scope.spawn(move || worker.run(&MonotonicClock, &mut sleeper, stop, |_, _| {}));
        }
        wait_until(is_done, 60);
        stop.store(true, Ordering::Relaxed);
    });
    for worker in &mut workers {
        worker.pool().collect();
    }
    let [first, second] = [counters[0].read(), counters[1].read()];
    println!("handoff_full {} of {TOTAL}", first.drop_of(Reason::HandoffFull));
    assert!(first.is_balanced() && second.is_balanced(), "{first:?} {second:?}");
    // A worker that the machine stopped for a second drops what waited, and counts that too.
    let refused = first.drop_of(Reason::HandoffFull) + first.drop_of(Reason::Stale);
    assert_eq!(first.received, first.handed_out + refused);
    assert_eq!(second.handed_in, first.handed_out);
    assert_eq!(second.transmitted, second.handed_in, "nothing is lost behind the ring");
    for worker in &mut workers {
        assert!(worker.pool().is_whole(), "{} of {}", worker.pool().free(), worker.pool().home());
    }
}

/// Looks every few milliseconds; fails after `limit_s` seconds.
fn wait_until(is_done: &dyn Fn() -> bool, limit_s: u64) {
    // A channel that nobody writes to is a clock that needs no permission to sleep.
    let (_sender, receiver) = std::sync::mpsc::channel::<()>();
    for _ in 0..limit_s * 200 {
        if is_done() {
            return;
        }
        let _ = receiver.recv_timeout(std::time::Duration::from_millis(5));
    }
    panic!("not done after {limit_s} s");
}

/// A trunk whose every sent packet makes another worker hand over one more burst.
struct Feeding {
    inner: MemoryDevice,
    source: Rc<RefCell<Worker<Limited>>>,
}

impl Device for Feeding {
    fn carries(&self, port: PortId) -> bool {
        self.inner.carries(port)
    }

    fn recv(&mut self, _batch: &mut Batch, _pool: &mut Pool) {}

    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        self.source.borrow_mut().turn(Instant(1));
        self.inner.send(port, frame)
    }

    fn flush(&mut self, pool: &mut Pool) {
        self.inner.flush(pool);
    }

    fn wait_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> DeviceCounters {
        self.inner.counters()
    }

    fn frames_held(&self) -> usize {
        self.inner.frames_held()
    }
}

#[test]
fn a_turn_ends_though_packets_keep_coming() {
    let pair = Pair::new();
    let wakers: Vec<_> = (0..2).map(|_| Sleeper::new().expect("an eventfd").1).collect();
    let mut ends = connect(&wakers).into_iter().zip(pools(Umem::anonymous(2 * 8192, 2048).1, 2));
    let (handoff, pool) = ends.next().expect("two");
    let source = Rc::new(RefCell::new(pair.worker(0, handoff, pool, trunk(100_000))));
    let (handoff, pool) = ends.next().expect("two");
    let device = Feeding { inner: trunk(0).inner, source: Rc::clone(&source) };
    let mut sink = pair.worker(1, handoff, pool, device);
    source.borrow_mut().turn(Instant(1));
    let moved = sink.turn(Instant(1));
    assert!((64..=2048).contains(&moved), "{moved} packets in one turn");
    let mut turns = 1;
    while sink.turn(Instant(1)) > 0 {
        turns += 1;
    }
    assert!(turns < 1000);
    source.borrow_mut().pool().collect();
    assert!(source.borrow_mut().pool().is_whole() && sink.pool().is_whole());
    let [first, second] = [pair.counters[0].read(), pair.counters[1].read()];
    assert!(first.is_balanced() && second.is_balanced(), "{first:?} {second:?}");
    assert_eq!(second.transmitted, first.handed_out, "the egress device is flushed in time");
}
