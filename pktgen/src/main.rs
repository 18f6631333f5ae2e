//! `weir-pktgen`: measures what a network path loses and how long packets take.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use weir_packet::Mac;
use weir_pktgen::clock::{nanoseconds, now_ns};
use weir_pktgen::echo::reflect;
use weir_pktgen::namespace::Place;
use weir_pktgen::run::{Options, Receiver, run};
use weir_pktgen::sinks::SinkKind;
use weir_pktgen::template::AddressRange;
use weir_pktgen::witness::{Directions, Witnesses};

#[derive(Parser)]
#[command(name = "weir-pktgen", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send UDP at a fixed rate, receive it, and account for every packet.
    ///
    /// Exit status: 0 if the account closes and no more than --max-loss is lost, else 1.
    Run(Box<Run>),
    /// Send UDP back to where it came from, until a signal.
    Echo(Echo),
}

#[derive(Args)]
struct Run {
    /// Interface of this network namespace to send by.
    #[arg(long)]
    interface: String,
    /// Its queue.
    #[arg(long, default_value_t = 0)]
    queue: u32,
    /// Destination address and port: 10.0.0.1:80 or [fd00::1]:80.
    #[arg(long, value_name = "ADDRESS:PORT")]
    dst: SocketAddr,
    /// Source address, or FIRST-LAST [default: the interface's].
    #[arg(long)]
    src: Option<AddressRange>,
    /// First source port.
    #[arg(long, default_value_t = 10_000)]
    src_port: u16,
    /// Next hop [default: the kernel's].
    #[arg(long)]
    dst_mac: Option<Mac>,
    /// Flows, in turn: by source address, then by source port.
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// Bytes of a frame, without FCS; at least 82 for IPv4 and 102 for IPv6.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Packets per second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    rate: u64,
    /// Seconds.
    #[arg(long, value_parser = seconds)]
    duration: Duration,
    /// Seconds of the same load beforehand, outside the account.
    #[arg(long, default_value = "0", value_parser = seconds)]
    warmup: Duration,
    /// Ends when nothing came for so many seconds.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    drain: Duration,
    /// CPU of the sender (with --echo, of everything).
    #[arg(long)]
    cpu: Option<usize>,
    /// Microseconds of looking at the clock before each packet. 0 only sleeps: less load, less
    /// sharp.
    #[arg(long, default_value_t = 50)]
    spin_us: u64,
    #[command(flatten)]
    receive: Receive,
    #[command(flatten)]
    blame: Blame,
    /// Number of the run, in its packets [default: from the clock].
    #[arg(long)]
    run_id: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write a latency percentile plot (SVG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Args)]
struct Receive {
    /// Packets come back: measure round trips.
    #[arg(long, required_unless_present = "sink", conflicts_with = "sink")]
    echo: bool,
    /// Packets arrive at this interface: NAMESPACE:INTERFACE, by the name of `ip netns` or a path;
    /// may be given several times.
    #[arg(long, value_name = "NAMESPACE:INTERFACE")]
    sink: Vec<String>,
    /// How sinks receive.
    #[arg(long, value_enum, default_value = "socket", conflicts_with = "echo")]
    sink_kind: SinkKind,
    /// UDP port at the sinks, if it is translated on the way [default: that of --dst].
    #[arg(long, conflicts_with = "echo")]
    sink_port: Option<u16>,
    /// Bytes that wait at a socket sink at most; an ordinary socket has 212992.
    #[arg(long, default_value_t = 16 << 20, conflicts_with = "echo")]
    sink_buffer: usize,
    /// CPU of the sinks' thread.
    #[arg(long, conflicts_with = "echo")]
    sink_cpu: Option<usize>,
}

#[derive(Args)]
struct Blame {
    /// An interface between whose drops count as losses; may be given several times.
    #[arg(long, value_name = "NAMESPACE:INTERFACE")]
    watch: Vec<String>,
    /// Socket of a weir-dataplane whose drops count as losses.
    #[arg(long)]
    dataplane_socket: Option<PathBuf>,
    /// Pin directory of a weir-dataplane whose eBPF programs' drops count as losses.
    #[arg(long)]
    dataplane_pins: Option<PathBuf>,
    /// The part of the packets that may be lost, if every loss is accounted for.
    #[arg(long, value_name = "RATIO", default_value_t = 0.0)]
    max_loss: f64,
}

#[derive(Args)]
struct Echo {
    /// Interface of this network namespace.
    #[arg(long)]
    interface: String,
    /// Its queue.
    #[arg(long, default_value_t = 0)]
    queue: u32,
    /// UDP port.
    #[arg(long)]
    port: u16,
    /// Another destination address to answer for, beside the interface's own; may be given several
    /// times.
    #[arg(long)]
    address: Vec<IpAddr>,
    /// Ends after so many seconds [default: at a signal].
    #[arg(long, value_parser = seconds)]
    duration: Option<Duration>,
}

fn main() -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("signals")?;
    }
    match Arguments::parse().command {
        Command::Run(arguments) => measure(&arguments, &stop),
        Command::Echo(arguments) => {
            let Echo { interface, queue, port, address, duration } = arguments;
            let until = duration.map_or(u64::MAX, |duration| now_ns() + nanoseconds(duration));
            let counts = reflect(&interface, queue, port, &address, &stop, until)?;
            println!("{}", serde_json::to_string(&counts)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn measure(arguments: &Run, stop: &AtomicBool) -> Result<ExitCode> {
    let (report, picture) = run(&options(arguments)?, stop)?;
    if let Some(path) = &arguments.plot {
        fs::write(path, picture).with_context(|| format!("--plot {}", path.display()))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(arguments: &Run) -> Result<Options> {
    let Run { receive, blame, .. } = arguments;
    let (rate, seconds) = (arguments.rate, arguments.duration.as_secs_f64());
    ensure!(rate as f64 * seconds >= 1.0, "--rate {rate} for {seconds} s is not one packet");
    ensure!(rate as f64 * seconds < 4e9, "--rate {rate} for {seconds} s is over 4e9 packets");
    ensure!((0.0..=1.0).contains(&blame.max_loss), "--max-loss is a part: from 0 to 1");
    let places = |texts: &[String]| texts.iter().map(|text| Place::parse(text)).collect();
    let places: fn(&[String]) -> Result<Vec<Place>> = places;
    let watched = places(&blame.watch)?.into_iter().map(|place| (place, Directions::Both));
    Ok(Options {
        interface: arguments.interface.clone(),
        queue: arguments.queue,
        destination: arguments.dst,
        source: arguments.src,
        source_port: arguments.src_port,
        flows: arguments.flows,
        size: arguments.size,
        rate_pps: rate,
        duration: arguments.duration,
        warmup: arguments.warmup,
        drain: arguments.drain,
        destination_mac: arguments.dst_mac,
        cpu: arguments.cpu,
        spin: Duration::from_micros(arguments.spin_us),
        receiver: match receive.echo {
            true => Receiver::Echo,
            false => Receiver::Sinks {
                places: places(&receive.sink)?,
                kind: receive.sink_kind,
                port: receive.sink_port.unwrap_or(arguments.dst.port()),
                buffer: receive.sink_buffer,
                cpu: receive.sink_cpu,
            },
        },
        witnesses: Witnesses {
            interfaces: watched.collect(),
            dataplane: blame.dataplane_socket.clone(),
            pins: blame.dataplane_pins.clone(),
        },
        max_loss: blame.max_loss,
        run: arguments.run_id.unwrap_or_else(|| now_ns() as u32),
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.trim_end_matches('s').parse::<f64>();
    let seconds = seconds.map_err(|_| "a number of seconds, like 10 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
