//! One direction of one flow, as it lies in memory and in the file.

use weir_packet::{FlowKey, Translation};
use weir_tables::{BackendAddr, WorkerId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of [`FlowEntry::flags`].
pub mod flow_flags {
    /// From a client to a service: the translation's destination is the backend.
    pub const TO_SERVICE: u16 = 1;
    /// From a backend to a service's client: the translation's source is the frontend.
    pub const FROM_SERVICE: u16 = 2;
    /// The direction that answers: its first packet makes a TCP flow established.
    pub const REPLY: u16 = 4;
    /// To a client whose packets come here in a tunnel, from the node that it talks to: the source
    /// becomes what that node was asked for, and the MSS leaves room for the tunnel.
    pub const FROM_DSR: u16 = 8;
    /// The translated source is the node's: the flow ends when the node loses the address.
    pub const SNAT: u16 = 16;
    /// Chosen by a director at another worker, which must hear of the flow now and then.
    pub const DIRECTED: u16 = 32;
    /// The director has seen that the client goes on after an answer.
    pub const DIRECTOR_KNOWS: u16 = 64;
    /// To an address that was no service's.
    pub const PLAIN: u16 = 128;
}

/// What happens to a packet after its translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leaves by this adjacency.
    Transmit { adjacency: u16 },
    /// Leaves by the host's port, for the kernel to route.
    ToKernel { adjacency: u16 },
    /// Goes on at the worker of the destination pod.
    Deliver { worker: WorkerId },
    /// Goes to the flow's director, untranslated.
    Direct { worker: WorkerId },
    /// Goes to the worker of the chosen backend, untranslated: the translation names the backend.
    Chosen { worker: WorkerId },
    /// Leaves by this adjacency for a backend of another node, with the service's address beside
    /// it (DSR). `remote` is that node's index in the snapshot.
    Tunnel { adjacency: u16, remote: u16 },
    /// No flow: the backend that a client is bound to by session affinity.
    Pinned,
}

/// One direction of a flow. Written by one worker only.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowEntry {
    pub key: FlowKey,
    /// Wrapping milliseconds, see `clock`.
    pub last_seen_ms: u32,
    /// The snapshot revision that this entry was last checked against; 0 after adoption.
    pub revision: u32,
    /// Index of the opposite direction, or [`FlowEntry::NO_PEER`].
    pub peer: u32,
    /// The port that packets of this direction must come in by.
    pub in_port: u32,
    /// The pod's port that they leave by, or 0 where they leave elsewhere. Of a pin: its timeout.
    pub out_port: u32,
    /// [`FlowEntry::LIVE`], or 0 for a free entry. Written last, so that a half-written entry is
    /// free.
    pub live: u8,
    /// Bits of [`super::tcp`].
    pub tcp: u8,
    /// Bits of [`flow_flags`].
    pub flags: u16,
    pub translation: Translation,
    adjacency: u16,
    action: u8,
    worker: u8,
    remote: u16,
    pub packets: u64,
    pub bytes: u64,
}

const _: () = assert!(size_of::<FlowEntry>() == 128);
const _: () = assert!(std::mem::offset_of!(FlowEntry, translation) == 64);

const TRANSMIT: u8 = 1;
const TO_KERNEL: u8 = 2;
const DELIVER: u8 = 3;
const DIRECT: u8 = 4;
const CHOSEN: u8 = 5;
const TUNNEL: u8 = 6;
const PINNED: u8 = 7;

/// Zone of the keys of pins, which keeps them apart from those of flows.
const ZONE_PINS: u16 = 1;

impl FlowEntry {
    /// Mark of an entry in use.
    pub const LIVE: u8 = 0x5a;
    /// No opposite direction at this worker.
    pub const NO_PEER: u32 = u32::MAX;

    /// An entry for packets of `key` that come in by `in_port`, fresh as of `now_ms`.
    pub fn new(key: FlowKey, in_port: u32, translation: Translation, action: Action) -> FlowEntry {
        let mut entry = FlowEntry {
            key,
            last_seen_ms: 0,
            revision: 0,
            peer: FlowEntry::NO_PEER,
            in_port,
            out_port: 0,
            live: FlowEntry::LIVE,
            tcp: 0,
            flags: 0,
            translation,
            adjacency: 0,
            action: 0,
            worker: 0,
            remote: 0,
            packets: 0,
            bytes: 0,
        };
        entry.set_action(action);
        entry
    }

    /// What happens after the translation; `None` where the file held nonsense.
    #[inline]
    pub fn action(&self) -> Option<Action> {
        let worker = WorkerId(self.worker);
        Some(match self.action {
            TRANSMIT => Action::Transmit { adjacency: self.adjacency },
            TO_KERNEL => Action::ToKernel { adjacency: self.adjacency },
            DELIVER => Action::Deliver { worker },
            DIRECT => Action::Direct { worker },
            CHOSEN => Action::Chosen { worker },
            TUNNEL => Action::Tunnel { adjacency: self.adjacency, remote: self.remote },
            PINNED => Action::Pinned,
            _ => return None,
        })
    }

    /// Replaces the action, as after a route change.
    pub fn set_action(&mut self, action: Action) {
        if self.has(flow_flags::DIRECTED)
            && let Action::Transmit { adjacency } = action
        {
            (self.action, self.adjacency) = (TRANSMIT, adjacency);
            return;
        }
        (self.action, self.adjacency, self.worker, self.remote) = match action {
            Action::Transmit { adjacency } => (TRANSMIT, adjacency, 0, 0),
            Action::ToKernel { adjacency } => (TO_KERNEL, adjacency, 0, 0),
            Action::Deliver { worker } => (DELIVER, 0, worker.0, 0),
            Action::Direct { worker } => (DIRECT, 0, worker.0, 0),
            Action::Chosen { worker } => (CHOSEN, 0, worker.0, 0),
            Action::Tunnel { adjacency, remote } => (TUNNEL, adjacency, 0, remote),
            Action::Pinned => (PINNED, 0, 0, 0),
        };
    }

    /// Says that the flow's director has seen a packet of it now; kept where other actions have a
    /// worker and a remote.
    pub fn set_directed(&mut self, director: WorkerId, now_ms: u32) {
        self.flags |= flow_flags::DIRECTED;
        self.worker = director.0;
        self.remote = (now_ms / 1000) as u16;
    }

    /// The director of a flow that has one elsewhere, and for how many seconds it has seen none of
    /// its packets.
    pub fn director(&self, now_ms: u32) -> Option<(WorkerId, u16)> {
        let silent_s = ((now_ms / 1000) as u16).wrapping_sub(self.remote);
        self.has(flow_flags::DIRECTED).then_some((WorkerId(self.worker), silent_s))
    }

    /// Whether this is one of the bits in [`flow_flags`].
    #[inline]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// A client's bond to a backend, which lasts `timeout_ms` beyond its last use. `key` is that of
    /// any flow from the client to the frontend.
    pub fn pin(key: &FlowKey, backend: BackendAddr, timeout_ms: u32) -> FlowEntry {
        let key = FlowEntry::pin_key(key);
        let translation = Translation::new(&key, None, Some((backend.addr, backend.l4_port)));
        let mut entry = FlowEntry::new(key, 0, translation, Action::Pinned);
        entry.out_port = timeout_ms;
        entry
    }

    /// The key of a client's pin: its flows' without the source port, in a zone of its own.
    pub fn pin_key(key: &FlowKey) -> FlowKey {
        FlowKey { sport: 0, zone: ZONE_PINS, ..*key }
    }

    /// How long a pin lasts beyond its last use: kept where a flow has the port that it leaves by.
    /// Told by the key and not by the action: the sweep asks every entry, and loads no second line.
    #[inline]
    pub fn pin_timeout_ms(&self) -> Option<u32> {
        (self.key.zone == ZONE_PINS).then_some(self.out_port)
    }

    /// The backend that a packet to a service goes to.
    #[inline]
    pub fn backend(&self) -> BackendAddr {
        let after = self.translation.key_after(&self.key);
        BackendAddr { addr: after.dst, l4_port: after.dport }
    }
}
