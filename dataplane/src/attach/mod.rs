//! weir's eBPF programs on this node's interfaces: loading, attaching, replacing, and their maps.
//!
//! Maps and links are pinned in a bpffs, so that all of it outlives the process: a new process
//! finds the maps as they are and replaces the programs behind the links at once, without a packet
//! that sees none. Everything acts in the network namespace of the calling thread.
//!
//! ```text
//! <pin directory>/maps_v1/XSKS ...                 by LAYOUT_VERSION of the contract
//! <pin directory>/links/port_in-tcx-12 ...         <program>-<hook>-<ifindex>
//! ```

mod bpffs;
mod error;
mod interface;
mod links;
mod maps;
mod tc;
mod xdp;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aya::{Ebpf, EbpfLoader};
use weir_xdp_redirect::{
    GLOBAL_SLOT_BASE, OBJECT, Settings, XSK_SLOTS, trunk_slot, uplink_slot_base,
};

pub use error::AttachError;
pub use interface::Interface;
pub use maps::{Heartbeats, Maps};
pub use tc::TcHook;
pub use xdp::{UplinkAttachment, XdpMode};

use links::{Links, Role};

/// The programs of this node. Dropping it detaches nothing.
pub struct Programs {
    pin_dir: PathBuf,
    /// Attaching an uplink changes nothing else here.
    loader: Mutex<Loader>,
    links: Links,
    hook: TcHook,
    /// The tc programs; they are the same for every interface.
    tc: Ebpf,
}

/// Which interface a port's program sits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A pod's host-side veth: the kernel may route to it, and that traffic is ours too.
    Pod,
    /// The outer end of the host's own port: nothing is routed to it.
    Host,
}

impl Programs {
    /// Loads the programs with the maps pinned under `pin_dir`, which are made with
    /// `Settings::DEFAULT` if they are not there; a bpffs is mounted if `pin_dir` is not in one.
    /// Links whose interface is gone are removed. Needs CAP_BPF and CAP_NET_ADMIN, and
    /// CAP_SYS_ADMIN for the mount.
    pub fn open(pin_dir: &Path) -> Result<Self, AttachError> {
        Self::open_with_hook(pin_dir, TcHook::of_this_kernel())
    }

    /// As [`Self::open`], with a given way to attach tc programs.
    pub fn open_with_hook(pin_dir: &Path, hook: TcHook) -> Result<Self, AttachError> {
        Self::open_with(Loader::new(pin_dir), hook)
    }

    /// As [`Self::open`], with a loader that was made before.
    pub fn open_with(mut loader: Loader, hook: TcHook) -> Result<Self, AttachError> {
        let pin_dir = &loader.pin_dir.clone();
        bpffs::prepare(pin_dir)?;
        let links = Links::open(pin_dir)?;
        links.prune()?;
        let tc = loader.load(0)?;
        // Settings of zeros would make every heartbeat stale.
        let mut maps = Maps::open(pin_dir)?;
        if maps.settings()?.heartbeat_timeout_ns == 0 {
            maps.set_settings(Settings::DEFAULT)?;
        }
        Ok(Self { pin_dir: pin_dir.into(), loader: Mutex::new(loader), links, hook, tc })
    }

    /// The pinned maps, by handles of their own.
    pub fn maps(&self) -> Result<Maps, AttachError> {
        Maps::open(&self.pin_dir)
    }

    /// Puts the steering program on an uplink: native XDP, or generic where the driver refuses.
    /// `uplink` numbers the node's uplinks from 0; queue q has the socket slot
    /// `uplink_slot_base(uplink) + q`.
    pub fn attach_uplink(
        &self,
        device: &Interface,
        uplink: u32,
    ) -> Result<UplinkAttachment, AttachError> {
        let slot_base = uplink_slot_base(uplink)
            .ok_or_else(|| AttachError::NoSlot { device: device.clone(), number: uplink })?;
        let mut object = self.load(slot_base)?;
        xdp::attach_uplink(&mut object, &self.links, device)
    }

    /// Makes a trunk of a veth pair: XDP on its inner end, towards the socket of `worker` in slot
    /// `trunk_slot(worker)`, and the way back on its outer end.
    pub fn attach_trunk(
        &mut self,
        outer: &Interface,
        inner: &Interface,
        worker: u32,
    ) -> Result<(), AttachError> {
        let slot = trunk_slot(worker)
            .ok_or_else(|| AttachError::NoSlot { device: inner.clone(), number: worker })?;
        let mut object = self.load(slot)?;
        xdp::attach_trunk_in(&mut object, &self.links, inner)?;
        tc::attach(&mut self.tc, &self.links, self.hook, Role::TrunkOut, outer)
    }

    /// Takes over an interface as a port. Until it has an entry in the map of ports, its packets
    /// pass. Idempotent.
    pub fn attach_port(&mut self, outer: &Interface, kind: PortKind) -> Result<(), AttachError> {
        if kind == PortKind::Pod {
            tc::attach(&mut self.tc, &self.links, self.hook, Role::PortOut, outer)?;
        }
        tc::attach(&mut self.tc, &self.links, self.hook, Role::PortIn, outer)
    }

    fn load(&self, slot_base: u32) -> Result<Ebpf, AttachError> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner).load(slot_base)
    }

    /// Leaves an interface to the kernel, as a port, a trunk or an uplink. It may be gone already.
    /// The maps' entries stay: they are the caller's.
    pub fn detach(&self, ifindex: u32) -> Result<(), AttachError> {
        self.links.remove_of(ifindex)
    }
}

/// Detaches everything under `pin_dir` and removes it: the node is as if weir had never run. Does
/// nothing if there is nothing.
pub fn remove_all(pin_dir: &Path) -> Result<(), AttachError> {
    if !pin_dir.exists() || !bpffs::is_bpffs(pin_dir)? {
        return Ok(());
    }
    Links::open(pin_dir)?.remove_all()?;
    bpffs::clear(pin_dir)
}

/// Loads the object, once for each slot base. There is one of it, because making aya's loader
/// reads and parses all types of the kernel: 20 ms, whether they are wanted or not.
pub struct Loader {
    pin_dir: PathBuf,
    aya: EbpfLoader<'static>,
}

impl Loader {
    /// A loader for the pins of `pin_dir`, which need not exist. Touches nothing.
    pub fn new(pin_dir: &Path) -> Self {
        let mut aya = EbpfLoader::new();
        aya.btf(None) // no CO-RE relocations
            .default_map_pin_directory(bpffs::maps_dir(pin_dir));
        Self { pin_dir: pin_dir.into(), aya }
    }

    /// The object with the pinned maps, and the slot of receive queue 0 for its XDP programs.
    fn load(&mut self, slot_base: u32) -> Result<Ebpf, AttachError> {
        // The loader keeps a reference.
        static SLOT_BASES: [u32; XSK_SLOTS as usize] = count_up();
        let slot_base = &SLOT_BASES[slot_base as usize];
        self.aya.override_global(GLOBAL_SLOT_BASE, slot_base, true).load(OBJECT).map_err(|source| {
            AttachError::Load { pin_dir: self.pin_dir.clone(), source: Box::new(source) }
        })
    }
}

const fn count_up<const N: usize>() -> [u32; N] {
    let mut numbers = [0; N];
    let mut at = 0;
    while at < N {
        numbers[at] = at as u32;
        at += 1;
    }
    numbers
}
