//! The two forwarders, each a process of its own: a whole weir worker, and a loop over the same
//! sockets with nothing in it. Both receive by the dataplane's own steering program.
#![allow(unsafe_code)] // The bare loop moves descriptors between rings itself.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use weir_dataplane::attach::{Heartbeats, Interface, Programs};
use weir_dataplane::batch::BURST;
use weir_dataplane::clock::{Clock, MonotonicClock};
use weir_dataplane::device::xsk::{Region, RegionConfig, XskConfig, XskDevice};
use weir_dataplane::device::{Checksum, Device};
use weir_dataplane::flow::{FlowTable, Timeouts};
use weir_dataplane::memory::pools;
use weir_dataplane::verdicts::VerdictLog;
use weir_dataplane::worker::{Counters, Parts, Sleeper, Worker, connect};
use weir_packet::{Addr, Mac, protocol};
use weir_perf::machine;
use weir_tables::{
    Algorithm, Backend, BackendAddr, BackendState, Endpoint, Frontend, FrontendKey, FrontendType,
    Network, NextHop, Object, PortId, Prefix, Route, RouteTarget, Tables, Uplink, WorkerId,
};
use weir_xdp_redirect::{AddressClass, Settings, uplink_slot_base};
use xsk_rs::config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

/// Interfaces of the node: packets come in by the first and leave by the second.
pub const IN: &str = "in0";
pub const OUT: &str = "out0";
/// The service that packets are for, and the one client.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const SERVICE_L4_PORT: u16 = 53;
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What a forwarder says once packets pass.
pub const READY: &str = "forwarding";

/// Chunks and rings, the same for both: what the dataplane has.
const CHUNKS: u32 = RegionConfig::DEFAULT.chunks;
const RING: u32 = 2048;
const UMEM_RING: u32 = RegionConfig::DEFAULT.ring;

/// Forwards until it is killed.
pub fn run(kind: &str, pin_dir: &Path) -> Result<()> {
    machine::pin();
    match kind {
        "weir" => run_weir(pin_dir),
        "bare" => run_bare(pin_dir),
        _ => bail!("no forwarder {kind}"),
    }
}

/// Puts the steering program on the way in, with a socket behind it.
fn steer(pin_dir: &Path, socket: BorrowedFd<'_>) -> Result<()> {
    let programs = Programs::open(pin_dir)?;
    let mut maps = programs.maps()?;
    // Forwarders come and go; none of them hangs.
    maps.set_settings(Settings { heartbeat_timeout_ns: u64::MAX, ..Settings::DEFAULT })?;
    maps.set_address(IpAddr::V4(SERVICE), AddressClass::SERVICE)?;
    let slot = uplink_slot_base(0).context("there is a first uplink")?;
    maps.set_xsk(slot, socket)?;
    Heartbeats::open(pin_dir)?.stamp(slot, MonotonicClock.now().0)?;
    programs.attach_uplink(&Interface::by_name(IN)?, 0)?;
    println!("{READY}");
    Ok(())
}

fn run_weir(pin_dir: &Path) -> Result<()> {
    let (region, frames) = Region::new(RegionConfig::DEFAULT)?;
    let port = |name| Interface::by_name(name).map(|found| PortId(found.ifindex));
    let ports = (port(IN)?, port(OUT)?);
    let open = |name, port| {
        XskDevice::new(region, XskConfig::uplink(name, 0, port, Checksum::MaybePartial))
    };
    let mut devices = vec![open(IN, ports.0)?, open(OUT, ports.1)?];
    let mut pool = pools(frames, 1).remove(0);
    devices.iter_mut().for_each(|device| device.flush(&mut pool));
    steer(pin_dir, devices[0].wait_fd().context("an AF_XDP device is a socket")?)?;
    let (mut sleeper, waker) = Sleeper::new()?;
    let mut worker = Worker::new(Parts {
        id: WorkerId(0),
        workers: 1,
        devices,
        pool,
        flows: FlowTable::in_memory(1 << 16, 1, Timeouts::default()),
        snapshots: Arc::new(ArcSwap::from_pointee(tables(ports)?.snapshot())),
        handoff: connect(&[waker]).remove(0),
        counters: Arc::new(Counters::default()),
        verdicts: Arc::new(VerdictLog::new()),
        uplink_owners: vec![(ports.0, vec![WorkerId(0)])],
        unresolved: rtrb::RingBuffer::new(64).0,
        doorbell: None,
    });
    worker.run(&MonotonicClock, &mut sleeper, &AtomicBool::new(false), |_, _| {});
    Ok(())
}

/// One service with one backend, a pod behind the second interface.
fn tables((uplink, pod): (PortId, PortId)) -> Result<Tables> {
    let mut tables = Tables::new(1);
    let addr = |v4: Ipv4Addr| Addr::from_v4(v4.octets());
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let backend = BackendAddr { addr: addr(BACKEND), l4_port: 5353 };
    for object in [
        Object::Endpoint(Endpoint::new("bench/backend", pod, mac, vec![backend.addr])),
        Object::BackendSet {
            name: "bench/service".into(),
            protocol: protocol::UDP,
            algorithm: Algorithm::Maglev,
            backends: vec![Backend {
                addr: backend,
                state: BackendState::Active,
                weight: 1,
                node: None,
            }],
        },
        Object::Frontend(Frontend::new(
            FrontendKey { addr: addr(SERVICE), l4_port: SERVICE_L4_PORT, protocol: protocol::UDP },
            "bench/service",
            FrontendType::LoadBalancer,
            "bench/service",
        )),
    ] {
        tables.upsert(object)?;
    }
    let gateway = addr(GATEWAY);
    let prefix = Prefix::new(Addr::from_v4([0; 4]), 0).context("a default route")?;
    let target = RouteTarget::Uplink { port: uplink, gateway: Some(gateway) };
    tables.set_network(Network {
        uplinks: vec![Uplink { port: uplink, mac, mtu: 1500 }],
        routes: vec![Route { prefix, target, metric: 0 }],
        neighbours: [(NextHop { port: uplink, addr: gateway }, mac)].into(),
        ..Network::default()
    });
    Ok(tables)
}

/// The rings of one socket.
struct Rings {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

fn bind(umem: &Umem, name: &str) -> Result<Rings> {
    let config = SocketConfig::builder()
        .rx_queue_size(QueueSize::new(RING)?)
        .tx_queue_size(QueueSize::new(RING)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    // SAFETY: no program is loaded (INHIBIT_PROG_LOAD), which is what the call asks for.
    let (tx, rx, rings) = unsafe { Socket::new(config, umem, &name.parse()?, 0) }?;
    let (fill, completion) = rings.context("the queue is bound already")?;
    let rings = Rings { tx, rx, fill, completion };
    rings.set_option(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, 1024)?;
    rings.set_option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20)?;
    Ok(rings)
}

/// Packets per kick, as the dataplane sets it (linux/if_xdp.h).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

impl Rings {
    fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the rings keep the socket open, and the borrow keeps the rings.
        unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) }
    }

    fn set_option(&self, level: libc::c_int, name: libc::c_int, value: u32) -> Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open, and the value is a u32 of the length given.
        let result = unsafe {
            libc::setsockopt(
                self.fd().as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error()).context("a socket option");
        }
        Ok(())
    }
}

/// The least that can be done: each received descriptor goes into the other socket's TX ring.
fn run_bare(pin_dir: &Path) -> Result<()> {
    let config = UmemConfig::builder()
        .frame_size(2048.try_into()?)
        .fill_queue_size(QueueSize::new(UMEM_RING)?)
        .comp_queue_size(QueueSize::new(UMEM_RING)?)
        .build()?;
    let (umem, mut free) = Umem::new(config, CHUNKS.try_into()?, false)?;
    let (mut input, mut output) = (bind(&umem, IN)?, bind(&umem, OUT)?);
    let lent = free.split_off(free.len() - RING as usize);
    // SAFETY: these descriptors are in no other ring.
    unsafe { input.fill.produce(&lent) };
    steer(pin_dir, input.fd())?;
    let mut descs = [FrameDesc::default(); BURST];
    loop {
        // SAFETY: every descriptor is in one place: taken out of one ring, it goes into the next,
        // or into `free`; the rings have room for all that can be in them.
        let (received, sent, lent) = unsafe {
            let received = input.rx.consume(&mut descs);
            if received == 0 {
                std::hint::spin_loop();
                continue;
            }
            let sent = output.tx.produce(&descs[..received]);
            output.tx.wakeup()?;
            let at = free.len() - received;
            let lent = input.fill.produce(&free[at..]);
            free.truncate(at);
            loop {
                let done = output.completion.consume(&mut descs);
                free.extend_from_slice(&descs[..done]);
                if done < BURST {
                    break;
                }
            }
            (received, sent, lent)
        };
        if (sent, lent) != (received, received) {
            bail!("a ring was full: received {received}, sent {sent}, lent {lent}");
        }
    }
}
