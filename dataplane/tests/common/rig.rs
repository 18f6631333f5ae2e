//! One worker over two devices of any kind, a pod's and the uplink's, and packets that must come
//! out of each kind the same.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pcap_file::TsResolution;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use weir_dataplane::clock::{Clock, VirtualClock};
use weir_dataplane::device::memory::{MemoryDevice, MemoryLink};
use weir_dataplane::device::pcap::PcapDevice;
use weir_dataplane::device::{Device, Ports, RxMeta};
use weir_dataplane::flow::{FlowTable, Timeouts};
use weir_dataplane::memory::{Pool, Umem, pools};
use weir_dataplane::verdicts::VerdictLog;
use weir_dataplane::worker::{CounterValues, Counters, Parts, Sleeper, Worker, connect};
use weir_tables::{PortId, WorkerId};

use super::node::{HOST_PORT, PODS, UPLINK_PORT, port_of, tables};
use super::packet::arriving;

/// Packets that come in one after the other, by `blue` or by `out`.
pub struct Case {
    pub name: &'static str,
    pub packets: &'static [(&'static str, &'static str)],
    /// How many packets leave.
    pub sent: usize,
}

/// What every kind of device must do alike.
pub const CASES: &[Case] = &[
    Case {
        name: "pod to pod, the host and the world",
        packets: &[
            ("blue", "udp blue:4000 > green:53"),
            ("blue", "tcp/S blue:4000 > host:80"),
            ("blue", "udp blue:4000 > client:53 len 1000"),
            ("out", "udp client:53 > blue:4000"),
            ("blue", "udp blue:4000 > near:53"),
        ],
        sent: 5,
    },
    Case {
        name: "services",
        packets: &[
            ("blue", "tcp/S blue:4000 > web:80"),
            ("blue", "tcp/A blue:4000 > web:80 len 700"),
            ("out", "udp client:4000 > own:53"),
            ("blue", "udp blue:5353 > client:4000"),
            ("blue", "udp blue:4000 > own:53"),
            ("blue", "udp blue:5353 > hairpin:4000"),
        ],
        sent: 6,
    },
    Case {
        name: "answers and refusals",
        packets: &[
            ("blue", "tcp/S blue:4000 > empty:80"),
            ("blue", "udp blue:4000 > empty:53"),
            ("out", "tcp/S client:4000 > lb:81"),
            ("blue", "ping blue > lb id 7"),
            ("blue", "udp green:4000 > red:53"),
            ("blue", "udp blue:4000 > green:53 ttl 1"),
            ("out", "udp client:4000 > host:53"),
        ],
        sent: 6,
    },
];

/// A worker over the devices of one kind, and the far sides of both.
pub struct Rig<D: Device> {
    pub worker: Worker<D>,
    pub far: Box<dyn Far>,
}

/// The far side of the devices.
pub trait Far {
    /// Lets a packet come in by `port`. A kind that has all of its packets already does nothing.
    fn inject(&mut self, port: PortId, frame: &[u8]);
    /// What left by the trunk, then what left by the uplink.
    fn take_sent(&mut self) -> Vec<Vec<u8>>;
}

/// What came of a case.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub sent: Vec<Vec<u8>>,
    pub counters: CounterValues,
    pub device_bytes: Vec<(u64, u64)>,
}

/// Runs a case; one packet at a time, so that any kind of device sees the same order.
pub fn run<D: Device>(rig: &mut Rig<D>, case: &Case, family: u8, clock: &VirtualClock) -> Outcome {
    for (port, text) in case.packets {
        let port = port_of(port);
        rig.far.inject(port, &arriving(port, text, family));
        rig.worker.turn(clock.now());
        clock.advance_ns(1_000);
    }
    rig.worker.turn(clock.now());
    let counts = |device: &D| {
        let counters = device.counters();
        (counters.rx_bytes, counters.tx_bytes)
    };
    let device_bytes = rig.worker.devices().iter().map(counts).collect();
    let counters = rig.worker.counters().read();
    assert!(counters.is_balanced(), "{counters:?}");
    Outcome { sent: rig.far.take_sent(), counters, device_bytes }
}

/// The ports of the trunk, and those of the uplink.
pub fn ports() -> (Ports, Ports) {
    let mut trunk: Vec<PortId> = PODS.iter().map(|pod| PortId(pod.1)).collect();
    trunk.push(HOST_PORT);
    (Ports::Only(trunk), Ports::Only(vec![UPLINK_PORT]))
}

/// One worker over `devices`: the trunk, then the uplink.
pub fn worker<D: Device>(devices: Vec<D>, pool: Pool) -> Worker<D> {
    let snapshots = Arc::new(ArcSwap::from_pointee(tables(1, 0).snapshot()));
    let waker = Sleeper::new().expect("an eventfd").1;
    Worker::new(Parts {
        id: WorkerId(0),
        workers: 1,
        devices,
        pool,
        flows: FlowTable::in_memory(256, 7, Timeouts::default()),
        snapshots,
        handoff: connect(&[waker]).remove(0),
        counters: Arc::new(Counters::default()),
        verdicts: Arc::new(VerdictLog::new()),
        uplink_owners: vec![(UPLINK_PORT, vec![WorkerId(0)])],
        unresolved: rtrb::RingBuffer::new(16).0,
        doorbell: None,
    })
}

fn pool() -> Pool {
    pools(Umem::anonymous(32, 2048).1, 1).remove(0)
}

/// Devices in memory.
pub fn memory() -> Rig<MemoryDevice> {
    let (trunk, uplink) = ports();
    let (trunk, trunk_link) = MemoryDevice::linked(trunk, RxMeta::default(), 64);
    let (uplink, uplink_link) = MemoryDevice::linked(uplink, RxMeta::default(), 64);
    let far = Box::new(Links { trunk: trunk_link, uplink: uplink_link });
    Rig { worker: worker(vec![trunk, uplink], pool()), far }
}

struct Links {
    trunk: MemoryLink,
    uplink: MemoryLink,
}

impl Far for Links {
    fn inject(&mut self, port: PortId, frame: &[u8]) {
        let link = if port == PortId::UPLINK { &self.uplink } else { &self.trunk };
        assert!(link.inject(port, frame));
    }

    fn take_sent(&mut self) -> Vec<Vec<u8>> {
        let all = self.trunk.take_sent().into_iter().chain(self.uplink.take_sent());
        all.map(|packet| packet.1).collect()
    }
}

/// A capture file in memory that can be read while a device writes it.
#[derive(Clone, Default)]
pub struct File(Rc<RefCell<Vec<u8>>>);

impl std::io::Write for File {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub type Replay = PcapDevice<std::io::Cursor<Vec<u8>>, File>;

/// Capture files that hold the packets of `case`, at the times when [`run`] injects them.
pub fn pcap(case: &Case, family: u8, clock: &VirtualClock) -> Rig<Replay> {
    let file = |own: PortId| {
        let mut file = PcapWriter::with_header(Vec::new(), nanoseconds()).expect("memory");
        for (at, (port, text)) in (0..).zip(case.packets) {
            let frame = arriving(port_of(port), text, family);
            // The first packet of a capture is due at once: one that no port has sets the time.
            let is_own = port_of(port) == own;
            if is_own || at == 0 {
                let frame = if is_own { frame } else { vec![0; 2000] };
                let packet = PcapPacket::new(Duration::from_micros(at), frame.len() as u32, &frame);
                file.write_packet(&packet).expect("memory");
            }
        }
        std::io::Cursor::new(file.into_writer())
    };
    let (trunk, uplink) = ports();
    let written = [File::default(), File::default()];
    let device = |own, ports, written: &File| {
        let (meta, clock) = (RxMeta::default(), clock.clone());
        Replay::new(file(own), written.clone(), own, meta, ports, clock).expect("a capture")
    };
    let devices = vec![
        device(port_of("blue"), trunk, &written[0]),
        device(PortId::UPLINK, uplink, &written[1]),
    ];
    Rig { worker: worker(devices, pool()), far: Box::new(Captures(written)) }
}

struct Captures([File; 2]);

impl Far for Captures {
    fn inject(&mut self, _: PortId, _: &[u8]) {}

    fn take_sent(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for file in &self.0 {
            let file = file.0.borrow();
            let mut reader = PcapReader::new(file.as_slice()).expect("what we wrote");
            while let Some(packet) = reader.next_packet() {
                sent.push(packet.expect("whole").data.into_owned());
            }
        }
        sent
    }
}

fn nanoseconds() -> PcapHeader {
    PcapHeader { ts_resolution: TsResolution::NanoSecond, ..PcapHeader::default() }
}
