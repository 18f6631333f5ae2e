//! The region of chunks, and the frame that owns one chunk.
#![allow(unsafe_code)] // A frame is a pointer into memory that the kernel shares.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;

use super::HEADROOM;

/// A region of equal chunks, mapped for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Umem {
    base: NonNull<u8>,
    chunk_size: u32,
    chunks: u32,
}

// SAFETY: the region is never unmapped and `Umem` itself reads or writes nothing in it; access goes
// through `Frame`, which owns its chunk alone.
unsafe impl Send for Umem {}
// SAFETY: as above: a shared `Umem` gives no access to memory.
unsafe impl Sync for Umem {}

/// The sole owner of one chunk: `len` bytes of packet that start `head` bytes into it.
#[must_use = "a frame that is lost never comes home: put it into a pool or a device"]
pub struct Frame {
    chunk: NonNull<u8>,
    index: u32,
    chunk_size: u16,
    head: u16,
    len: u16,
}

// SAFETY: a frame is the only access to its chunk, so moving it to a thread moves the access.
unsafe impl Send for Frame {}

impl Umem {
    /// Allocates `chunks` zeroed chunks that no device shares, for worlds without a kernel, and
    /// hands out their frames, in order of index. The memory is never freed.
    pub fn anonymous(chunks: u32, chunk_size: u32) -> (Umem, Vec<Frame>) {
        let bytes = chunks as usize * chunk_size as usize;
        let layout = Layout::from_size_align(bytes, 4096).expect("a few chunks fit isize");
        assert!(bytes > 0, "a region has chunks");
        // SAFETY: the layout has a size above zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        // SAFETY: the allocation is this large, zeroed and never freed, and nobody else knows it.
        unsafe { Umem::from_raw(base, chunks, chunk_size) }
    }

    /// Takes over a mapped region and hands out its frames, in order of index.
    ///
    /// # Safety `base` points to `chunks * chunk_size` readable, writable, initialised bytes that
    /// stay mapped until the process ends and that are accessed only through the returned frames,
    /// or by the kernel between [`Frame::into_index`] and [`Umem::frame`].
    pub unsafe fn from_raw(base: NonNull<u8>, chunks: u32, chunk_size: u32) -> (Umem, Vec<Frame>) {
        assert!(chunk_size.is_power_of_two() && (512..=32768).contains(&chunk_size));
        let umem = Umem { base, chunk_size, chunks };
        // SAFETY: each index is taken once, and the caller owns the region.
        let frames = (0..chunks).map(|index| unsafe { umem.frame(index, HEADROOM, 0) }).collect();
        (umem, frames)
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Bytes per chunk.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Whether `frame` is of this region.
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        let offset = frame.index as usize * self.chunk_size as usize;
        self.base.as_ptr().wrapping_add(offset) == frame.chunk.as_ptr()
    }

    /// Takes the chunk `index` back from the kernel, with `len` bytes of packet at `head`.
    ///
    /// # Safety
    /// The chunk was given up by [`Frame::into_index`] and has been returned by its ring exactly
    /// once since (or was never owned).
    ///
    /// # Panics
    /// If the index or the packet lies outside: a kernel or ring bug, not a bad packet.
    pub unsafe fn frame(&self, index: u32, head: u16, len: u16) -> Frame {
        assert!(index < self.chunks, "chunk {index} of {}", self.chunks);
        assert!(u32::from(head) + u32::from(len) <= self.chunk_size, "packet outside its chunk");
        // SAFETY: `index` is inside the region, so the offset is inside one allocation.
        let chunk = unsafe { self.base.add(index as usize * self.chunk_size as usize) };
        Frame { chunk, index, chunk_size: self.chunk_size as u16, head, len }
    }
}

impl Frame {
    /// The packet.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: head + len <= chunk_size is kept by every method; the chunk is ours alone.
        unsafe {
            std::slice::from_raw_parts(
                self.chunk.as_ptr().add(usize::from(self.head)),
                usize::from(self.len),
            )
        }
    }

    /// The packet, to rewrite in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.chunk.as_ptr().add(usize::from(self.head)),
                usize::from(self.len),
            )
        }
    }

    /// Bytes of the packet.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "an empty frame is a free one, not a packet")]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Where in the chunk the packet starts, in bytes.
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The chunk's index in its region.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Most bytes a packet can have that starts at the standard headroom.
    #[inline]
    pub fn capacity(&self) -> usize {
        usize::from(self.chunk_size - HEADROOM)
    }

    /// Starts over as an empty packet with the standard headroom.
    #[inline]
    pub fn reset(&mut self) {
        self.head = HEADROOM;
        self.len = 0;
    }

    /// Shortens or lengthens the packet at its end.
    ///
    /// # Panics
    /// If it would leave the chunk.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        assert!(usize::from(self.head) + len <= usize::from(self.chunk_size), "beyond the chunk");
        self.len = len as u16;
    }

    /// Makes room for `bytes` in front of the packet: what is there is left over from earlier.
    /// False where the chunk has no such room.
    #[inline]
    #[must_use]
    pub fn prepend(&mut self, bytes: usize) -> bool {
        let Some(head) = usize::from(self.head).checked_sub(bytes) else { return false };
        self.head = head as u16;
        self.len += bytes as u16;
        true
    }

    /// Cuts `bytes`, at most all of them, off the front of the packet.
    #[inline]
    pub fn cut_front(&mut self, bytes: usize) {
        let bytes = bytes.min(usize::from(self.len)) as u16;
        self.head += bytes;
        self.len -= bytes;
    }

    /// Moves the packet to the standard headroom, where it is not there yet. False where it is too
    /// long to start there; the packet then stays as it is.
    #[inline]
    pub fn move_to_headroom(&mut self) -> bool {
        if self.head == HEADROOM {
            return true;
        }
        let (from, len) = (usize::from(self.head), usize::from(self.len));
        if len > self.capacity() {
            return false;
        }
        // SAFETY: the whole chunk is ours alone, and it is `chunk_size` bytes.
        let chunk = unsafe {
            std::slice::from_raw_parts_mut(self.chunk.as_ptr(), usize::from(self.chunk_size))
        };
        chunk.copy_within(from..from + len, usize::from(HEADROOM));
        self.head = HEADROOM;
        true
    }

    /// Replaces the packet by a copy of `bytes`, at the standard headroom. False where it does not
    /// fit; the frame is then empty.
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        self.reset();
        if bytes.len() > self.capacity() {
            return false;
        }
        self.set_len(bytes.len());
        self.bytes_mut().copy_from_slice(bytes);
        true
    }

    /// Gives the chunk to a ring: from here on only the index exists.
    #[inline]
    pub fn into_index(self) -> u32 {
        let index = self.index;
        std::mem::forget(self);
        index
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({}, {} bytes at {})", self.index, self.len, self.head)
    }
}

#[cfg(debug_assertions)]
impl Drop for Frame {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{self:?} was dropped instead of going home");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cover_the_region_once_and_keep_their_bytes() {
        let (umem, mut frames) = Umem::anonymous(4, 2048);
        for frame in &mut frames {
            assert!(frame.copy_from(&[frame.index() as u8; 60]));
        }
        for frame in frames {
            assert_eq!(frame.bytes(), [frame.index() as u8; 60]);
            let index = frame.into_index();
            // SAFETY: the index was given up a line above.
            let frame = unsafe { umem.frame(index, HEADROOM, 60) };
            assert_eq!(frame.bytes(), [index as u8; 60]);
            let _ = frame.into_index();
        }
    }

    #[test]
    fn a_packet_moves_to_the_headroom_if_it_fits_there() {
        let (umem, mut frames) = Umem::anonymous(2, 2048);
        let (other, strangers) = Umem::anonymous(2, 2048);
        let mut frame = frames.pop().expect("two frames");
        assert!(umem.owns(&frame) && !umem.owns(&strangers[1]) && !other.owns(&frame));
        assert!(frame.copy_from(&[7; 100]));
        // SAFETY: the frame gave its index up.
        let mut frame = unsafe { umem.frame(frame.into_index(), HEADROOM + 20, 80) };
        assert!(frame.move_to_headroom());
        assert_eq!((frame.head(), frame.bytes()), (HEADROOM, &[7; 80][..]));
        // SAFETY: as above.
        let mut frame = unsafe { umem.frame(frame.into_index(), 56, 1990) };
        assert!(!frame.move_to_headroom());
        assert_eq!((frame.head(), frame.len()), (56, 1990));
        for frame in strangers.into_iter().chain(frames).chain([frame]) {
            let _ = frame.into_index();
        }
    }

    #[test]
    fn a_packet_larger_than_a_chunk_is_not_copied() {
        let (_umem, mut frames) = Umem::anonymous(1, 2048);
        let mut frame = frames.pop().expect("one frame");
        assert!(!frame.copy_from(&[0; 2000]));
        assert_eq!(frame.len(), 0);
        let _ = frame.into_index();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "instead of going home")]
    fn losing_a_frame_is_loud() {
        let (_umem, frames) = Umem::anonymous(1, 2048);
        drop(frames);
    }
}
