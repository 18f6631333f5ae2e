//! The programs one by one, through BPF_PROG_TEST_RUN: nothing is sent. The uplink's runs the table
//! of packets.
//!
//! A redirect is told from other actions by the program's return value, which needs an AF_XDP
//! socket in the map (an unbound one will do), and the counters must move by exactly one.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, XskMap},
    programs::{Program, SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    net::{AddressFamily, SocketType, socket},
};
use weir_xdp_redirect::{
    COUNTERS, Counter, FailureMode, GLOBAL_SLOT_BASE, OBJECT, PortEntry, PortHeader, Settings,
    TRUNK_FLAG_FROM_HOST, TRUNK_FLAG_TO_HOST,
    fixtures::{self, Action, Fixture, Worker, world},
    map, program,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Index of the loopback interface in any network namespace.
const LOOPBACK: u32 = 1;
/// Not zero, so that a program that forgets its base finds no socket.
const SLOT_BASE: u32 = 64;

#[test]
fn every_row_has_its_action_and_is_counted_once() {
    if !is_root() {
        return;
    }
    let mut node = Node::load();
    let rows = fixtures::all();
    let wrong: Vec<_> = rows.iter().filter_map(|row| node.check(row).err()).collect();
    println!("{} rows", rows.len());
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_trunks_inner_end_takes_ports_packets_and_never_passes() {
    if !is_root() {
        return;
    }
    let mut node = Node::load();
    let marked = frame(PortHeader { flags: 0, ifindex: 7 }.to_mac(), [0x0a; 6], IPV4);
    let unmarked = frame([0x33, 0x33, 0, 0, 0, 2], [0x0a; 6], IPV6);
    let rows = [
        ("marked", Worker::Running, &marked, XDP_REDIRECT, Counter::TrunkRedirected),
        ("marked, hung", Worker::Hung, &marked, XDP_REDIRECT, Counter::TrunkRedirected),
        ("marked, gone", Worker::Gone, &marked, XDP_DROP, Counter::TrunkDroppedNoSocket),
        ("restarting", Worker::Restarting, &marked, XDP_DROP, Counter::TrunkDroppedNoSocket),
        ("unmarked", Worker::Running, &unmarked, XDP_DROP, Counter::TrunkDroppedUnmarked),
    ];
    for (description, worker, packet, action, counter) in rows {
        node.set_up(worker, FailureMode::OPEN);
        let run = node.run_xdp(program::TRUNK_IN, packet);
        assert_eq!((run.action, &run.moved[..]), (action, &[(counter, 1)][..]), "{description}");
    }
}

#[test]
fn ports_packets_enter_the_trunk_or_follow_the_failure_mode() {
    if !is_root() {
        return;
    }
    use {Counter as C, FailureMode as F, Worker as W};
    let mut node = Node::load();
    let pod_mac = [0x0a, 0, 0, 0, 0, 1];
    let [ipv4, arp, group] = [
        frame([0x0e; 6], pod_mac, IPV4),
        frame([0xff; 6], pod_mac, 0x0806),
        frame([0x33, 0x33, 0, 0, 0, 1], pod_mac, IPV6),
    ];
    let closed = PortEntry::FLAG_FAIL_CLOSED;
    let (into, out) = (program::PORT_IN, program::PORT_OUT);
    let (redirect, pass, drop) = (TC_ACT_REDIRECT, TC_ACT_UNSPEC, TC_ACT_SHOT);
    let rows = [
        (into, Some(0), W::Running, F::AUTO, &ipv4, redirect, C::PortRedirected),
        (into, Some(0), W::Running, F::AUTO, &arp, redirect, C::PortRedirected),
        (into, Some(closed), W::Running, F::CLOSED, &ipv4, redirect, C::PortRedirected),
        (into, None, W::Running, F::CLOSED, &ipv4, pass, C::PortPassedUnknown),
        (into, Some(0), W::Hung, F::AUTO, &ipv4, pass, C::PortPassedStale),
        (into, Some(0), W::Gone, F::AUTO, &ipv4, pass, C::PortPassedStale),
        (into, Some(closed), W::Hung, F::AUTO, &ipv4, drop, C::PortDroppedStale),
        (into, Some(closed), W::Gone, F::OPEN, &ipv4, pass, C::PortPassedStale),
        (into, Some(0), W::Gone, F::CLOSED, &ipv4, drop, C::PortDroppedStale),
        // The trunk's inner end drops and counts it: its socket is gone.
        (into, Some(0), W::Restarting, F::OPEN, &ipv4, redirect, C::PortRedirected),
        (into, Some(closed), W::Restarting, F::CLOSED, &ipv4, redirect, C::PortRedirected),
        (out, Some(0), W::Running, F::AUTO, &ipv4, redirect, C::HostRedirected),
        (out, Some(0), W::Running, F::AUTO, &arp, pass, C::HostPassedNotIp),
        (out, Some(0), W::Running, F::AUTO, &group, pass, C::HostPassedNotIp),
        (out, Some(closed), W::Hung, F::CLOSED, &ipv4, pass, C::HostPassedStale),
        (out, Some(0), W::Gone, F::AUTO, &ipv4, pass, C::HostPassedStale),
        (out, Some(0), W::Restarting, F::OPEN, &ipv4, redirect, C::HostRedirected),
        (out, None, W::Running, F::AUTO, &ipv4, pass, C::PortPassedUnknown),
    ];
    for (name, entry, worker, mode, packet, action, counter) in rows {
        node.set_up(worker, mode);
        node.set_port(entry);
        let run = node.run_tc(name, packet);
        let what = format!("{name}, {entry:?}, {worker:?}, {mode:?}");
        assert_eq!((run.action as i32, &run.moved[..]), (action, &[(counter, 1)][..]), "{what}");
        let mut expected = packet.clone();
        if action == redirect {
            let flags = if name == out { TRUNK_FLAG_FROM_HOST } else { 0 };
            expected[..6].copy_from_slice(&PortHeader { flags, ifindex: LOOPBACK }.to_mac());
        }
        assert!(run.packet == expected, "{what}: only the destination MAC may change");
    }
    // What the host forwards to a pod, without a worker.
    for (entry, mode, action, counter) in [
        (closed, F::AUTO, drop, C::PortDroppedStale),
        (0, F::AUTO, pass, C::HostPassedStale),
        (closed, F::OPEN, pass, C::HostPassedStale),
        (0, F::CLOSED, drop, C::PortDroppedStale),
    ] {
        node.set_up(W::Gone, mode);
        node.set_port(Some(entry));
        let run = node.run_tc_from(7, out, &ipv4);
        assert_eq!((run.action as i32, &run.moved[..]), (action, &[(counter, 1)][..]), "{mode:?}");
    }
}

#[test]
fn the_workers_packets_leave_by_their_header() {
    if !is_root() {
        return;
    }
    let mut node = Node::load();
    node.set_up(Worker::Running, FailureMode::AUTO);
    let header = |flags| PortHeader { flags, ifindex: LOOPBACK }.to_mac();
    let rows = [
        (header(0), TC_ACT_REDIRECT, Counter::WorkerToPod),
        (header(TRUNK_FLAG_TO_HOST), TC_ACT_REDIRECT, Counter::WorkerToHost),
        ([0x0a, 0, 0, 0, 0, 1], TC_ACT_SHOT, Counter::WorkerDroppedUnmarked),
    ];
    for (source, action, counter) in rows {
        let packet = frame([0x0a; 6], source, IPV4);
        let run = node.run_tc(program::TRUNK_OUT, &packet);
        assert_eq!((run.action as i32, &run.moved[..]), (action, &[(counter, 1)][..]));
        let mut expected = packet;
        if action == TC_ACT_REDIRECT {
            expected[6..12].copy_from_slice(&Settings::DEFAULT.gateway_mac);
        }
        assert!(run.packet == expected, "only the source MAC may change");
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: loading eBPF programs needs root");
    }
    root
}

/// A frame whose payload is of no interest.
fn frame(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), &[0x45; 46]].concat()
}

/// The loaded programs with the table's world in their maps.
struct Node {
    ebpf: Ebpf,
    socket: OwnedFd,
    _pins: Pins,
}

/// What a program did.
struct Run {
    action: u32,
    packet: Vec<u8>,
    moved: Vec<(Counter, u64)>,
}

impl Node {
    fn load() -> Self {
        let pins = Pins::make();
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .default_map_pin_directory(&pins.0)
            .override_global(GLOBAL_SLOT_BASE, &SLOT_BASE, true)
            .load(OBJECT)
            .expect("object loads");
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(xdp) => xdp.load(),
                Program::SchedClassifier(tc) => tc.load(),
                other => panic!("{name}: {:?}", other.prog_type()),
            }
            .expect("the verifier accepts the program");
        }
        let mut addresses: HashMap<_, [u8; 16], u32> = take(&mut ebpf, map::ADDRESSES);
        for (address, class) in world::addresses() {
            addresses.insert(octets(address), class.0, 0).unwrap();
        }
        let mut ports: HashMap<_, [u8; 4], u32> = take(&mut ebpf, map::NODE_L4_PORTS);
        for key in world::NODE_L4_PORTS {
            ports.insert(key.to_bytes(), 1, 0).unwrap();
        }
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).expect("an AF_XDP socket");
        Self { ebpf, socket, _pins: pins }
    }

    fn check(&mut self, row: &Fixture) -> Result<(), String> {
        self.set_up(row.worker, row.failure_mode);
        let run = self.run_xdp(program::UPLINK, &row.packet);
        let (action, verb) = match run.action {
            XDP_DROP if row.worker == Worker::Restarting => {
                (Action::Drop, "uplink_dropped_restarting")
            }
            XDP_DROP => (Action::Drop, "uplink_dropped_stale_"),
            XDP_PASS => (Action::Pass, "uplink_passed_"),
            XDP_REDIRECT => (Action::ToWorker, "uplink_redirected"),
            other => return Err(format!("{}: XDP action {other}", row.description)),
        };
        let counted = match run.moved[..] {
            [(counter, 1)] => COUNTERS[counter as usize].1.starts_with(verb),
            _ => false,
        };
        if action != row.action || !counted || run.packet != row.packet {
            return Err(format!(
                "{}: expected {:?}, got {action:?}, counted {:?}",
                row.description, row.action, run.moved
            ));
        }
        Ok(())
    }

    fn set_up(&mut self, worker: Worker, failure_mode: FailureMode) {
        let mut xsks = XskMap::try_from(self.ebpf.map_mut(map::XSKS).unwrap()).unwrap();
        match worker {
            Worker::Restarting | Worker::Gone => _ = xsks.unset(SLOT_BASE),
            Worker::Running | Worker::Hung => {
                xsks.set(SLOT_BASE, self.socket.as_fd(), 0).unwrap();
            }
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let age_ns = match worker {
            Worker::Running | Worker::Restarting => 0,
            Worker::Hung | Worker::Gone => 2 * world::SETTINGS.heartbeat_timeout_ns,
        };
        let mut heartbeats: Array<_, u64> =
            self.ebpf.map_mut(map::HEARTBEATS).unwrap().try_into().unwrap();
        heartbeats.set(SLOT_BASE, now_ns.saturating_sub(age_ns), 0).unwrap();
        let settings = Settings { failure_mode, ..world::SETTINGS };
        let mut array: Array<_, [u8; size_of::<Settings>()]> =
            self.ebpf.map_mut(map::SETTINGS).unwrap().try_into().unwrap();
        array.set(0, settings.to_bytes(), 0).unwrap();
    }

    /// Makes loopback, on which test runs happen, a port with these flags or none.
    fn set_port(&mut self, flags: Option<u32>) {
        let mut ports: HashMap<_, u32, [u8; size_of::<PortEntry>()]> =
            self.ebpf.map_mut(map::PORTS).unwrap().try_into().unwrap();
        match flags {
            Some(flags) => {
                let entry = PortEntry { trunk_ifindex: LOOPBACK, xsk_slot: SLOT_BASE, flags };
                ports.insert(LOOPBACK, entry.to_bytes(), 0).unwrap();
            }
            None => _ = ports.remove(&LOOPBACK),
        }
    }

    fn run_xdp(&mut self, name: &str, packet: &[u8]) -> Run {
        let before = self.counters();
        let xdp: &Xdp = self.ebpf.program(name).unwrap().try_into().unwrap();
        self.finish(before, test_run(xdp, packet, None))
    }

    fn run_tc(&mut self, name: &str, packet: &[u8]) -> Run {
        self.run_tc_from(0, name, packet)
    }

    /// A packet that came in by an interface; 0: of the host's own making.
    fn run_tc_from(&mut self, ingress_ifindex: u32, name: &str, packet: &[u8]) -> Run {
        // `struct __sk_buff`, all zero but for the field at 36.
        let mut context = [0; 192];
        context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
        let before = self.counters();
        let tc: &SchedClassifier = self.ebpf.program(name).unwrap().try_into().unwrap();
        self.finish(before, test_run(tc, packet, Some(&context)))
    }

    fn finish(&self, before: Vec<u64>, (action, packet): (u32, Vec<u8>)) -> Run {
        let after = self.counters();
        let moved = COUNTERS
            .iter()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(&(counter, ..), (before, after))| (counter, after - before))
            .collect();
        Run { action, packet, moved }
    }

    fn counters(&self) -> Vec<u64> {
        let counters: PerCpuArray<_, u64> =
            self.ebpf.map(map::COUNTERS).unwrap().try_into().unwrap();
        let values = counters.iter().map(|values| values.unwrap().iter().sum());
        values.take(COUNTERS.len()).collect()
    }
}

fn test_run<P>(program: &P, packet: &[u8], context: Option<&[u8]>) -> (u32, Vec<u8>)
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut out = vec![0; packet.len()];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: context,
        ..TestRunOptions::new()
    };
    let result = program.test_run(options).expect("a test run");
    assert_eq!(result.data_size_out as usize, packet.len());
    (result.return_value, out)
}

fn take<K: aya::Pod, V: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> HashMap<MapData, K, V> {
    ebpf.take_map(name).unwrap().try_into().unwrap()
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A directory for pinned maps in a bpffs of this test's own.
struct Pins(PathBuf);

impl Pins {
    fn make() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-programs-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("weir", &path, "bpf", flags, None).expect("a bpffs");
        Self(path)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        _ = std::fs::remove_dir(&self.0);
    }
}
