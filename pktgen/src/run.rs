//! One measurement, from the interface to the report.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_packet::Mac;
use weir_packet::wire::ETHERNET_LEN;

use crate::account::{Account, Counters, risen};
use crate::arrivals::Arrivals;
use crate::clock::{nanoseconds, now_ns, pause, sharpen_timers};
use crate::cpu::pin;
use crate::echo::round_trips;
use crate::latency::Latencies;
use crate::link::Link;
use crate::namespace::Place;
use crate::plot::{self, Curve};
use crate::report::{Balance, Order, Report, Setup};
use crate::schedule::Schedule;
use crate::sender::Sender;
use crate::sinks::{Phase, SinkConfig, SinkKind, Sinks};
use crate::template::{AddressRange, PacketSpec, PacketTemplate, TemplateError};
use crate::wire::{FRAME_MAX, Steered, Wire};
use crate::witness::{Directions, Witnesses};
use crate::xdp_sink::XdpSink;

/// Between making everything ready and the first packet.
const LEAD_NS: u64 = 10_000_000;

/// What a dataplane needs to publish its counters: it copies them with each heartbeat.
const COUNTERS_LAG: Duration = Duration::from_millis(250);

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    pub interface: String,
    pub queue: u32,
    pub destination: SocketAddr,
    /// The interface's address where it is not given.
    pub source: Option<AddressRange>,
    pub source_port: u16,
    pub flows: u32,
    /// Bytes of a frame, without FCS.
    pub size: usize,
    pub rate_pps: u64,
    pub duration: Duration,
    pub warmup: Duration,
    pub drain: Duration,
    /// The kernel's next hop where it is not given.
    pub destination_mac: Option<Mac>,
    pub cpu: Option<usize>,
    pub spin: Duration,
    pub receiver: Receiver,
    /// Who is asked for losses, beside the interfaces and sockets at both ends.
    pub witnesses: Witnesses,
    pub max_loss: f64,
    /// Number of the run, to tell its packets from others'.
    pub run: u32,
}

/// Where packets should arrive.
#[derive(Clone, Debug)]
pub enum Receiver {
    /// Back at the interface that they left by.
    Echo,
    /// At sinks.
    Sinks { places: Vec<Place>, kind: SinkKind, port: u16, buffer: usize, cpu: Option<usize> },
}

/// What one phase found.
struct Outcome {
    offered: u64,
    accepted: u64,
    was_cut_short: bool,
    sent: u64,
    elapsed_ns: u64,
    lateness: Latencies,
    arrivals: Arrivals,
    losses: Counters,
    statistics: Vec<(String, Counters)>,
}

/// The two ways to receive, ready.
enum Ends {
    OneWay { wire: Wire, sinks: Sinks },
    RoundTrip(XdpSink),
}

/// Measures. The run ends early, with a report, when `stop` is set. The second value is the
/// report's picture (SVG).
///
/// # Errors
/// If an interface, a namespace, a socket, or a program is not to be had; a failed measurement is a
/// report, not an error.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<(Report, String)> {
    let link = Link::find(&options.interface)?;
    let template = make_template(options, &link)?;
    let place = Place::parse(&options.interface)?;
    let witnesses = add_ends(options, &place);
    let (_, silent) = witnesses.read();
    ensure!(silent.is_empty(), "{}", silent.join("; "));

    let mut ends = open(options, &link, &template)?;
    // After the sinks' thread has started, which has its own place.
    pin(options.cpu)?;
    sharpen_timers();
    if !options.warmup.is_zero() {
        ends = measure(options, &template, ends, options.run ^ 1, options.warmup, stop)?.0;
        pause(COUNTERS_LAG);
    }
    let (before, _) = witnesses.read();
    let duration = options.duration;
    let (ends, mut outcome) = measure(options, &template, ends, options.run, duration, stop)?;
    pause(COUNTERS_LAG);
    let (after, mut notes) = witnesses.read();
    outcome.losses.extend(risen(&before, &after));
    forget_refused(&mut outcome, &place);
    outcome.statistics.push((place.to_string(), ends.statistics()?));
    ends.close()?;
    let picture = draw(options, &outcome);
    if outcome.was_cut_short {
        notes.push("cut short by a signal".into());
    }
    Ok((report(options, &template, &outcome, notes), picture))
}

fn make_template(options: &Options, link: &Link) -> Result<PacketTemplate> {
    let Options { destination: dst, size, .. } = *options;
    let max = FRAME_MAX.min(link.mtu as usize + ETHERNET_LEN);
    if size > max {
        return Err(TemplateError::TooLarge { size, max }.into());
    }
    let spec = PacketSpec {
        dst_mac: match options.destination_mac {
            Some(mac) => mac,
            None => link.next_hop_mac(dst.ip())?,
        },
        src_mac: link.mac,
        src: match options.source {
            Some(range) => range,
            None => link.address_towards(dst.ip())?.into(),
        },
        src_port: options.source_port,
        dst,
        flows: options.flows,
        size,
    };
    Ok(PacketTemplate::new(spec)?)
}

/// The interfaces at both ends are always asked.
fn add_ends(options: &Options, place: &Place) -> Witnesses {
    let mut witnesses = options.witnesses.clone();
    witnesses.interfaces.push((place.clone(), Directions::Sent));
    if let Receiver::Sinks { places, kind, .. } = &options.receiver {
        let directions = match kind {
            SinkKind::Socket => Directions::Both,
            SinkKind::Xdp => Directions::Sent,
        };
        witnesses.interfaces.extend(places.iter().map(|place| (place.clone(), directions)));
    }
    witnesses
}

/// What the wire refused was not sent, so it is not lost, though the interface counts it as
/// dropped.
fn forget_refused(outcome: &mut Outcome, place: &Place) {
    let refused = outcome.accepted.saturating_sub(outcome.sent);
    if let Some(dropped) = outcome.losses.get_mut(&format!("{place} tx_dropped")) {
        *dropped = dropped.saturating_sub(refused);
    }
    outcome.losses.retain(|_, packets| *packets > 0);
}

fn open(options: &Options, link: &Link, template: &PacketTemplate) -> Result<Ends> {
    let PacketSpec { dst, size, flows, .. } = *template.spec();
    let label = options.interface.clone();
    match &options.receiver {
        Receiver::Echo => {
            let spec = template.spec();
            let steered = Steered { addresses: spec.src.iter().collect(), ports: spec.src_ports() };
            let wire = Wire::open(link, options.queue, size, Some(&steered), label)?;
            Ok(Ends::RoundTrip(XdpSink::new(wire, steered.ports)))
        }
        Receiver::Sinks { places, kind, port, buffer, cpu } => {
            let wire = Wire::open(link, options.queue, size, None, label)?;
            let sinks = Sinks::start(SinkConfig {
                places: places.clone(),
                kind: *kind,
                destination: dst.ip(),
                port: *port,
                buffer: *buffer,
                size,
                flows,
                pattern: template.pattern().to_vec(),
                cpu: *cpu,
                drain: options.drain,
            })?;
            Ok(Ends::OneWay { wire, sinks })
        }
    }
}

/// Sends one schedule and waits for what arrives.
fn measure(
    options: &Options,
    template: &PacketTemplate,
    ends: Ends,
    run: u32,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<(Ends, Outcome)> {
    let packets = Schedule::new(0, options.rate_pps, duration).packets();
    let schedule = || Schedule::new(now_ns() + LEAD_NS, options.rate_pps, duration);
    let spin_ns = nanoseconds(options.spin);
    match ends {
        Ends::OneWay { mut wire, sinks } => {
            let is_sent = Arc::new(AtomicBool::new(false));
            let sinks = sinks.begin(Phase { run, packets, is_sent: is_sent.clone() })?;
            let before = wire.sent()?;
            let mut sender = Sender::new(template, schedule(), run, spin_ns);
            sender.run(&mut wire, stop);
            is_sent.store(true, Ordering::Release);
            let (sinks, heard) = sinks.finish()?;
            let outcome = Outcome {
                offered: sender.offered(),
                accepted: sender.accepted(),
                was_cut_short: sender.was_cut_short(),
                sent: wire.sent()? - before,
                elapsed_ns: sender.elapsed_ns(),
                lateness: sender.lateness,
                arrivals: heard.arrivals,
                losses: heard.losses,
                statistics: heard.statistics,
            };
            Ok((Ends::OneWay { wire, sinks }, outcome))
        }
        Ends::RoundTrip(mut sink) => {
            let spec = template.spec();
            let mut arrivals = Arrivals::new(run, packets, spec.flows, template.pattern(), 1);
            let (before, losses) = (sink.wire.sent()?, sink.wire.losses()?);
            let mut sender = Sender::new(template, schedule(), run, spin_ns);
            let drain_ns = nanoseconds(options.drain);
            round_trips(&mut sender, &mut sink, &mut arrivals, stop, drain_ns)?;
            let outcome = Outcome {
                offered: sender.offered(),
                accepted: sender.accepted(),
                was_cut_short: sender.was_cut_short(),
                sent: sink.wire.sent()? - before,
                elapsed_ns: sender.elapsed_ns(),
                lateness: sender.lateness,
                arrivals,
                losses: risen(&losses, &sink.wire.losses()?),
                statistics: Vec::new(),
            };
            Ok((Ends::RoundTrip(sink), outcome))
        }
    }
}

impl Ends {
    fn statistics(&self) -> Result<Counters> {
        match self {
            Ends::OneWay { wire, .. } => wire.statistics(),
            Ends::RoundTrip(sink) => sink.wire.statistics(),
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Ends::OneWay { wire, sinks } => {
                wire.close();
                sinks.close()
            }
            Ends::RoundTrip(sink) => {
                sink.wire.close();
                Ok(())
            }
        }
    }
}

fn report(
    options: &Options,
    template: &PacketTemplate,
    outcome: &Outcome,
    notes: Vec<String>,
) -> Report {
    let Outcome { offered, sent, ref arrivals, .. } = *outcome;
    let counts = arrivals.counts();
    let gaps = arrivals.gaps(outcome.accepted);
    let mut losses = outcome.losses.clone();
    if counts.corrupted > 0 {
        losses.insert("corrupted on the way".into(), counts.corrupted);
    }
    let account = Account { offered, sent, received: counts.received, losses };
    let failures = account.failures(options.max_loss);
    let per_second = |packets: u64, ns: u64| packets as f64 * 1e9 / ns.max(1) as f64;
    let names: Vec<String> = match &options.receiver {
        Receiver::Echo => vec![options.interface.clone()],
        Receiver::Sinks { places, .. } => places.iter().map(Place::to_string).collect(),
    };
    Report {
        ok: failures.is_empty(),
        failures: failures.iter().map(ToString::to_string).collect(),
        notes,
        setup: setup(options, template),
        balance: Balance::from(&account),
        account,
        order: Order {
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            corrupted: counts.corrupted,
            foreign: counts.foreign,
            gaps: gaps.gaps,
            flows_with_gaps: gaps.flows,
            longest_gap: gaps.longest,
            longest_gap_ms: gaps.longest as f64 * 1e3 / options.rate_pps as f64,
        },
        sent_pps: per_second(sent, outcome.elapsed_ns),
        received_pps: per_second(counts.received, arrivals.span_ns()),
        sinks: names.into_iter().zip(arrivals.by_sink().iter().copied()).collect(),
        latency_ns: arrivals.latency.summary(),
        transit_ns: arrivals.transit.summary(),
        lateness_ns: outcome.lateness.summary(),
        sockets: outcome.statistics.iter().cloned().collect(),
    }
}

fn setup(options: &Options, template: &PacketTemplate) -> Setup {
    let spec = template.spec();
    let (first, last) = spec.src_ports();
    let mode = match options.receiver {
        Receiver::Echo => "round-trip",
        Receiver::Sinks { .. } => "one-way",
    };
    Setup {
        run: options.run,
        mode: mode.into(),
        interface: options.interface.clone(),
        source: format!("{} ports {first}-{last}", spec.src),
        destination: spec.dst.to_string(),
        flows: spec.flows,
        size: spec.size,
        rate_pps: options.rate_pps,
        duration_s: options.duration.as_secs_f64(),
        warmup_s: options.warmup.as_secs_f64(),
        max_loss: options.max_loss,
    }
}

fn draw(options: &Options, outcome: &Outcome) -> String {
    let Options { rate_pps, size, flows, .. } = options;
    let title = format!("{rate_pps} packets/s of {size} bytes in {flows} flows");
    let curve = |name, latencies: &Latencies| Curve { name, points: latencies.curve() };
    let curves = [
        curve("latency, from the intended time of sending", &outcome.arrivals.latency),
        curve("transit, from the actual time of sending", &outcome.arrivals.transit),
        curve("lateness of the sender", &outcome.lateness),
    ];
    plot::svg(&title, &curves)
}
