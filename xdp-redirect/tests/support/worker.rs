//! A worker without a pipeline: an AF_XDP socket on a trunk that forwards by destination address.

#![expect(unsafe_code, reason = "xsk-rs leaves the ownership of frames to its callers")]

use std::{
    collections::HashMap,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use weir_xdp_redirect::PortHeader;
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{LibxdpFlags, SocketConfig, UmemConfig},
};

use super::{enter, now_ns};
use crate::attach::{Heartbeats, Maps};

const FRAMES: u32 = 8192;
const BURST: usize = 64;
const BEAT_NS: u64 = 10_000_000;

/// Where to send what is addressed to an address.
#[derive(Clone, Copy)]
pub struct Route {
    pub mac: [u8; 6],
    pub header: PortHeader,
}

/// What the worker saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Frames by port header as received.
    pub frames: HashMap<(u32, u8), u64>,
    /// TCP and UDP frames with a whole, right checksum.
    pub csum_whole: u64,
    /// Those with only the pseudo-header's sum in the field.
    pub csum_partial: u64,
    /// Those with neither.
    pub csum_wrong: u64,
    /// Frames of other protocols, by EtherType.
    pub other: HashMap<u16, u64>,
}

/// A running worker.
pub struct Worker {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// Whether it stamps its heartbeat.
    pub beats: Arc<AtomicBool>,
    pub seen: Arc<Mutex<Seen>>,
}

impl Worker {
    /// Starts one on the inner end of a trunk, in the slot, and waits until it runs.
    pub fn start(
        netns: &str,
        pin_dir: PathBuf,
        inner: &'static str,
        slot: u32,
        routes: HashMap<IpAddr, Route>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let beats = Arc::new(AtomicBool::new(true));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (netns, ready) = (netns.to_owned(), Arc::new(std::sync::Barrier::new(2)));
        let shared = (stop.clone(), beats.clone(), seen.clone(), ready.clone());
        let thread = thread::spawn(move || {
            enter(&netns);
            let (stop, beats, seen, ready) = shared;
            let mut rings = Rings::open(inner);
            let mut maps = Maps::open(&pin_dir).unwrap();
            rings.register(&mut maps, slot);
            let mut heartbeats = Heartbeats::open(&pin_dir).unwrap();
            let mut beat_ns = now_ns();
            heartbeats.stamp(slot, beat_ns).unwrap();
            ready.wait();
            while !stop.load(Ordering::Relaxed) {
                rings.turn(&routes, &seen);
                let now = now_ns();
                if beats.load(Ordering::Relaxed) && now - beat_ns > BEAT_NS {
                    heartbeats.stamp(slot, now).unwrap();
                    beat_ns = now;
                }
            }
        });
        ready.wait();
        Self { thread: Some(thread), stop, beats, seen }
    }

    /// What it saw since the last call.
    pub fn take_seen(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// A socket that sends frames as they are out of a device, without a program on it.
pub struct Sender(Rings);

impl Sender {
    pub fn open(netns: &str, device: &str) -> Self {
        super::inside(netns, || Self(Rings::open(device)))
    }

    /// Sends one frame, and returns when the kernel is done with it.
    pub fn send(&mut self, frame: &[u8]) {
        let Self(rings) = self;
        let mut desc = rings.received[0];
        // SAFETY: the frame is in no ring: it is sent from here alone, and waited for.
        let sent = unsafe {
            std::io::Write::write_all(&mut rings.umem.data_mut(&mut desc).cursor(), frame).unwrap();
            rings.tx.produce_one_and_wakeup(&desc).unwrap()
        };
        assert_eq!(sent, 1);
        super::wait_until(std::time::Duration::from_secs(1), || {
            let mut done = FrameDesc::default();
            // SAFETY: it is the frame sent above, which stays ours.
            unsafe { rings.completion.consume_one(&mut done) == 1 }
        });
    }
}

struct Rings {
    umem: Umem,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    received: Vec<FrameDesc>,
}

impl Rings {
    fn open(device: &str) -> Self {
        let frames = FRAMES.try_into().unwrap();
        let umem_config = UmemConfig::builder()
            .fill_queue_size(4096.try_into().unwrap())
            .comp_queue_size(4096.try_into().unwrap())
            .build()
            .unwrap();
        let (umem, descs) = Umem::new(umem_config, frames, false).unwrap();
        let config = SocketConfig::builder()
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .rx_queue_size(4096.try_into().unwrap())
            .tx_queue_size(4096.try_into().unwrap())
            .build();
        // SAFETY: the UMEM lives in the same struct as the rings and is shared with nobody.
        let (tx, rx, rings) =
            unsafe { Socket::new(config, &umem, &device.parse().unwrap(), 0) }.unwrap();
        let (mut fill, completion) = rings.unwrap();
        // SAFETY: these frames are nowhere else.
        assert_eq!(unsafe { fill.produce(&descs[..4096]) }, 4096);
        let received = descs[4096..4096 + BURST].to_vec();
        Self { umem, tx, rx, fill, completion, received }
    }

    fn register(&self, maps: &mut Maps, slot: u32) {
        // SAFETY: the descriptor is open as long as the queue, which is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) };
        maps.set_xsk(slot, fd).unwrap();
    }

    /// Receives a burst and sends it on; frames without a route return to FILL.
    fn turn(&mut self, routes: &HashMap<IpAddr, Route>, seen: &Mutex<Seen>) {
        // SAFETY: a received descriptor is ours until it is produced again.
        let n = unsafe { self.rx.poll_and_consume(&mut self.received, 5) }.unwrap();
        let mut send = Vec::new();
        let mut drop = Vec::new();
        if n > 0 {
            let mut seen = seen.lock().unwrap();
            for desc in &mut self.received[..n] {
                // SAFETY: as above, and nobody else reads this frame.
                let mut data = unsafe { self.umem.data_mut(desc) };
                let forwarded = forward(data.contents_mut(), routes, &mut seen);
                if forwarded { &mut send } else { &mut drop }.push(*desc);
            }
        }
        let mut sent = 0;
        while sent < send.len() {
            // SAFETY: the frames are ours, each is sent once.
            sent += unsafe { self.tx.produce(&send[sent..]) };
            _ = self.tx.wakeup();
            self.complete();
        }
        if !send.is_empty() {
            _ = self.tx.wakeup();
        }
        self.complete();
        // SAFETY: frames without a route are ours.
        assert_eq!(unsafe { self.fill.produce(&drop) }, drop.len());
    }

    fn complete(&mut self) {
        let mut done = [FrameDesc::default(); BURST];
        loop {
            // SAFETY: completed frames are ours, and go to FILL at once.
            let n = unsafe { self.completion.consume(&mut done) };
            // SAFETY: as above.
            assert_eq!(unsafe { self.fill.produce(&done[..n]) }, n);
            if n < BURST {
                return;
            }
        }
    }
}

/// Rewrites a frame for its way to a port; false if there is none.
fn forward(frame: &mut [u8], routes: &HashMap<IpAddr, Route>, seen: &mut Seen) -> bool {
    let header = PortHeader::from_mac(frame[..6].try_into().unwrap()).expect("a port's frame");
    *seen.frames.entry((header.ifindex, header.flags)).or_default() += 1;
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    let destination: IpAddr = match ethertype {
        0x0800 => <[u8; 4]>::try_from(&frame[30..34]).unwrap().into(),
        0x86dd => <[u8; 16]>::try_from(&frame[38..54]).unwrap().into(),
        _ => {
            *seen.other.entry(ethertype).or_default() += 1;
            return false;
        }
    };
    judge_checksum(frame, seen);
    let Some(route) = routes.get(&destination) else { return false };
    frame[..6].copy_from_slice(&route.mac);
    frame[6..12].copy_from_slice(&route.header.to_mac());
    true
}

/// Counts the state of a TCP or UDP checksum, and completes a partial one: the pod's kernel left
/// that to a device, and nothing in an AF_XDP frame says so.
fn judge_checksum(frame: &mut [u8], seen: &mut Seen) {
    let ip = &frame[14..];
    let (protocol, offset, end, addresses) = if ip[0] >> 4 == 4 {
        (ip[9], 20, usize::from(u16::from_be_bytes([ip[2], ip[3]])), &ip[12..20])
    } else {
        (ip[6], 40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])), &ip[8..40])
    };
    let at = match protocol {
        6 => offset + 16,
        17 => offset + 6,
        _ => return,
    };
    let l4 = &ip[offset..end];
    let pseudo = [addresses, &[0, protocol], &(l4.len() as u16).to_be_bytes()].concat();
    let field = u16::from_be_bytes([ip[at], ip[at + 1]]);
    let sum = fold(&[&pseudo, l4].concat());
    if sum == 0xffff {
        seen.csum_whole += 1;
    } else if field == fold(&pseudo) {
        seen.csum_partial += 1;
        let whole = !fold(l4);
        frame[14 + at..14 + at + 2].copy_from_slice(&whole.to_be_bytes());
    } else {
        seen.csum_wrong += 1;
    }
}

/// The ones' complement sum.
fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
