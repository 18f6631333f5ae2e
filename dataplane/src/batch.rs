//! A batch: the packets of one burst, and what becomes of each.

use weir_packet::{FlowKey, Headers};
use weir_tables::{PortId, WorkerId};

use crate::drops::Drop;
use crate::memory::Frame;

/// Most packets of one burst. Larger bursts bring nothing beyond the noise (copy mode sends 32 per
/// call), and 64 packets with their headers fit the L1 cache.
pub const BURST: usize = 64;

/// What the receiving side knows of a packet's checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Complete, or at least as the sender left it: rewriting updates it incrementally.
    #[default]
    Full,
    /// May hold only the pseudo-header sum, because the sender is a veth of this machine with
    /// transmit offload: the parser looks and completes it before anything else.
    MaybePartial,
}

/// What a device says about a received packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxMeta {
    /// State of the checksums.
    pub checksum: Checksum,
}

/// One packet on its way through the pipeline.
#[derive(Debug)]
pub struct Packet {
    pub frame: Frame,
    /// Where it came in. Uplinks of any queue are [`PortId::UPLINK`].
    pub port: PortId,
    pub meta: RxMeta,
    /// Why it is at this worker.
    pub stage: Stage,
    /// Offsets, valid once parsed.
    pub headers: Headers,
    /// The flow it belongs to, valid once parsed.
    pub key: FlowKey,
    /// Hash of `key`, valid once parsed.
    pub hash: u64,
    pub verdict: Verdict,
}

/// Why a packet is at this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A device of this worker received it.
    Arrived,
    /// An uplink received it elsewhere; this worker sees all fragments of its datagram.
    Gathered,
    /// The source's half is done elsewhere; this worker owns the destination pod.
    Deliver,
    /// From outside to a service; this worker directs the flow.
    Direct,
    /// As `Direct`; the worker of the flow's pod, which has it, says so now and then.
    Informed { backend: weir_tables::BackendAddr },
    /// From outside to a service; its director chose a backend, whose pod this worker owns.
    Chosen { backend: weir_tables::BackendAddr },
    /// Finished; this worker has the queue that it leaves by.
    Transmit { adjacency: u16 },
    /// Came in a tunnel from another node, which has it from outside; this worker owns the
    /// destination pod. `service` is what the client asked for, where the packet says so.
    Tunnelled { service: Option<weir_tables::BackendAddr> },
}

impl Stage {
    /// Whether nobody has looked at the packet before this worker.
    pub fn is_first_hand(&self) -> bool {
        matches!(self, Stage::Arrived | Stage::Gathered)
    }
}

/// What becomes of a packet. Every packet leaves a batch with one of these, exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No stage has decided yet.
    Undecided,
    /// Found or learned as entry `flow` of the table: rewrite tells the rest.
    Flow { flow: u32 },
    /// Leaves by this entry of the snapshot's adjacencies.
    Transmit { adjacency: u16 },
    /// Goes on at another worker.
    Handoff { worker: WorkerId, stage: Stage },
    /// An answer that was written over the packet: leaves where it came in.
    Reply,
    /// For the kernel: leaves by the host's port, unchanged.
    Punt,
    /// Ends here.
    Drop(Drop),
}

/// Up to [`BURST`] packets.
#[derive(Debug)]
pub struct Batch {
    packets: Vec<Packet>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch; the only allocation it ever makes.
    pub fn new() -> Batch {
        Batch { packets: Vec::with_capacity(BURST) }
    }

    /// How many more packets fit.
    #[inline]
    pub fn room(&self) -> usize {
        BURST - self.packets.len()
    }

    /// Adds a packet that a device received.
    ///
    /// # Panics
    /// If the batch is full: ask for `room` first.
    #[inline]
    pub fn receive(&mut self, port: PortId, frame: Frame, meta: RxMeta) {
        self.push(port, frame, meta, Stage::Arrived);
    }

    /// Adds a packet that goes on here at `stage`.
    ///
    /// # Panics
    /// If the batch is full.
    #[inline]
    pub fn push(&mut self, port: PortId, frame: Frame, meta: RxMeta, stage: Stage) {
        assert!(self.packets.len() < BURST, "a batch holds {BURST} packets");
        self.packets.push(Packet {
            frame,
            port,
            meta,
            stage,
            headers: Headers::default(),
            key: FlowKey::default(),
            hash: 0,
            verdict: Verdict::Undecided,
        });
    }

    /// The packets, in order of arrival.
    #[inline]
    pub fn packets_mut(&mut self) -> &mut [Packet] {
        &mut self.packets
    }

    /// Takes all packets out, in order.
    #[inline]
    pub fn drain(&mut self) -> std::vec::Drain<'_, Packet> {
        self.packets.drain(..)
    }

    /// Takes out the packets that are to go, by the port they came in by and their bytes.
    pub fn extract(
        &mut self,
        mut is_to_go: impl FnMut(PortId, usize) -> bool,
    ) -> impl Iterator<Item = Packet> {
        self.packets.extract_if(.., move |packet| is_to_go(packet.port, packet.frame.len()))
    }

    /// Number of packets.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
