//! What AF_XDP forwards on veths: a whole weir worker beside a bare loop over the same sockets, on
//! the same devices, in turns.
//!
//! ```text
//!  source --gen0--in0--> XDP -> AF_XDP -> worker | bare loop -> AF_XDP --out0--sink0--> XDP drop
//!  |------- CPU 0 -------------|  |----------------------- CPU 1 ---------------------------|
//! ```
//!
//! `cargo bench -p weir-perf --bench af_xdp [-- --samples N]`; needs root.

mod bpf;
mod forwarder;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use weir_dataplane::attach::remove_all;
use weir_lab::clock::{Stopwatch, pause};
use weir_lab::{Host, Lab, LinkOptions};
use weir_packet::build::{Path as PacketPath, emit_udp};
use weir_packet::{Addr, Mac};
use weir_perf::machine;
use weir_perf::samples::{Group, Options};

use bpf::Program;
use forwarder::{CLIENT, IN, OUT, READY, SERVICE, SERVICE_L4_PORT};

/// How the bench starts its forwarders: itself, with these words.
const FORWARDER: &str = "forwarder";
const WARM_UP: Duration = Duration::from_millis(500);
const SAMPLE: Duration = Duration::from_secs(2);
/// Packets per call of the source.
const REPEAT: u32 = 1 << 17;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, kind, pin_dir] = words.as_slice()
        && word == FORWARDER
    {
        return forwarder::run(kind, Path::new(pin_dir));
    }
    let options = Options::parse();
    machine::print();
    if let Err(reason) = weir_lab::privileged() {
        println!("SKIPPED AF_XDP on veths: {reason}");
        return Ok(());
    }
    if core_affinity::get_core_ids().is_none_or(|cores| cores.len() < 2) {
        println!("SKIPPED AF_XDP on veths: the source and the forwarder need a CPU each");
        return Ok(());
    }
    measure(&options)
}

fn measure(options: &Options) -> Result<()> {
    let wires = Wires::new()?;
    let heading = "AF_XDP on veths, 64-byte UDP, 1024 flows, DNAT";
    let mut group = Group::new(heading, "Mpps");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let source = scope.spawn(|| wires.send(&stop));
        group.case("bare AF_XDP forwarder", || wires.sample("bare"));
        group.case("weir worker", || wires.sample("weir"));
        let mut table = group.measure(options);
        stop.store(true, Ordering::Relaxed);
        let names = ("weir worker", "bare AF_XDP forwarder");
        table.derive("weir / bare", names, |weir, bare| weir / bare);
        table.print();
        source.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Three hosts and what runs in them.
struct Wires {
    _pins: Pins,
    node: Host,
    generator: Host,
    sink: Host,
    _drop: std::os::fd::OwnedFd,
    /// Last: its processes end before their namespaces go.
    _lab: Lab,
}

impl Wires {
    fn new() -> Result<Wires> {
        let lab = Lab::new("perf")?;
        let (generator, node, sink) = (lab.host("source")?, lab.host("node")?, lab.host("sink")?);
        lab.link(&generator, "gen0", &node, IN, &LinkOptions::default())?;
        lab.link(&sink, "sink0", &node, OUT, &LinkOptions::default())?;
        for (host, interface) in [(&generator, "gen0"), (&node, IN), (&node, OUT), (&sink, "sink0")]
        {
            // Otherwise router solicitations are among the packets.
            host.sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "1")?;
        }
        let ifindex = sink.interface("sink0")?.index;
        let drop = sink.enter(|| Program::sink()?.attach(ifindex))??;
        let pins = Pins(format!("/sys/fs/bpf/weir_perf_{}", std::process::id()).into());
        Ok(Wires { _pins: pins, node, generator, sink, _drop: drop, _lab: lab })
    }

    /// Sends as fast as one CPU can, until `stop`.
    fn send(&self, stop: &AtomicBool) -> Result<()> {
        let ifindex = self.generator.interface("gen0")?.index;
        let frame = service_packet();
        self.generator.enter(|| {
            if let Some(first) = core_affinity::get_core_ids().and_then(|ids| ids.first().copied())
            {
                core_affinity::set_for_current(first);
            }
            let source = Program::source(ifindex)?;
            while !stop.load(Ordering::Relaxed) {
                source.send(&frame, REPEAT, ifindex)?;
            }
            Ok(())
        })?
    }

    /// Mpps that reach the sink through a forwarder of this kind.
    fn sample(&self, kind: &str) -> f64 {
        let sample = || -> Result<f64> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args([FORWARDER, kind]).arg(&self._pins.0);
            let process = self.node.spawn(command)?;
            process.wait_for_output(READY, Duration::from_secs(10))?;
            pause(WARM_UP);
            let (watch, before) = (Stopwatch::start(), self.count()?);
            pause(SAMPLE);
            let packets = self.count()? - before;
            Ok(packets as f64 / watch.elapsed().as_secs_f64() / 1e6)
        };
        sample().unwrap_or_else(|error| panic!("{kind} forwarder: {error:?}"))
    }

    /// Packets that the sink has dropped.
    fn count(&self) -> Result<u64> {
        let text = self.sink.ethtool("-S sink0")?;
        let line = text.lines().find(|line| line.contains("xdp_drops"));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        count.with_context(|| format!("no xdp_drops in {text}"))
    }
}

/// Programs and maps of the forwarders.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// A packet to the service, without a checksum (RFC 768): the source changes its port.
fn service_packet() -> Vec<u8> {
    let path = PacketPath {
        dst_mac: Mac([2, 0, 0, 0, 0, 1]),
        src_mac: Mac([2, 0, 0, 0, 0, 2]),
        src: Addr::from_v4(CLIENT.octets()),
        dst: Addr::from_v4(SERVICE.octets()),
        sport: 1,
        dport: SERVICE_L4_PORT,
        ttl: 64,
    };
    let mut frame = vec![0; 64];
    emit_udp(&mut frame, &path, &[0x5a; 22]).expect("the payload fills the frame");
    frame[40..42].fill(0);
    frame
}
