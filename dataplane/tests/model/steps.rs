//! One step of a history, at random.

use proptest::prelude::*;
use weir_tables::BackendState::{self, Active, Maintenance, Terminating};

use crate::state::{BACKENDS, IsDeny};

pub const CLIENTS: [&str; 8] =
    ["blue", "green", "red", "grey", "host", "client", "router", "remote"];
/// Targets that are no service.
pub const OTHERS: [&str; 8] =
    ["blue", "green", "red", "grey", "client", "remote", "host", "docker"];

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    /// A UDP datagram in two fragments.
    Fragments,
    Echo,
}

#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// By its own address.
    Service(usize),
    /// By a node's address.
    NodePort(usize, usize),
    /// A port of a service's address that nobody answers on.
    UnknownPort(usize),
    Other(usize),
}

/// A change to a service.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    DeleteOrAdd,
    Affinity(u32),
    Local(bool),
    Ranges(Option<IsDeny>),
}

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    Ask {
        client: usize,
        target: Target,
        kind: Kind,
        sport: u16,
        flags: usize,
    },
    /// A client goes on with what was sent `back` packets ago.
    Again {
        back: usize,
        flags: usize,
        in_fragments: bool,
    },
    /// An answer to what was delivered `back` deliveries ago.
    Answer {
        back: usize,
        flags: usize,
        in_fragments: bool,
    },
    /// A packet of a client that comes in by the port of another pod, or by the uplink.
    Spoof {
        client: usize,
        by: usize,
        target: Target,
    },
    /// A router, or the far end, says that a packet of a connection was too big.
    Error {
        connection: usize,
        is_answer: bool,
        is_far: bool,
    },
    Backend {
        service: usize,
        at: usize,
        state: Option<BackendState>,
    },
    Service {
        service: usize,
        change: Change,
    },
    Masquerade(bool),
    /// A pod goes, or comes back as another one, or both at once.
    Pod {
        at: usize,
        is_replaced: bool,
    },
    Time(u64),
    Publish,
}

/// Around the documented timeouts, and half of them.
const TIMES_MS: [u64; 8] = [3_000, 4_999, 9_999, 10_000, 30_000, 59_999, 60_000, 8_000_000];

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        8 => (0..3_usize).prop_map(Target::Service),
        3 => (0..3_usize, 0..2_usize).prop_map(|(at, node)| Target::NodePort(at, node)),
        1 => (0..3_usize).prop_map(Target::UnknownPort),
        4 => (0..OTHERS.len()).prop_map(Target::Other),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => Just(Change::DeleteOrAdd),
        6 => prop::sample::select(vec![0, 10, 60]).prop_map(Change::Affinity),
        1 => any::<bool>().prop_map(Change::Local),
        1 => any::<Option<bool>>().prop_map(Change::Ranges),
    ]
}

/// Indices of `FLAGS`, the usual ones first.
fn flags() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0_usize), 4 => Just(1), 2 => Just(2), 1 => Just(3)]
}

fn ask() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        6 => Just(Kind::Tcp),
        4 => Just(Kind::Udp),
        1 => Just(Kind::Fragments),
        1 => Just(Kind::Echo),
    ];
    (0..CLIENTS.len(), target(), kind, 4000..4003_u16, flags()).prop_map(
        |(client, target, kind, sport, flags)| Step::Ask { client, target, kind, sport, flags },
    )
}

pub fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        2 => Just(None),
        3 => Just(Some(Active)),
        1 => Just(Some(Terminating)),
        1 => Just(Some(Maintenance)),
    ];
    let split = || prop::bool::weighted(0.1);
    prop_oneof![
        20 => ask(),
        8 => (0..6_usize, flags(), split())
            .prop_map(|(back, flags, in_fragments)| Step::Again { back, flags, in_fragments }),
        16 => (0..5_usize, flags(), split())
            .prop_map(|(back, flags, in_fragments)| Step::Answer { back, flags, in_fragments }),
        1 => (0..4_usize, 0..5_usize, target())
            .prop_map(|(client, by, target)| Step::Spoof { client, by, target }),
        3 => (0..8_usize, any::<bool>(), any::<bool>()).prop_map(
            |(connection, is_answer, is_far)| Step::Error { connection, is_answer, is_far }
        ),
        4 => (0..3_usize, 0..BACKENDS.len(), state)
            .prop_map(|(service, at, state)| Step::Backend { service, at, state }),
        3 => (0..3_usize, change()).prop_map(|(service, change)| Step::Service { service, change }),
        1 => any::<bool>().prop_map(Step::Masquerade),
        1 => (0..4_usize, any::<bool>())
            .prop_map(|(at, is_replaced)| Step::Pod { at, is_replaced }),
        3 => prop::sample::select(TIMES_MS.to_vec()).prop_map(Step::Time),
        1 => Just(Step::Publish),
    ]
}
