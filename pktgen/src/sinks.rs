//! The receiving half: one thread for all sinks, wherever they are.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};

use crate::account::{Counters, risen};
use crate::arrivals::Arrivals;
use crate::clock::{nanoseconds, now_ns, sharpen_timers, timespec};
use crate::cpu::pin;
use crate::namespace::Place;
use crate::socket_sink::SocketSink;
use crate::xdp_sink::XdpSink;

/// How long an idle thread does not see that sending is over.
const WAIT_NS: u64 = 5_000_000;

/// How long a sink listens at most after the sender has finished, if packets keep coming.
const LISTEN_MAX_NS: u64 = 60_000_000_000;

/// How sinks receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SinkKind {
    /// A UDP socket behind the kernel's stack; the only one that works inside a pod.
    Socket,
    /// AF_XDP, on an interface whose native XDP sees the packets.
    Xdp,
}

/// What to listen for.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    pub places: Vec<Place>,
    pub kind: SinkKind,
    /// Where packets are sent to: what AF_XDP sinks accept beside their own addresses.
    pub destination: IpAddr,
    /// The port on which they arrive.
    pub port: u16,
    /// Bytes that may wait at a socket sink.
    pub buffer: usize,
    /// Bytes of a frame.
    pub size: usize,
    pub flows: u32,
    pub pattern: Vec<u8>,
    pub cpu: Option<usize>,
    /// A phase ends when nothing came for so long.
    pub drain: Duration,
}

/// A series of packets to count.
pub struct Phase {
    pub run: u32,
    pub packets: u64,
    /// Set when all are sent.
    pub is_sent: Arc<AtomicBool>,
}

/// What the sinks made of a phase.
pub struct Heard {
    pub arrivals: Arrivals,
    /// Packets that the sinks' sockets lost.
    pub losses: Counters,
    /// All counters of AF_XDP sockets, by place.
    pub statistics: Vec<(String, Counters)>,
}

/// Handle of the thread.
pub struct Sinks {
    phases: Sender<Phase>,
    started: Receiver<()>,
    heard: Receiver<Heard>,
    thread: JoinHandle<Result<()>>,
}

impl Sinks {
    /// Opens all sinks.
    ///
    /// # Errors
    /// If one of them cannot be opened.
    pub fn start(config: SinkConfig) -> Result<Sinks> {
        let (phases, phases_of_thread) = channel();
        let (start, started) = channel();
        let (hear, heard) = channel();
        let work = move || listen(&config, &phases_of_thread, &start, &hear);
        let thread = std::thread::Builder::new().name("sinks".into()).spawn(work)?;
        let sinks = Sinks { phases, started, heard, thread };
        match sinks.started.recv() {
            Ok(()) => Ok(sinks),
            Err(_) => Err(sinks.why_it_ended()),
        }
    }

    /// Begins a phase: on return all sinks listen for it.
    ///
    /// # Errors
    /// If the thread has ended, with its reason.
    pub fn begin(self, phase: Phase) -> Result<Sinks> {
        if self.phases.send(phase).is_err() || self.started.recv().is_err() {
            return Err(self.why_it_ended());
        }
        Ok(self)
    }

    /// Waits for the end of the phase.
    ///
    /// # Errors
    /// If the thread has ended, with its reason.
    pub fn finish(self) -> Result<(Sinks, Heard)> {
        match self.heard.recv() {
            Ok(heard) => Ok((self, heard)),
            Err(_) => Err(self.why_it_ended()),
        }
    }

    fn why_it_ended(self) -> anyhow::Error {
        drop(self.phases);
        match self.thread.join() {
            Ok(Ok(())) => anyhow!("the sinks' thread ended early"),
            Ok(Err(error)) => error,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Closes all sinks.
    ///
    /// # Errors
    /// What the thread ended with.
    pub fn close(self) -> Result<()> {
        drop(self.phases);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

enum Sink {
    Socket(Box<SocketSink>),
    Xdp(Box<XdpSink>),
}

impl Sink {
    fn receive(&mut self, number: usize, arrivals: &mut Arrivals) -> Result<usize> {
        match self {
            Sink::Socket(sink) => sink.receive(number, arrivals),
            Sink::Xdp(sink) => Ok(sink.receive(number, arrivals)),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Sink::Socket(sink) => sink.fd(),
            Sink::Xdp(sink) => sink.wire.fd(),
        }
    }

    fn losses(&self) -> Result<Counters> {
        match self {
            Sink::Socket(sink) => sink.losses(),
            Sink::Xdp(sink) => sink.wire.losses(),
        }
    }
}

fn listen(
    config: &SinkConfig,
    phases: &Receiver<Phase>,
    started: &Sender<()>,
    heard: &Sender<Heard>,
) -> Result<()> {
    pin(config.cpu)?;
    sharpen_timers();
    let mut sinks =
        config.places.iter().map(|place| open(config, place)).collect::<Result<Vec<_>>>()?;
    // The other side is gone only when it has failed, and then nobody asks any more.
    let _ = started.send(());
    for phase in phases {
        let SinkConfig { flows, pattern, .. } = config;
        let arrivals = Arrivals::new(phase.run, phase.packets, *flows, pattern, sinks.len());
        let before = losses(&sinks)?;
        let _ = started.send(());
        let arrivals = count(&mut sinks, arrivals, &phase.is_sent, nanoseconds(config.drain))?;
        let losses = risen(&before, &losses(&sinks)?);
        let statistics = statistics(&sinks, &config.places)?;
        let _ = heard.send(Heard { arrivals, losses, statistics });
    }
    for sink in sinks {
        if let Sink::Xdp(sink) = sink {
            sink.wire.close();
        }
    }
    Ok(())
}

fn open(config: &SinkConfig, place: &Place) -> Result<Sink> {
    let SinkConfig { destination, port, buffer, size, .. } = *config;
    Ok(match config.kind {
        SinkKind::Socket => {
            Sink::Socket(Box::new(SocketSink::open(place.clone(), destination, port, buffer)?))
        }
        SinkKind::Xdp => Sink::Xdp(Box::new(
            XdpSink::open(place, destination, port, size)
                .with_context(|| format!("sink {place}"))?,
        )),
    })
}

/// Receives until all is sent and nothing came for a while.
fn count(
    sinks: &mut [Sink],
    mut arrivals: Arrivals,
    is_sent: &AtomicBool,
    drain_ns: u64,
) -> Result<Arrivals> {
    let (mut quiet_since, mut sent_since) = (now_ns(), None);
    loop {
        let mut received = 0;
        for (number, sink) in sinks.iter_mut().enumerate() {
            received += sink.receive(number, &mut arrivals)?;
        }
        let now = now_ns();
        if received > 0 {
            quiet_since = now;
        }
        if is_sent.load(Ordering::Acquire) {
            let since = *sent_since.get_or_insert(now);
            let is_quiet = now.saturating_sub(quiet_since.max(since)) >= drain_ns;
            if is_quiet || now - since > LISTEN_MAX_NS {
                return Ok(arrivals);
            }
        }
        if received == 0 {
            wait(sinks.iter().map(Sink::fd), WAIT_NS)?;
        }
    }
}

/// Waits until one of `fds` can be read, or for `wait_ns`.
pub fn wait<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, wait_ns: u64) -> Result<()> {
    let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&timespec(wait_ns))) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("waiting for packets"),
    }
}

fn losses(sinks: &[Sink]) -> Result<Counters> {
    let mut losses = Counters::new();
    for sink in sinks {
        losses.extend(sink.losses()?);
    }
    Ok(losses)
}

fn statistics(sinks: &[Sink], places: &[Place]) -> Result<Vec<(String, Counters)>> {
    let of_sink = |(sink, place): (&Sink, &Place)| match sink {
        Sink::Socket(_) => None,
        Sink::Xdp(sink) => Some(sink.wire.statistics().map(|all| (place.to_string(), all))),
    };
    sinks.iter().zip(places).filter_map(of_sink).collect()
}
