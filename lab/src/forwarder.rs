//! [`Link`]: a thread that carries frames between two veths over packet sockets, through an
//! impairment per direction: host A -- veth -- thread -- veth -- host B.
//!
//! The inner ends are in a `wire` namespace of their own, without addresses and IPv6, so that the
//! kernel there says nothing itself. The kernel shows a packet socket all that an interface sends,
//! but for what that socket sent itself: with one socket per side, nothing comes back.

use std::{
    fmt,
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{
            self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
            setsockopt, sockopt,
        },
        time::TimeSpec,
    },
};

use crate::{
    Channel, Counters, Error, Host, Impairment, Lab, LinkOptions, Result, clock::Stopwatch,
    lab::lock, link,
};

/// Frames taken from one side before the other gets its turn.
const BURST_FRAMES: usize = 64;

/// The longest frame of a veth with its largest MTU, and a VLAN tag.
const FRAME_BYTES_MAX: usize = 65_535 + 18;

/// What may wait in the kernel while the thread is not scheduled.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;

/// How soon the thread sees that it should stop.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// A link whose frames can be lost, delayed, duplicated, reordered or cut off, the same in both
/// directions but decided apart. It works until its lab is dropped; dropping this changes nothing.
///
/// `Display` names the link, its seed and its present impairment.
#[derive(Debug)]
pub struct Link {
    name: String,
    seed: u64,
    forwarder: Arc<Forwarder>,
}

impl Link {
    /// Changes the impairment, for frames that arrive from now on.
    ///
    /// # Errors
    /// [`Error::Impairment`] outside its bounds.
    pub fn set(&self, impairment: Impairment) -> Result<()> {
        impairment.check()?;
        for channel in &self.forwarder.channels {
            lock(channel).set(impairment);
        }
        Ok(())
    }

    /// Cuts the link, or heals it; everything else stays as set.
    pub fn partition(&self, partitioned: bool) {
        for channel in &self.forwarder.channels {
            let mut channel = lock(channel);
            let impairment = Impairment { partitioned, ..channel.impairment() };
            channel.set(impairment);
        }
    }

    /// The seed that decides.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What was done to frames so far, both directions together.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let [a, b] = self.counters_by_direction();
        a.plus(b)
    }

    /// What was done so far to frames from the first host, and from the second.
    #[must_use]
    pub fn counters_by_direction(&self) -> [Counters; 2] {
        self.forwarder.channels.each_ref().map(|channel| lock(channel).counters())
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let impairment = lock(&self.forwarder.channels[0]).impairment();
        write!(f, "link {} seed {} {impairment:?}", self.name, self.seed)
    }
}

/// The part of a link that its lab shares.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// Frames from the first host, and from the second.
    channels: [Mutex<Channel<Vec<u8>>>; 2],
    stop: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Forwarder {
    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

/// Makes both veths and starts the thread between them.
pub(crate) fn start(
    lab: &Lab,
    ends: [(&Host, &str); 2],
    options: &LinkOptions,
    seed: u64,
    impairment: Impairment,
) -> Result<Link> {
    impairment.check()?;
    let [(host_a, interface_a), (host_b, interface_b)] = ends;
    let name = format!("{}:{interface_a} - {}:{interface_b}", host_a.name(), host_b.name());
    let failed = |source: io::Error| Error::Forward { link: name.clone(), source };

    let number = lab.inner().with_made(|made| {
        made.wires += 1;
        Ok(made.wires)
    })?;
    let wire = lab.host(&format!("wire{number}"))?;
    wire.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    for (end, inner, mac_a) in [(ends[0], "a", options.mac_a), (ends[1], "b", options.mac_b)] {
        let options = LinkOptions { mac_a, mac_b: None, ..options.clone() };
        link::add(lab.inner(), end, (&wire, inner), &options)?;
    }
    // Bound while nothing is up: no frame of the wrong interface can be in a queue.
    let sockets = wire.enter(|| Ok([open("a")?, open("b")?]))?.map_err(failed)?;
    for (host, interface) in [ends[0], ends[1], (&wire, "a"), (&wire, "b")] {
        host.ethtool(&format!("-K {interface} tx off tso off gso off gro off"))?;
        host.ip(&format!("link set dev {interface} up"))?;
    }

    // Two seeds from one: each direction has its own draws, so neither depends on how they mix.
    let channel = |seed| Mutex::new(Channel::new(seed, impairment));
    let forwarder = Arc::new(Forwarder {
        channels: [channel(seed), channel(!seed)],
        stop: AtomicBool::new(false),
        thread: Mutex::new(None),
    });
    lab.inner().with_made(|made| {
        let shared = forwarder.clone();
        let thread = thread::Builder::new().name(format!("wire{number}"));
        let thread = thread.spawn(move || forward(&shared, &sockets)).map_err(failed)?;
        *lock(&forwarder.thread) = Some(thread);
        made.forwarders.push(forwarder.clone());
        Ok(())
    })?;
    Ok(Link { name, seed, forwarder })
}

/// A packet socket for all frames of one interface of the namespace that the thread is in.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let socket = socket::socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    let links = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    let address = links.filter_map(|entry| entry.address?.as_link_addr().copied()).next();
    socket::bind(socket.as_raw_fd(), &address.ok_or(Errno::ENODEV)?)?;
    Ok(socket)
}

fn forward(shared: &Forwarder, sockets: &[OwnedFd; 2]) {
    let watch = Stopwatch::start();
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    while !shared.stop.load(Ordering::Relaxed) {
        wait(shared, sockets, watch.elapsed_ns());
        for (from, channel) in sockets.iter().zip(&shared.channels) {
            let mut channel = lock(channel);
            for _ in 0..BURST_FRAMES {
                let Some(frame) = receive(from, &mut buffer, channel.counters_mut()) else { break };
                channel.push(watch.elapsed_ns(), frame.to_vec());
            }
        }
        let now_ns = watch.elapsed_ns();
        for (to, channel) in sockets.iter().rev().zip(&shared.channels) {
            let mut channel = lock(channel);
            while let Some(frame) = channel.pop_due(now_ns) {
                let sent = socket::send(to.as_raw_fd(), &frame, MsgFlags::empty());
                channel.counters_mut().refused += u64::from(sent.is_err());
            }
        }
    }
}

/// Until a frame arrives or one is due.
fn wait(shared: &Forwarder, sockets: &[OwnedFd; 2], now_ns: u64) {
    let due = shared.channels.iter().filter_map(|channel| lock(channel).next_due_ns()).min();
    let due = due.map_or(WAIT_MAX, |due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)));
    let timeout = TimeSpec::from_duration(due.min(WAIT_MAX));
    let mut ready = sockets.each_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
    // An error (EINTR) is a wait that ended early.
    let _ = ppoll(&mut ready, Some(timeout), None);
}

/// The next frame of a socket. An error (interface down) clears itself: there is no frame yet.
fn receive<'b>(
    socket: &OwnedFd,
    buffer: &'b mut [u8],
    counters: &mut Counters,
) -> Option<&'b [u8]> {
    let mut control = cmsg_space!(u32);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        socket::recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags).ok()?;
    for control in message.cmsgs().ok()? {
        // The kernel's total since the socket was opened.
        if let ControlMessageOwned::RxqOvfl(missed) = control {
            counters.missed = missed.into();
        }
    }
    let length = message.bytes;
    Some(&buffer[..length])
}
