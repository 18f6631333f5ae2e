//! The time from an identity's change to its enforcement: from the upsert that the dataplane
//! receives, by a new snapshot, to the next packet of a known flow, judged anew. One thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tempfile::TempDir;
use weir_dataplane::device::memory::MemoryDevice;
use weir_dataplane::drops::Drop;
use weir_dataplane::worker::Worker;
use weir_perf::memory::{self, NOW};
use weir_perf::samples::{Group, Options, time_per_item_ns};
use weir_perf::turns::mapped_table;
use weir_tables::policy::{Identity, SelectorId};
use weir_tables::{Object, Snapshot, Tables};

use crate::cluster;
use crate::node::{self, Flow, Kind, Rules};

/// Each is a sample of its own.
const CHANGES: u32 = 500;
/// Of as many pods, in turn, each with a flow: those of application 0.
const PODS: u32 = cluster::IDENTITIES / cluster::APPS;
/// What the pods change to: an application that the rule of the flow is not about.
const OTHER_APP: u32 = 250;

pub fn measure(options: &Options) {
    let heading = "packets, from an identity's upsert to the flow's next packet, judged anew";
    if !options.wants(heading) {
        return;
    }
    let mut many = options.clone();
    many.samples = CHANGES;
    let mut group = Group::new(heading, "us, one change each");
    for (rules_name, rules) in &Rules::ALL[1..3] {
        for (name, besides) in [("like another", None), ("like no other", Some(SelectorId(300)))] {
            let node = Rc::new(RefCell::new(Node::new(*rules, besides)));
            let denied = Rc::clone(&node);
            group.case(format!("{rules_name}, becomes {name}: denied"), move || {
                denied.borrow_mut().change(true)
            });
            group.case(
                format!("{rules_name}, was {name}, is again like none: allowed"),
                move || node.borrow_mut().change(false),
            );
        }
    }
    group.measure(&many).print();
}

/// The judged pod's worker, which knows a flow to each of the other pods.
struct Node {
    tables: Tables,
    snapshots: Arc<ArcSwap<Snapshot>>,
    worker: Worker<MemoryDevice>,
    /// Holds the flow table's file.
    _dir: TempDir,
    /// A selector that no other pod of [`OTHER_APP`] has.
    besides: Option<SelectorId>,
    changes: u32,
}

impl Node {
    fn new(rules: Rules, besides: Option<SelectorId>) -> Node {
        let mut tables = node::tables(rules);
        let snapshots = Arc::new(ArcSwap::from_pointee(tables.snapshot()));
        let opening: Vec<_> = (0..PODS).flat_map(|pod| flow(pod).handshake()).collect();
        let turns = opening.len();
        let (table, dir) = mapped_table(4 * PODS);
        let device = memory::device(opening, 1);
        let mut worker = memory::worker_of(Arc::clone(&snapshots), table, device);
        for _ in 0..turns {
            worker.turn(NOW);
        }
        assert_eq!(worker.flows().len(), PODS * 2, "every flow is known");
        Node { tables, snapshots, worker, _dir: dir, besides, changes: 0 }
    }

    /// One sample, in microseconds: a pod becomes another, so that its flow is denied, or again
    /// what it was.
    fn change(&mut self, is_denied: bool) -> f64 {
        let pod = self.changes / 2 % PODS;
        self.changes += 1;
        let identity = identity(pod, is_denied, self.besides);
        self.worker.devices()[0] = memory::device(vec![flow(pod).later()], 1);
        let before = self.worker.counters().read();
        let sample = time_per_item_ns(1, || {
            self.tables.upsert(identity).expect("a valid object");
            self.snapshots.store(Arc::new(self.tables.snapshot()));
            self.worker.turn(NOW);
        });
        let after = self.worker.counters().read();
        let denied = Drop::PolicyDenied as usize;
        assert_eq!(after.drops[denied] - before.drops[denied], u64::from(is_denied));
        assert_eq!(after.transmitted - before.transmitted, u64::from(!is_denied));
        sample / 1e3
    }
}

/// To a pod of application 0, which the first rule allows; the two behind it are of other ones.
fn flow(pod: u32) -> Flow {
    Flow::new(3 * pod, Kind::ToPod, Rules::Few)
}

fn identity(pod: u32, is_other: bool, besides: Option<SelectorId>) -> Object {
    let number = pod * cluster::APPS;
    let [of_id, _] = cluster::identity(number);
    let [of_app, _] = cluster::identity(number + if is_other { OTHER_APP } else { 0 });
    let (Object::Identity(of_id), Object::Identity(of_app)) = (of_id, of_app) else {
        unreachable!("an identity first")
    };
    let besides = besides.filter(|_| is_other);
    let mut selectors: Vec<_> = of_app.selectors.into_iter().chain(besides).collect();
    selectors.sort_unstable();
    Object::Identity(Identity { id: of_id.id, labels: of_app.labels, selectors })
}
