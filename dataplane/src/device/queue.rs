//! Frames that wait for a flush, in devices without a kernel.

use weir_tables::PortId;

use crate::memory::Frame;

/// A bounded queue of frames to send. Allocates once; gives its frames up when dropped.
pub struct SendQueue {
    frames: Vec<(PortId, Frame)>,
    capacity: usize,
}

impl SendQueue {
    /// A queue for `capacity` frames.
    pub fn new(capacity: usize) -> SendQueue {
        SendQueue { frames: Vec::with_capacity(capacity), capacity }
    }

    /// Adds a frame; a full queue gives it back.
    pub fn push(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        if self.frames.len() == self.capacity {
            return Err(frame);
        }
        self.frames.push((port, frame));
        Ok(())
    }

    /// Takes all frames out, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, (PortId, Frame)> {
        self.frames.drain(..)
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.frames.len()
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        for (_, frame) in self.frames.drain(..) {
            let _ = frame.into_index();
        }
    }
}
