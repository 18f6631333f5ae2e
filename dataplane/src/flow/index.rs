//! The index of a flow table: buckets of eight tagged slots, one cache line each.
//!
//! A slot holds 32 bits of the key's hash and the entry's number. A key has two buckets; it lies in the
//! first unless that was full when it came. The index is rebuilt from the entries at start, so only
//! entries are kept in the file.
#![allow(unsafe_code)] // Prefetching names an address without reading it.

/// Slots per bucket.
const WAYS: usize = 8;

#[repr(C, align(64))]
#[derive(Clone)]
struct Bucket([u64; WAYS]);

/// Hash to entry number.
pub(super) struct Index {
    buckets: Box<[Bucket]>,
    mask: usize,
}

/// A key's place in the index.
#[derive(Clone, Copy)]
pub(super) struct Place {
    first: usize,
    second: usize,
    tag: u32,
}

impl Index {
    /// An index for `capacity` entries, at most half full.
    pub(super) fn new(capacity: usize) -> Index {
        let buckets = (capacity * 2 / WAYS).next_power_of_two().max(2);
        Index { buckets: vec![Bucket([0; WAYS]); buckets].into_boxed_slice(), mask: buckets - 1 }
    }

    #[inline]
    pub(super) fn place(&self, hash: u64) -> Place {
        let tag = (hash >> 32) as u32;
        let first = hash as usize & self.mask;
        // An odd step never maps a bucket to itself in a table of two or more.
        let step = (tag.wrapping_mul(0x9e37_79b1) as usize) | 1;
        Place { first, second: (first ^ step) & self.mask, tag }
    }

    /// Starts loading the bucket of a hash.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[hash as usize & self.mask]);
    }

    /// The first entry number under a hash in its first bucket: almost always the right one.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        let place = self.place(hash);
        self.buckets[place.first].matching(place.tag).next()
    }

    /// The entry number under a hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let place = self.place(hash);
        let first = self.buckets[place.first].matching(place.tag);
        let second = self.buckets[place.second].matching(place.tag);
        first.chain(second).find(|&number| is(number))
    }

    /// Adds an entry number; false where both buckets are full.
    pub(super) fn insert(&mut self, hash: u64, number: u32) -> bool {
        let place = self.place(hash);
        let slot = u64::from(place.tag) << 32 | (u64::from(number) + 1);
        for bucket in [place.first, place.second] {
            if let Some(free) = self.buckets[bucket].0.iter_mut().find(|slot| **slot == 0) {
                *free = slot;
                return true;
            }
        }
        false
    }

    /// Removes an entry number.
    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let place = self.place(hash);
        let slot = u64::from(place.tag) << 32 | (u64::from(number) + 1);
        for bucket in [place.first, place.second] {
            if let Some(found) = self.buckets[bucket].0.iter_mut().find(|other| **other == slot) {
                *found = 0;
                return;
            }
        }
    }
}

impl Bucket {
    #[inline]
    fn matching(&self, tag: u32) -> impl Iterator<Item = u32> + '_ {
        let slots = self.0.iter();
        slots
            .filter(move |&&slot| slot >> 32 == u64::from(tag) && slot as u32 != 0)
            .map(|&slot| slot as u32 - 1)
    }
}

/// Starts loading a value's cache line.
#[inline]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address has no effect but on the cache; SSE is x86-64's baseline.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
