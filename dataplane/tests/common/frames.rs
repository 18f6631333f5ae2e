//! Packet memory that worlds of one thread hand on to each other, because it is never freed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use weir_dataplane::memory::{Frame, Pool, Umem, pools};

/// Whole regions that no world uses, by number of frames.
struct Stash(BTreeMap<usize, Vec<Vec<Frame>>>);

impl Drop for Stash {
    fn drop(&mut self) {
        for frame in std::mem::take(&mut self.0).into_values().flatten().flatten() {
            let _ = frame.into_index();
        }
    }
}

thread_local! {
    static STASH: RefCell<Stash> = const { RefCell::new(Stash(BTreeMap::new())) };
}

/// A pool per worker, of `frames` frames each.
pub fn borrow(workers: usize, frames: usize) -> Vec<Pool> {
    let total = workers * frames;
    let kept = STASH.with_borrow_mut(|stash| stash.0.get_mut(&total).and_then(Vec::pop));
    pools(kept.unwrap_or_else(|| Umem::anonymous(total as u32, 2048).1), workers)
}

/// Takes the frames of whole pools back.
pub fn give_back<'a>(pools: impl Iterator<Item = &'a mut Pool>) {
    let mut frames = Vec::new();
    for pool in pools {
        while let Some(frame) = pool.take() {
            frames.push(frame);
        }
    }
    STASH.with_borrow_mut(|stash| stash.0.entry(frames.len()).or_default().push(frames));
}
