//! A verdict, with few rules and with many.

use std::hint::black_box;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weir_packet::Addr;
use weir_perf::samples::{Group, Options, time_per_item_ns};
use weir_tables::policy::{Direction, L4, L4Protocol, PolicyAction};
use weir_tables::{PortId, Snapshot, Tables};

use crate::cluster;

const SEED: u64 = 0x7765_6972;
const QUESTIONS: usize = 1024;
const PASSES: usize = 100;
pub const FEW: u32 = 10;
pub const MANY: u32 = 10_000;

/// Makes the peer with a number.
pub type MakePeer = fn(u32) -> Addr;

/// Peers by kind.
pub const PEERS: [(&str, MakePeer); 3] = [
    ("pod", |number| cluster::pod_addr(number % cluster::IDENTITIES)),
    ("world IPv4", |number| cluster::world_addr(number, true)),
    ("world IPv6", |number| cluster::world_addr(number, false)),
];

/// One pod with this number of rules per direction, in a cluster of 10,000 identities.
pub fn tables(rules: u32) -> Tables {
    let mut tables = Tables::new(1);
    cluster::load(&mut tables, cluster::peers());
    cluster::load(&mut tables, [cluster::rules("rules", rules), cluster::endpoint(0, "rules")]);
    tables
}

pub fn snapshot(rules: u32) -> Snapshot {
    tables(rules).snapshot()
}

/// Peers and ports that many rules allow a third of.
pub fn questions(peer: MakePeer) -> Vec<(Addr, L4)> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut question = || {
        let number = random.random_range(0..cluster::IDENTITIES);
        let port = 1024 + random.random_range(0..10_000);
        (peer(number), L4 { protocol: L4Protocol::Tcp, port })
    };
    (0..QUESTIONS).map(|_| question()).collect()
}

/// Asks everything once and returns how much was allowed. By name, so that valgrind can count what
/// happens in it.
#[inline(never)]
pub fn judge_all(snapshot: &Snapshot, questions: &[(Addr, L4)]) -> usize {
    let verdict = |(peer, l4): &(Addr, L4)| {
        snapshot.judge(PortId(1), Direction::Ingress, black_box(peer), *l4)
    };
    questions.iter().filter(|it| verdict(it).action == PolicyAction::Allow).count()
}

pub fn measure(options: &Options) {
    let heading = "verdict, 10,000 identities";
    if !options.wants(heading) {
        return;
    }
    let snapshots = [FEW, MANY].map(|rules| (rules, snapshot(rules)));
    let mut group = Group::new(heading, "ns");
    for (kind, peer) in PEERS {
        let questions = questions(peer);
        for (rules, snapshot) in &snapshots {
            let questions = questions.clone();
            group.case(format!("{kind}, {rules} rules"), move || {
                time_per_item_ns(PASSES * QUESTIONS, || {
                    for _ in 0..PASSES {
                        black_box(judge_all(snapshot, &questions));
                    }
                })
            });
        }
    }
    let mut table = group.measure(options);
    for (kind, _) in PEERS {
        let (few, many) = (format!("{kind}, {FEW} rules"), format!("{kind}, {MANY} rules"));
        table.derive(&format!("{kind}, many / few"), (&many, &few), |many, few| many / few);
    }
    table.print();
}
