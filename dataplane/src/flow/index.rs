//! The index of a flow table: buckets of eight tagged slots, one cache line each.
//!
//! A slot holds 32 bits of the key's hash and the entry's number, plus one; 0 is a free slot. A
//! key has two buckets; it lies in the first unless that was full when it came. The index is
//! rebuilt from the entries at start, so only entries are kept in the file.
#![allow(unsafe_code)] // Prefetching names an address without reading it.

use super::huge;

/// Slots per bucket.
const WAYS: usize = 8;

/// Tags side by side, so that one vector instruction compares them: which slot matches is random,
/// and the processor would guess it wrong.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Bucket {
    tags: [u32; WAYS],
    numbers: [u32; WAYS],
}

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
        let mut buckets = vec![Bucket::FREE; buckets].into_boxed_slice();
        huge::collapse(&mut buckets);
        Index { mask: buckets.len() - 1, buckets }
    }

    #[inline]
    pub(super) fn place(&self, hash: u64) -> Place {
        let tag = (hash >> 32) as u32;
        let first = hash as usize & self.mask;
        Place { first, second: self.other(first, tag), tag }
    }

    /// The other bucket of a tag that lies in `bucket`, whichever of the two that is.
    #[inline]
    fn other(&self, bucket: usize, tag: u32) -> usize {
        // An odd step never maps a bucket to itself in a table of two or more.
        let step = (tag.wrapping_mul(0x9e37_79b1) as usize) | 1;
        (bucket ^ step) & self.mask
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

    /// Adds an entry number; false where both buckets are full and none of their slots can move.
    pub(super) fn insert(&mut self, hash: u64, number: u32) -> bool {
        let Place { first, second, tag } = self.place(hash);
        self.put(first, tag, number + 1)
            || self.put(second, tag, number + 1)
            || (self.vacate(first) && self.put(first, tag, number + 1))
            || (self.vacate(second) && self.put(second, tag, number + 1))
    }

    fn put(&mut self, bucket: usize, tag: u32, held: u32) -> bool {
        let bucket = &mut self.buckets[bucket];
        let Some(way) = bucket.numbers.iter().position(|number| *number == 0) else { return false };
        (bucket.tags[way], bucket.numbers[way]) = (tag, held);
        true
    }

    /// Moves one slot of a full bucket to its other bucket. Without this a table of 524,288 entries
    /// refuses some 120 of them although it has room.
    #[cold]
    fn vacate(&mut self, bucket: usize) -> bool {
        (0..WAYS).any(|way| {
            let (tag, held) = (self.buckets[bucket].tags[way], self.buckets[bucket].numbers[way]);
            let moved = self.put(self.other(bucket, tag), tag, held);
            if moved {
                self.buckets[bucket].numbers[way] = 0;
            }
            moved
        })
    }

    /// Removes an entry number.
    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let place = self.place(hash);
        for bucket in [place.first, place.second] {
            let numbers = &mut self.buckets[bucket].numbers;
            if let Some(found) = numbers.iter_mut().find(|held| **held == number + 1) {
                *found = 0;
                return;
            }
        }
    }
}

impl Bucket {
    const FREE: Bucket = Bucket { tags: [0; WAYS], numbers: [0; WAYS] };

    #[inline]
    fn matching(&self, tag: u32) -> impl Iterator<Item = u32> + '_ {
        let mut ways = 0_u8;
        for (way, held) in self.tags.iter().enumerate() {
            ways |= u8::from(*held == tag) << way;
        }
        let next = move || {
            let way = ways.trailing_zeros() as usize;
            ways &= ways.wrapping_sub(1);
            self.numbers.get(way)
        };
        // A free slot has a tag too, but no number.
        std::iter::from_fn(next).filter(|number| **number != 0).map(|number| number - 1)
    }
}

/// Starts loading a value's cache line.
#[inline]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address has no effect but on the cache; SSE is x86-64's
        // baseline.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngCore, SeedableRng};

    use super::*;

    #[test]
    fn every_entry_up_to_capacity_finds_a_place_and_is_found() {
        for (seed, capacity) in (1..20).map(|seed| (seed, 1000)).chain([(20, 1 << 17)]) {
            println!("seed {seed}");
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut index = Index::new(capacity);
            let hashes: Vec<u64> = (0..capacity).map(|_| rng.next_u64()).collect();
            for (number, hash) in (0..).zip(&hashes) {
                assert!(index.insert(*hash, number), "entry {number} of {capacity}");
            }
            for (number, hash) in (0..).zip(&hashes) {
                assert_eq!(index.find(*hash, |found| found == number), Some(number));
                index.remove(*hash, number);
                assert_eq!(index.find(*hash, |found| found == number), None);
            }
            assert!(index.buckets.iter().all(|bucket| bucket.numbers == [0; WAYS]));
        }
    }
}
