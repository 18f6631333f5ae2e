//! A worker's free frames, and the way home for frames of other workers.
//!
//! The region is split into equal home ranges, one per worker. A frame received by worker A and
//! sent by worker B completes at B: B puts it into its pool like any other, and the pool pushes it
//! into the return ring to A. A return ring is as large as A's whole range, so a push cannot fail.

use std::ops::Range;

use rtrb::{Consumer, Producer, RingBuffer};

use super::Frame;

/// Free frames of one worker.
pub struct Pool {
    home: Range<u32>,
    /// Chunks per home range; the last worker's may be longer.
    share: u32,
    free: Vec<Frame>,
    /// Per worker: the ring that takes its frames home; `None` for this worker.
    away: Vec<Option<Producer<Frame>>>,
    /// Rings through which the others return this worker's frames.
    returns: Vec<Consumer<Frame>>,
}

/// Splits the frames of one region into a pool per worker, joined by return rings. Frames that do
/// not divide evenly stay with the last worker.
pub fn pools(frames: Vec<Frame>, workers: usize) -> Vec<Pool> {
    assert!(workers > 0 && frames.len() >= workers, "at least one frame per worker");
    let share = frames.len() / workers;
    let total = frames.len() as u32;
    let mut pools: Vec<Pool> = (0..workers)
        .map(|worker| {
            let start = (worker * share) as u32;
            let end = if worker + 1 == workers { total } else { start + share as u32 };
            Pool {
                home: start..end,
                share: share as u32,
                free: Vec::with_capacity((end - start) as usize),
                away: Vec::new(),
                returns: Vec::new(),
            }
        })
        .collect();
    for frame in frames {
        let owner = (frame.index() as usize / share).min(workers - 1);
        pools[owner].free.push(frame);
    }
    for from in 0..workers {
        for to in 0..workers {
            if from == to {
                pools[from].away.push(None);
                continue;
            }
            let range = pools[to].home.len();
            let (producer, consumer) = RingBuffer::new(range);
            pools[from].away.push(Some(producer));
            pools[to].returns.push(consumer);
        }
    }
    pools
}

impl Pool {
    /// Takes an empty frame; `None` when all are in use.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Ends a frame's journey. A frame of another worker goes home through its ring.
    #[inline]
    pub fn put(&mut self, mut frame: Frame) {
        frame.reset();
        if self.home.contains(&frame.index()) {
            self.free.push(frame);
        } else {
            self.send_home(frame);
        }
    }

    /// Takes in the frames that other workers returned; how many.
    pub fn collect(&mut self) -> usize {
        let before = self.free.len();
        for ring in &mut self.returns {
            while let Ok(frame) = ring.pop() {
                self.free.push(frame);
            }
        }
        self.free.len() - before
    }

    /// Free frames here and now.
    #[inline]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Frames that call this pool home, wherever they are.
    pub fn home(&self) -> usize {
        self.home.len()
    }

    /// Whether every frame of the home range is in this pool.
    pub fn is_whole(&self) -> bool {
        self.free.len() == self.home.len()
    }

    fn send_home(&mut self, frame: Frame) {
        let owner = ((frame.index() / self.share) as usize).min(self.away.len() - 1);
        let ring = self.away[owner].as_mut().expect("the owner is another worker");
        if let Err(rtrb::PushError::Full(frame)) = ring.push(frame) {
            unreachable!("{frame:?} returned twice: the ring holds the owner's whole range");
        }
    }
}

impl Drop for Pool {
    /// Gives up the chunks: a pool ends with its process, or with a test that has looked at it.
    fn drop(&mut self) {
        self.collect();
        for frame in self.free.drain(..) {
            let _ = frame.into_index();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Umem;
    use super::*;

    #[test]
    fn foreign_frames_go_home_and_pools_end_whole() {
        let (_umem, frames) = Umem::anonymous(17, 2048);
        let mut pools = pools(frames, 3);
        let mut taken = Vec::new();
        for pool in &mut pools {
            while let Some(frame) = pool.take() {
                taken.push(frame);
            }
        }
        assert_eq!(taken.len(), 17);
        for frame in taken {
            pools[1].put(frame);
        }
        assert!(pools[1].is_whole(), "its own frames are there at once");
        assert_eq!(pools[0].free(), 0);
        assert_eq!(pools[0].collect(), 5);
        assert_eq!(pools[2].collect(), 7);
        assert!(pools.iter().all(Pool::is_whole));
    }
}
