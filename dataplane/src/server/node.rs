//! Puts a node together: trunks, devices, workers, and the control thread's parts.
//!
//! Order matters once: programs are attached before sockets are bound (some drivers need it),
//! sockets enter the kernel's map before any address is ours, and flows are adopted before the
//! first packet.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use rtrb::RingBuffer;
use weir_tables::{NextHop, PortId, Snapshot, WorkerId};
use weir_xdp_redirect::{FailureMode, trunk_slot, uplink_slot_base};

use super::kernel::{Kernel, KernelParts};
use super::shared::{DeviceView, Shared, WorkerView};
use super::uplinks::{self, Uplinks, Wanted};
use crate::attach::{Heartbeats, Interface, Loader, Maps, Programs, TcHook};
use crate::attach::{UplinkAttachment, XdpMode};
use crate::clock::{Clock, Instant, MonotonicClock};
use crate::device::Checksum;
use crate::device::xsk::{Region, RegionConfig, XskConfig, XskDevice, XskError};
use crate::flow::store::{self, Adopted, StoreOptions};
use crate::flow::{FlowTable, Timeouts};
use crate::memory::{Frame, Pool, pools};
use crate::netlink::{HostPortConfig, KernelWatch, Netlink, Trunk, TrunkConfig, WatchConfig};
use crate::netlink::{Link, offload};
use crate::verdicts::VerdictLog;
use crate::worker::{Counters, Doorbell, Parts, Sleeper, Waker, Worker, connect};

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    pub workers: u8,
    /// Pin worker n to CPU n; not where several nodes share a machine.
    pub pin_workers: bool,
    pub uplinks: Wanted,
    pub failure_mode: FailureMode,
    pub metrics_address: Option<SocketAddr>,
    /// Entries per worker; a flow with its answers takes two.
    pub flows_max: u32,
    pub timeouts: Timeouts,
    /// Frames per worker.
    pub frames: u32,
}

impl NodeOptions {
    /// Packet memory of the process, bytes.
    pub fn locked_bytes(&self) -> u64 {
        let chunks = u64::from(self.frames) * u64::from(self.workers);
        chunks * u64::from(RegionConfig::DEFAULT.chunk_size)
    }
}

/// Everything that can be made while another process still has the node.
pub struct Prepared {
    netlink: Netlink,
    watch: KernelWatch,
    uplinks: Uplinks,
    loader: Loader,
    memory: Part<(Region, Spare)>,
}

/// Frames that may be given up with the process, before they have a pool.
type Spare = ManuallyDrop<Vec<Frame>>;

/// A started node: workers run already.
pub struct Node {
    /// Taken by whoever serves.
    pub kernel: Option<Kernel>,
    pub shared: Arc<Shared>,
    /// Readable when workers have news.
    pub doorbell: UnixDatagram,
    /// Next hops that workers ask for.
    pub unresolved: Vec<rtrb::Consumer<NextHop>>,
    pub threads: Vec<JoinHandle<()>>,
    pub stop: Arc<AtomicBool>,
    /// The workers' sockets, and where their heartbeats are.
    slots: Vec<u32>,
    pin_dir: PathBuf,
}

/// One socket of one worker, before it starts.
struct Socket {
    worker: usize,
    slot: u32,
    device: XskDevice,
    view: Arc<DeviceView>,
}

/// Does what disturbs nobody: finds the uplinks, gets packet memory, reads the kernel's types.
pub async fn prepare(options: &NodeOptions) -> Result<Prepared> {
    let netlink = Netlink::open()?;
    let watch = KernelWatch::start(WatchConfig::default()).await?;
    let uplinks = uplinks::find(&options.uplinks, &watch).await?;
    let memory = begin_memory(options)?;
    let loader = Loader::new(&options.pin_dir);
    let names: Vec<&str> = uplinks.links.iter().map(|link| link.name.as_str()).collect();
    tracing::info!(uplinks = names.join(","), mtu = uplinks.mtu, "prepared");
    Ok(Prepared { netlink, watch, uplinks, loader, memory })
}

/// Builds and starts a node. Whatever fails is named, with what to do.
pub async fn start(options: &NodeOptions, prepared: Prepared) -> Result<Node> {
    let workers = usize::from(options.workers);
    let mut phases = Phases::start();
    let Prepared { netlink, watch, uplinks: found, loader, memory } = prepared;
    // As large as a frame: what is too large for the way on is told by a worker.
    let config = TrunkConfig { mtu: uplinks::MTU_MAX, ..TrunkConfig::default() };
    let mut trunks = Vec::new();
    for worker in 0..workers {
        trunks.push(netlink.ensure_trunk(worker as u32, &config).await?);
    }
    let host_config = HostPortConfig { mtu: found.mtu, ..HostPortConfig::default() };
    let host = netlink.ensure_host_port(&host_config).await?;
    phases.end("host port and trunks");
    let hook = TcHook::of_this_kernel();
    let mut programs = Programs::open_with(loader, hook)?;
    // While programs are replaced, which is waiting more than work.
    let flows = begin_flows(options)?;
    phases.end("programs");

    let uplinks = attach_uplinks(&programs, &found.links)?;
    attach_trunks(&mut programs, &trunks)?;
    phases.end("programs on uplinks and trunks");
    let (region, frames) = join(memory)?;
    let pools = pools(ManuallyDrop::into_inner(frames), workers);
    phases.end("packet buffers");
    let mut sockets = Sockets::new(region, options, found.links.len(), host.outer.ifindex);
    sockets.degraded.extend(found.degraded);
    sockets.open_uplinks(uplinks)?;
    sockets.open_trunks(&trunks)?;
    phases.end("sockets");
    let Sockets { sockets, uplinks, degraded, .. } = sockets;
    enter_map(&programs, &sockets)?;
    let capabilities = capabilities(hook, &found.links, &sockets);
    let (doorbell, bell) = Doorbell::new().context("doorbell")?;
    let plan = Plan::new(options, pools, flows, &uplinks, &sockets, doorbell)?;
    phases.end("flows");
    let shared = Arc::new(Shared {
        snapshots: Arc::clone(&plan.snapshots),
        workers: plan.views(options),
        devices: sockets.iter().map(|socket| Arc::clone(&socket.view)).collect(),
        adopted_flows: plan.adopted,
        degraded,
        mtu: found.mtu,
        capabilities,
        ..Shared::idle(phases.started, &options.run_dir)
    });
    let kernel = Kernel::new(KernelParts {
        programs,
        netlink,
        watch,
        trunks,
        host,
        uplinks: uplinks.iter().map(|uplink| uplink.port.0).collect(),
        failure_mode: options.failure_mode,
        run_dir: options.run_dir.clone(),
    })?;
    phases.end("programs' settings");
    let stop = Arc::new(AtomicBool::new(false));
    let slots = sockets.iter().map(|socket| socket.slot).collect();
    let Threads { handles: threads, unresolved } = plan.spawn(sockets, options, &stop)?;
    phases.end("workers");
    let (kernel, pin_dir) = (Some(kernel), options.pin_dir.clone());
    Ok(Node { kernel, shared, doorbell: bell, unresolved, threads, stop, slots, pin_dir })
}

/// What kernel and devices can do, for people.
fn capabilities(hook: TcHook, uplinks: &[Link], sockets: &[Socket]) -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    let tcx = if hook == TcHook::Tcx { "yes" } else { "no: clsact" };
    let mut all = BTreeMap::from([
        ("kernel".to_owned(), uname.release().to_string_lossy().into_owned()),
        ("tcx".to_owned(), tcx.to_owned()),
    ]);
    for Link { name, mtu, .. } in uplinks {
        let views = sockets.iter().map(|socket| &socket.view).filter(|view| view.name == *name);
        let queues = views.clone().count();
        let mode = views.clone().next().map_or("no", |view| view.xdp_mode);
        let driver = offload::driver(name).unwrap_or_else(|_| "unknown driver".into());
        let text = format!("{driver}, {queues} queues, {mode} XDP, no zero-copy, MTU {mtu}");
        all.insert(format!("uplink {name}"), text);
    }
    all
}

/// What takes how long at the start, for those who must make it shorter.
struct Phases {
    started: Instant,
    last: Instant,
}

impl Phases {
    fn start() -> Phases {
        let started = MonotonicClock.now();
        Phases { started, last: started }
    }

    fn end(&mut self, phase: &'static str) {
        let now = MonotonicClock.now();
        let us_since = |then: Instant| (now.0 - then.0) / 1000;
        let (took_us, at_us) = (us_since(self.last), us_since(self.started));
        tracing::debug!(phase, took_us, at_us, "start");
        self.last = now;
    }
}

struct UplinkQueues {
    port: PortId,
    /// Worker of each queue.
    owners: Vec<WorkerId>,
}

/// A part of the start that runs on a thread of its own.
type Part<T> = JoinHandle<Result<T>>;

/// Runs a part of the start on a thread of its own.
fn beside<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Part<T>> {
    std::thread::Builder::new().name(name.into()).spawn(run).with_context(|| name.to_owned())
}

fn join<T>(part: Part<T>) -> Result<T> {
    part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// From here on the programs find the sockets.
fn enter_map(programs: &Programs, sockets: &[Socket]) -> Result<()> {
    use std::os::fd::AsFd as _;
    let mut maps = programs.maps()?;
    for socket in sockets {
        maps.set_xsk(socket.slot, socket.device.as_fd())?;
    }
    Ok(())
}

fn attach_uplinks(
    programs: &Programs,
    uplinks: &[Link],
) -> Result<Vec<(Interface, UplinkAttachment)>> {
    let attach = |(number, link): (usize, &Link)| {
        let device = Interface::by_name(&link.name)?;
        let attached = programs.attach_uplink(&device, number as u32)?;
        let (mode, reason) = (attached.mode, &attached.reason);
        tracing::info!(uplink = link.name, ?mode, reason, "XDP attached");
        Ok((device, attached))
    };
    uplinks.iter().enumerate().map(attach).collect()
}

fn attach_trunks(programs: &mut Programs, trunks: &[Trunk]) -> Result<()> {
    for (worker, trunk) in trunks.iter().enumerate() {
        let outer = Interface::by_index(trunk.outer.ifindex)?;
        let inner = Interface::by_index(trunk.inner.ifindex)?;
        programs.attach_trunk(&outer, &inner, worker as u32)?;
    }
    Ok(())
}

/// Opens sockets one by one.
struct Sockets {
    region: Region,
    workers: usize,
    host: PortId,
    fill_max: u32,
    sockets: Vec<Socket>,
    uplinks: Vec<UplinkQueues>,
    degraded: Vec<String>,
}

impl Sockets {
    fn new(region: Region, options: &NodeOptions, uplinks: usize, host: u32) -> Sockets {
        // A worker's devices may lend out three quarters of its frames; the rest are in flight.
        let devices = 1 + uplinks as u32;
        let fill_max = prev_power_of_two(options.frames * 3 / 4 / devices).min(4096);
        Sockets {
            region,
            workers: usize::from(options.workers),
            host: PortId(host),
            fill_max,
            sockets: Vec::new(),
            uplinks: Vec::new(),
            degraded: Vec::new(),
        }
    }

    /// A socket per queue of each uplink, dealt out to the workers in turn.
    fn open_uplinks(&mut self, uplinks: Vec<(Interface, UplinkAttachment)>) -> Result<()> {
        for (number, (device, attached)) in uplinks.into_iter().enumerate() {
            let name = &device.name;
            let mode = match attached.mode {
                XdpMode::Native => "native",
                XdpMode::Generic => {
                    let reason = &attached.reason;
                    self.degraded.push(format!("{name}: generic XDP, which is slower: {reason}"));
                    "generic"
                }
            };
            let base = uplink_slot_base(number as u32).context("more uplinks than slots")?;
            let port = PortId(device.ifindex);
            let mut owners = Vec::new();
            for queue in 0..weir_xdp_redirect::UPLINK_QUEUES {
                let worker = queue as usize % self.workers;
                // The other end of a veth hands over what its sender has not finished.
                let checksum = Checksum::MaybePartial;
                let mut config = XskConfig::uplink(name, queue, port, checksum);
                config.fill = config.fill.min(self.fill_max);
                let view =
                    DeviceView::new(name, queue, worker as u32, mode, attached.reason.clone());
                match self.open(worker, base + queue, config, view) {
                    // The kernel is the one who knows how many queues are in use now.
                    Err(error) if queue > 0 && error.is_no_such_queue() => break,
                    opened => opened?,
                }
                owners.push(WorkerId(worker as u8));
            }
            owners.sort_unstable();
            owners.dedup();
            self.uplinks.push(UplinkQueues { port, owners });
        }
        Ok(())
    }

    fn open_trunks(&mut self, trunks: &[Trunk]) -> Result<()> {
        let uplinks: Vec<PortId> = self.uplinks.iter().map(|uplink| uplink.port).collect();
        for (worker, trunk) in trunks.iter().enumerate() {
            let slot = trunk_slot(worker as u32).context("more workers than slots")?;
            let mut config = XskConfig::trunk(&trunk.inner.name, Some(self.host), uplinks.clone());
            config.fill = config.fill.min(self.fill_max);
            let view =
                DeviceView::new(&trunk.inner.name, 0, worker as u32, "native", String::new());
            self.open(worker, slot, config, view)?;
        }
        Ok(())
    }

    fn open(
        &mut self,
        worker: usize,
        slot: u32,
        config: XskConfig,
        view: DeviceView,
    ) -> Result<(), XskError> {
        let device = XskDevice::new(self.region, config)?;
        self.sockets.push(Socket { worker, slot, device, view: Arc::new(view) });
        Ok(())
    }
}

/// Everything of the workers but their devices.
struct Plan {
    snapshots: Arc<ArcSwap<Snapshot>>,
    pools: Vec<Pool>,
    flows: Vec<FlowTable>,
    counters: Vec<Arc<Counters>>,
    verdicts: Vec<Arc<VerdictLog>>,
    sleepers: Vec<(Sleeper, Waker)>,
    doorbell: Doorbell,
    uplink_owners: Vec<(PortId, Vec<WorkerId>)>,
    adopted: u32,
}

impl Plan {
    fn new(
        options: &NodeOptions,
        pools: Vec<Pool>,
        flows: Vec<Part<Adopted>>,
        uplinks: &[UplinkQueues],
        sockets: &[Socket],
        doorbell: Doorbell,
    ) -> Result<Plan> {
        let workers = usize::from(options.workers);
        for worker in 0..workers {
            let devices = sockets.iter().filter(|socket| socket.worker == worker).count();
            if devices > crate::worker::FDS_MAX {
                bail!("worker {worker} would have {devices} queues: start more --workers");
            }
        }
        let (flows, adopted) = end_flows(flows)?;
        let sleepers: std::io::Result<Vec<_>> = (0..workers).map(|_| Sleeper::new()).collect();
        Ok(Plan {
            snapshots: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            pools,
            flows,
            counters: (0..workers).map(|_| Arc::new(Counters::default())).collect(),
            verdicts: (0..workers).map(|_| Arc::new(VerdictLog::new())).collect(),
            sleepers: sleepers.context("eventfd")?,
            doorbell,
            uplink_owners: uplinks
                .iter()
                .map(|uplink| (uplink.port, uplink.owners.clone()))
                .collect(),
            adopted,
        })
    }

    fn views(&self, options: &NodeOptions) -> Vec<WorkerView> {
        let view = |worker: usize| WorkerView {
            counters: Arc::clone(&self.counters[worker]),
            verdicts: Arc::clone(&self.verdicts[worker]),
            waker: self.sleepers[worker].1.clone(),
            cpu: options.pin_workers.then_some(worker),
            flows_max: self.flows[worker].capacity(),
            frames_home: self.pools[worker].home() as u32,
        };
        (0..self.pools.len()).map(view).collect()
    }

    fn spawn(
        self,
        mut sockets: Vec<Socket>,
        options: &NodeOptions,
        stop: &Arc<AtomicBool>,
    ) -> Result<Threads> {
        let wakers: Vec<Waker> = self.sleepers.iter().map(|(_, waker)| waker.clone()).collect();
        let workers = self.pools.into_iter().zip(self.flows).zip(connect(&wakers));
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        let (mut threads, mut unresolved) = (Vec::new(), Vec::new());
        let rest = self.sleepers.into_iter().zip(self.counters).zip(self.verdicts);
        for (id, (((pool, flows), handoff), (((sleeper, _), counters), verdicts))) in
            workers.zip(rest).enumerate()
        {
            let (asks, asked) = RingBuffer::new(64);
            unresolved.push(asked);
            let own = sockets.extract_if(.., |socket| socket.worker == id);
            let (devices, pulses): (Vec<_>, Vec<_>) =
                own.map(|socket| (socket.device, (socket.slot, socket.view))).unzip();
            let parts = Parts {
                id: WorkerId(id as u8),
                workers: options.workers,
                devices,
                pool,
                flows,
                snapshots: Arc::clone(&self.snapshots),
                handoff,
                counters,
                verdicts,
                uplink_owners: self.uplink_owners.clone(),
                unresolved: asks,
                doorbell: Some(self.doorbell.clone()),
            };
            let pulse = Pulse { heartbeats: Heartbeats::open(&options.pin_dir)?, sockets: pulses };
            let cpu = options.pin_workers.then(|| cpus.get(id % cpus.len().max(1)).copied());
            threads.push(run_worker(parts, sleeper, pulse, cpu.flatten(), Arc::clone(stop))?);
        }
        Ok(Threads { handles: threads, unresolved })
    }
}

/// Running workers, and the rings by which they ask for next hops.
struct Threads {
    handles: Vec<JoinHandle<()>>,
    unresolved: Vec<rtrb::Consumer<NextHop>>,
}

/// What a worker tells the outside at each heartbeat.
struct Pulse {
    heartbeats: Heartbeats,
    /// Slot and view of each device.
    sockets: Vec<(u32, Arc<DeviceView>)>,
}

impl Pulse {
    fn beat(&mut self, now_ns: u64, devices: &[XskDevice]) {
        use crate::device::Device as _;
        for ((slot, view), device) in self.sockets.iter().zip(devices) {
            if let Err(error) = self.heartbeats.stamp(*slot, now_ns) {
                tracing::error!(%error, slot, "heartbeat");
            }
            view.set(&device.counters(), &device.statistics().unwrap_or_default());
        }
    }
}

fn run_worker(
    parts: Parts<XskDevice>,
    mut sleeper: Sleeper,
    mut pulse: Pulse,
    cpu: Option<core_affinity::CoreId>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let name = format!("weir-worker-{}", parts.id.0);
    let run = move || {
        if let Some(cpu) = cpu
            && !core_affinity::set_for_current(cpu)
        {
            tracing::warn!(cpu = cpu.id, "cannot be pinned to this CPU: runs unpinned");
        }
        let mut worker = Worker::new(parts);
        worker.run(&MonotonicClock, &mut sleeper, &stop, |now, devices| {
            pulse.beat(now.0, devices);
        });
    };
    std::thread::Builder::new().name(name).spawn(run).context("start a worker thread")
}

/// Gets the packet memory, on a thread of its own.
fn begin_memory(options: &NodeOptions) -> Result<Part<(Region, Spare)>> {
    let chunks = options.frames * u32::from(options.workers);
    let config = RegionConfig { chunks, ..RegionConfig::DEFAULT };
    beside("weir-memory", move || {
        let (region, frames) = Region::new(config)?;
        Ok((region, ManuallyDrop::new(frames)))
    })
}

/// Opens the workers' flow tables, each on a thread of its own.
fn begin_flows(options: &NodeOptions) -> Result<Vec<Part<Adopted>>> {
    let boot_id = boot_id()?;
    let workers = u32::from(options.workers);
    let timeouts = options.timeouts;
    let begin = |worker| {
        let run_dir = options.run_dir.clone();
        let options = StoreOptions {
            worker,
            workers,
            capacity: options.flows_max,
            seed: rand::random(),
            boot_id,
            timeouts,
        };
        beside("weir-flows", move || Ok(store::open(&run_dir, &options)?))
    };
    (0..workers).map(begin).collect()
}

fn end_flows(parts: Vec<Part<Adopted>>) -> Result<(Vec<FlowTable>, u32)> {
    let mut tables = Vec::new();
    let mut adopted = 0;
    for (worker, part) in parts.into_iter().enumerate() {
        let opened = join(part)?;
        match opened.fresh {
            Some(why) => tracing::info!(worker, why, "flow table starts empty"),
            None => tracing::info!(worker, flows = opened.flows, "flow table adopted"),
        }
        adopted += opened.flows;
        tables.push(opened.table);
    }
    Ok((tables, adopted))
}

/// The kernel's boot id: another one means that monotonic times start anew.
fn boot_id() -> Result<[u8; 16]> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).with_context(|| path.display().to_string())?;
    Ok(id.to_be_bytes())
}

fn prev_power_of_two(number: u32) -> u32 {
    if number.is_power_of_two() { number } else { number.next_power_of_two() / 2 }
}

impl Node {
    /// Stops the workers and waits for them. Programs, links and maps stay, for the next process.
    /// With `hold` they go on as if a worker were about to come back: for so long pods' packets,
    /// and those to services, are dropped instead of left to the kernel, which would answer for
    /// connections that it does not know.
    pub fn stop(self, hold: Option<Duration>) {
        self.stop.store(true, Ordering::Relaxed);
        for view in &self.shared.workers {
            view.waker.wake();
        }
        for thread in self.threads {
            // A worker that panicked has said so itself.
            let _ = thread.join();
        }
        let Some(hold) = hold else { return };
        let held = Heartbeats::open(&self.pin_dir)
            .and_then(|mut beats| beats.hold(&self.slots, MonotonicClock.now().0, hold));
        match held {
            Ok(()) => tracing::info!(?hold, "pods' packets are held back for the next process"),
            Err(error) => tracing::warn!(%error, "pods' packets are not held back"),
        }
    }
}

/// Reads the XDP programs' counters from the pinned maps.
pub fn xdp_outcomes(maps: &Maps) -> Vec<(&'static str, u64)> {
    let counters = maps.counters().unwrap_or_default();
    counters.into_iter().map(|(_, name, value)| (name, value)).collect()
}
