//! A node in memory: 64 pods that ask 16 services, each with 16 backends on the same node.
//!
//! Flow number f goes from client pod f % 64 to service (f / 64) % 16 from source port
//! 1024 + f / 1024: so a packet seldom meets the pod, the service or the port of the one before.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use weir_dataplane::batch::BURST;
use weir_dataplane::clock::Instant;
use weir_dataplane::device::memory::{MemoryDevice, Packet};
use weir_dataplane::device::{Checksum, Device, Ports, RxMeta};
use weir_dataplane::flow::FlowTable;
use weir_dataplane::memory::{Pool, Umem, pools};
use weir_dataplane::pipeline::GATEWAY_MAC;
use weir_dataplane::verdicts::VerdictLog;
use weir_dataplane::worker::{Counters, Parts, Sleeper, Worker, connect};
use weir_packet::build::{Path, emit_udp};
use weir_packet::{Addr, FlowKey, Mac, protocol};
use weir_tables::{
    Algorithm, Backend, BackendAddr, BackendState, Endpoint, Frontend, FrontendKey, FrontendType,
    Object, PortId, Snapshot, Tables, WorkerId,
};

/// The smallest frame that the memory device is given, with a VLAN-less Ethernet header, no FCS.
pub const FRAME_BYTES: usize = 64;

const CLIENTS: u32 = 64;
const SERVICES: u32 = 16;
/// Backends of each service, its own: backend b of service s is pod number 16 s + b.
const BACKENDS: u32 = 16;
/// Ports of the client pods, and of the backends, start here.
const CLIENT_PORT: u32 = 100;
const BACKEND_PORT: u32 = 200;
const SERVICE_L4_PORT: u16 = 53;
const BACKEND_L4_PORT: u16 = 5353;
/// Frames of a worker's pool: in memory a few bursts would do.
const FRAMES: u32 = 1024;
/// The time of all turns, so that nothing expires between them.
pub const NOW: Instant = Instant(1_000_000_000);

/// What trunks say of packets: a pod may have left the checksum to the hardware.
const META: RxMeta = RxMeta { checksum: Checksum::MaybePartial };

/// An address of net `net`: clients 0, backends 1, services 96.
fn addr(net: u8, number: u32, family: u8) -> Addr {
    let [_, _, high, low] = number.to_be_bytes();
    match family {
        4 => Addr::from_v4([10, net, high, low]),
        _ => Addr::from_v6([0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]),
    }
}

fn mac(port: u32) -> Mac {
    let [_, _, high, low] = port.to_be_bytes();
    Mac([2, 0, 0, 1, high, low])
}

/// The key of a flow.
pub fn key(flow: u32, family: u8) -> FlowKey {
    FlowKey {
        src: addr(0, flow % CLIENTS, family),
        dst: addr(96, flow / CLIENTS % SERVICES, family),
        sport: 1024 + (flow / (CLIENTS * SERVICES)) as u16,
        dport: SERVICE_L4_PORT,
        protocol: protocol::UDP,
        family,
        zone: 0,
    }
}

/// The frame of a flow as its pod sends it, and its port.
pub fn packet(flow: u32, family: u8) -> Packet {
    let port = CLIENT_PORT + flow % CLIENTS;
    let path = Path::of(&key(flow, family), GATEWAY_MAC, mac(port));
    let headers = if family == 4 { 42 } else { 62 };
    let mut frame = vec![0; FRAME_BYTES];
    let len = emit_udp(&mut frame, &path, &[0x5a; FRAME_BYTES][headers..]);
    assert_eq!(len, Some(FRAME_BYTES));
    (PortId(port), frame)
}

/// A packet of each flow: in order, or shuffled. The frames lie in memory in the order of the list.
pub fn packets(flows: u32, family: u8, shuffle_seed: Option<u64>) -> Vec<Packet> {
    let mut order: Vec<u32> = (0..flows).collect();
    if let Some(seed) = shuffle_seed {
        order.shuffle(&mut SmallRng::seed_from_u64(seed));
    }
    order.into_iter().map(|flow| packet(flow, family)).collect()
}

/// The pods, services and backends, both families.
pub fn tables() -> Tables {
    let mut tables = Tables::new(1);
    let pods = (0..CLIENTS).map(|number| (0, CLIENT_PORT, number));
    for (net, first, number) in
        pods.chain((0..SERVICES * BACKENDS).map(|number| (1, BACKEND_PORT, number)))
    {
        let port = PortId(first + number);
        let addresses = vec![addr(net, number, 4), addr(net, number, 6)];
        let pod = Endpoint::new(&format!("bench/pod-{port}"), port, mac(port.0), addresses);
        tables.upsert(Object::Endpoint(pod)).expect("a valid pod");
    }
    for (family, number) in [4, 6].into_iter().flat_map(|f| (0..SERVICES).map(move |n| (f, n))) {
        let backend = |number| Backend {
            addr: BackendAddr { addr: addr(1, number, family), l4_port: BACKEND_L4_PORT },
            state: BackendState::Active,
            weight: 1,
            node: None,
        };
        let name = format!("bench/service-{number}/v{family}");
        let l4_port = SERVICE_L4_PORT;
        let addr = addr(96, number, family);
        let frontend = Frontend::new(
            FrontendKey { addr, l4_port, protocol: protocol::UDP },
            &format!("bench/service-{number}"),
            FrontendType::ClusterIp,
            &name,
        );
        let set = Object::BackendSet {
            name,
            protocol: protocol::UDP,
            algorithm: Algorithm::Maglev,
            backends: (0..BACKENDS).map(|at| backend(number * BACKENDS + at)).collect(),
        };
        tables.upsert(set).expect("a valid set");
        tables.upsert(Object::Frontend(frontend)).expect("a valid frontend");
    }
    tables
}

/// A device that receives `packets` over and over, `burst` at a time, and sends nowhere.
pub fn device(packets: Vec<Packet>, burst: usize) -> MemoryDevice {
    MemoryDevice::looping(Ports::Except(vec![PortId::UPLINK]), META, packets, burst, BURST)
}

/// A device by which nothing ever comes.
pub fn silent_device() -> MemoryDevice {
    MemoryDevice::linked(Ports::Except(vec![PortId::UPLINK]), META, 1).0
}

/// Frames for one worker. They are never freed.
pub fn pool() -> Pool {
    pools(Umem::anonymous(FRAMES, 2048).1, 1).remove(0)
}

/// The one worker of the node.
pub fn worker<D: Device>(tables: &mut Tables, flows: FlowTable, device: D) -> Worker<D> {
    worker_of(Arc::new(ArcSwap::from_pointee(tables.snapshot())), flows, device)
}

/// The same, by snapshots that are published to it.
pub fn worker_of<D: Device>(
    snapshots: Arc<ArcSwap<Snapshot>>,
    flows: FlowTable,
    device: D,
) -> Worker<D> {
    let (_, waker) = Sleeper::new().expect("an eventfd");
    let handoff = connect(&[waker]).remove(0);
    Worker::new(Parts {
        id: WorkerId(0),
        workers: 1,
        devices: vec![device],
        pool: pool(),
        flows,
        snapshots,
        handoff,
        counters: Arc::new(Counters::default()),
        verdicts: Arc::new(VerdictLog::new()),
        uplink_owners: Vec::new(),
        unresolved: rtrb::RingBuffer::new(64).0,
        doorbell: None,
    })
}
