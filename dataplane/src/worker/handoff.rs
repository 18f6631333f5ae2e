//! Packets that go on at another worker: one single-producer ring per pair, no locks.
//!
//! crossbeam has no single-producer ring (its `ArrayQueue` takes a locked instruction per packet
//! on both sides), hence rtrb. A full ring is a counted drop, never a wait. A sleeping receiver is
//! woken once per turn of the sender.

use rtrb::{Consumer, Producer, RingBuffer};
use weir_tables::{PortId, WorkerId};

use super::sleep::Waker;
use crate::batch::{Batch, Stage};
use crate::device::RxMeta;
use crate::memory::Frame;

/// Packets that wait between two workers at most: a few bursts.
const RING: usize = 1024;

struct Handed {
    frame: Frame,
    port: PortId,
    stage: Stage,
}

/// One worker's ends of all rings.
pub struct HandoffPorts {
    /// Towards each worker; `None` for itself.
    out: Vec<Option<Outbound>>,
    inbound: Vec<Consumer<Handed>>,
    /// The ring to begin with: a busy one must not starve those behind it.
    first: usize,
}

struct Outbound {
    ring: Producer<Handed>,
    waker: Waker,
    is_fresh: bool,
}

/// Joins workers, one waker each, by rings.
pub fn connect(wakers: &[Waker]) -> Vec<HandoffPorts> {
    let workers = wakers.len();
    let mut ports: Vec<HandoffPorts> = (0..workers)
        .map(|_| HandoffPorts { out: Vec::new(), inbound: Vec::new(), first: 0 })
        .collect();
    for from in 0..workers {
        for to in 0..workers {
            if from == to {
                ports[from].out.push(None);
                continue;
            }
            let (ring, consumer) = RingBuffer::new(RING);
            let waker = wakers[to].clone();
            ports[from].out.push(Some(Outbound { ring, waker, is_fresh: false }));
            ports[to].inbound.push(consumer);
        }
    }
    ports
}

impl HandoffPorts {
    /// Gives a packet that came in by `port` to another worker; a full ring gives the frame back.
    pub(super) fn give(
        &mut self,
        frame: Frame,
        port: PortId,
        to: WorkerId,
        stage: Stage,
    ) -> Result<(), Frame> {
        let Some(Some(out)) = self.out.get_mut(to.index()) else { return Err(frame) };
        let handed = Handed { frame, port, stage };
        match out.ring.push(handed) {
            Ok(()) => {
                out.is_fresh = true;
                Ok(())
            }
            Err(rtrb::PushError::Full(handed)) => Err(handed.frame),
        }
    }

    /// Moves waiting packets into the batch; how many.
    pub(super) fn take(&mut self, batch: &mut Batch) -> usize {
        let before = batch.len();
        let rings = self.inbound.len();
        self.first = (self.first + 1) % rings.max(1);
        for at in 0..rings {
            let ring = &mut self.inbound[(self.first + at) % rings];
            while batch.room() > 0
                && let Ok(handed) = ring.pop()
            {
                batch.push(handed.port, handed.frame, RxMeta::default(), handed.stage);
            }
        }
        batch.len() - before
    }

    /// Whether nothing waits here.
    pub(super) fn is_empty(&self) -> bool {
        self.inbound.iter().all(Consumer::is_empty)
    }

    /// Wakes the workers that were given something since the last call.
    pub(super) fn wake_receivers(&mut self) {
        for out in self.out.iter_mut().flatten() {
            if std::mem::take(&mut out.is_fresh) {
                out.waker.wake();
            }
        }
    }
}
