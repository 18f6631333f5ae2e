//! What a worker looks at between its last turn and its sleep.

use weir_tables::Tables;

use super::*;
use crate::device::memory::MemoryDevice;
use crate::device::{Checksum, Ports, RxMeta};
use crate::flow::Timeouts;
use crate::memory::{Umem, pools};

#[test]
fn a_snapshot_published_after_the_last_turn_is_not_slept_through() {
    let meta = RxMeta { checksum: Checksum::MaybePartial };
    let (device, _peer) = MemoryDevice::linked(Ports::Except(Vec::new()), meta, 1);
    let (_, waker) = Sleeper::new().unwrap();
    let mut tables = Tables::new(1);
    let snapshots = Arc::new(ArcSwap::from_pointee(tables.snapshot()));
    let mut worker = Worker::new(Parts {
        id: WorkerId(0),
        workers: 1,
        devices: vec![device],
        pool: pools(Umem::anonymous(64, 2048).1, 1).remove(0),
        flows: FlowTable::in_memory(16, 1, Timeouts::default()),
        snapshots: Arc::clone(&snapshots),
        handoff: connect(&[waker]).remove(0),
        counters: Arc::new(Counters::default()),
        verdicts: Arc::new(VerdictLog::new()),
        uplink_owners: Vec::new(),
        unresolved: rtrb::RingBuffer::new(1).0,
        doorbell: None,
    });
    worker.turn(Instant(1));
    assert!(worker.has_nothing_new());
    snapshots.store(Arc::new(tables.snapshot()));
    assert!(!worker.has_nothing_new());
    worker.turn(Instant(2));
    assert!(worker.has_nothing_new());
    assert_eq!(worker.counters().revision(), 2);
}
