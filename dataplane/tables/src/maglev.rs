//! Maglev consistent hashing (Eisenbud et al., NSDI'16), byte-compatible with the reference: the
//! same backends, seed and table size give the same table on every node of a mixed fleet.

use thiserror::Error;

use crate::backend_set::Backend;
use crate::murmur3::murmur3_x64_128;

/// Table sizes that exist, all prime. A size serves about a hundredth as many backends within 1 %
/// of even shares.
const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

/// Size and seed of a node's tables; the same on all nodes that share services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaglevParams {
    table_size: u32,
    seed: [u8; 12],
}

/// Why Maglev parameters are refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MaglevError {
    #[error(
        "Maglev table size {0} is not one of 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, \
         65521, 131071"
    )]
    TableSize(u32),
    #[error("Maglev seed has {0} bytes: it must have 12")]
    SeedLength(usize),
}

impl MaglevParams {
    /// Checks a size and a seed. A size of 0 and an empty seed mean the defaults.
    pub fn new(table_size: u32, seed: &[u8]) -> Result<MaglevParams, MaglevError> {
        let mut params = MaglevParams::default();
        if table_size != 0 {
            if !SIZES.contains(&table_size) {
                return Err(MaglevError::TableSize(table_size));
            }
            params.table_size = table_size;
        }
        if !seed.is_empty() {
            params.seed = seed.try_into().map_err(|_| MaglevError::SeedLength(seed.len()))?;
        }
        Ok(params)
    }

    /// Slots per table.
    pub fn table_size(&self) -> u32 {
        self.table_size
    }

    fn seed_murmur(&self) -> u32 {
        self.seed_word(0)
    }

    pub(crate) fn seed_jhash_v4(&self) -> u32 {
        self.seed_word(1)
    }

    pub(crate) fn seed_jhash_v6(&self) -> u32 {
        self.seed_word(2)
    }

    fn seed_word(&self, index: usize) -> u32 {
        let at = index * 4;
        u32::from_be_bytes([self.seed[at], self.seed[at + 1], self.seed[at + 2], self.seed[at + 3]])
    }
}

impl Default for MaglevParams {
    fn default() -> Self {
        let seed = [0x24, 0xb7, 0xef, 0x82, 0x71, 0xdc, 0xda, 0x46, 0x92, 0x50, 0x56, 0x88];
        MaglevParams { table_size: 16381, seed }
    }
}

/// A filled table: each slot holds the index of a backend in the slice it was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaglevTable {
    slots: Box<[u16]>,
}

/// A slot that nobody has taken; also one more backend than a set can have.
const FREE: u16 = u16::MAX;

/// Where a backend is in its walk over the table: from slot `next`, `skip` slots at a time.
struct Walk {
    backend: u16,
    weight: u16,
    next: u32,
    skip: u32,
}

impl MaglevTable {
    /// Fills a table from the backends at `chosen` (indices into `backends`). Empty where none.
    pub fn build(
        backends: &[Backend],
        chosen: &[u16],
        protocol: u8,
        params: &MaglevParams,
    ) -> MaglevTable {
        if chosen.is_empty() {
            return MaglevTable { slots: Box::default() };
        }
        let mut walks = start_walks(backends, chosen, protocol, params);
        MaglevTable { slots: fill(&mut walks, params.table_size) }
    }

    /// The backend index for a flow's hash; `None` in an empty table.
    #[inline]
    pub fn pick(&self, hash: u32) -> Option<u16> {
        let size = self.slots.len() as u32;
        if size == 0 { None } else { Some(self.slots[(hash % size) as usize]) }
    }

    /// All slots in order.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// One walk per backend, in the order of their identity strings.
fn start_walks(
    backends: &[Backend],
    chosen: &[u16],
    protocol: u8,
    params: &MaglevParams,
) -> Vec<Walk> {
    let size = u64::from(params.table_size);
    let mut named: Vec<(String, u16)> = chosen
        .iter()
        .map(|&index| (identity(&backends[usize::from(index)], protocol), index))
        .collect();
    named.sort_unstable();
    named
        .into_iter()
        .map(|(name, backend)| {
            let (h1, h2) = murmur3_x64_128(name.as_bytes(), params.seed_murmur());
            Walk {
                backend,
                weight: backends[usize::from(backend)].weight,
                next: (h1 % size) as u32,
                skip: (h2 % (size - 1) + 1) as u32,
            }
        })
        .collect()
}

/// The string that a backend is hashed by. Its format never changes: tables depend on it.
fn identity(backend: &Backend, protocol: u8) -> String {
    let protocol = weir_packet::protocol::Name(protocol);
    format!("[{}/{protocol},State:active]", backend.addr)
}

/// Gives each slot to a backend, in turns.
fn fill(walks: &mut [Walk], size: u32) -> Box<[u16]> {
    if let [only] = walks {
        return vec![only.backend; size as usize].into_boxed_slice();
    }
    let mut turns = Turns::new(walks);
    let mut slots = vec![FREE; size as usize].into_boxed_slice();
    for _ in 0..size {
        let walk = &mut walks[turns.next()];
        walk.go_to_free_slot(&slots, size);
        slots[walk.next as usize] = walk.backend;
    }
    slots
}

impl Walk {
    /// Goes on to the first free slot from `next` on. Several steps are looked at together: where
    /// the walk ends cannot be foreseen, and each wrong guess of the processor costs more than
    /// the steps.
    fn go_to_free_slot(&mut self, slots: &[u16], size: u32) {
        const TOGETHER: usize = 4;
        loop {
            let mut met = [0; TOGETHER];
            let mut free = 0;
            for (nth, slot) in met.iter_mut().enumerate() {
                *slot = self.next;
                free |= u32::from(slots[self.next as usize] == FREE) << nth;
                let ahead = self.next + self.skip;
                self.next = ahead.min(ahead.wrapping_sub(size));
            }
            if free != 0 {
                self.next = met[free.trailing_zeros() as usize % TOGETHER];
                return;
            }
        }
    }
}

/// Whose turn it is. One after another; where weights differ, a heavier backend more often.
struct Turns {
    count: usize,
    /// The backend that is next in line, and how many turns there were.
    next: usize,
    taken: u64,
    /// Weight and counter of each backend; empty where all are alike.
    weights: Vec<(u64, u64)>,
    sum: u64,
}

impl Turns {
    fn new(walks: &[Walk]) -> Turns {
        let count = walks.len();
        let sum: u64 = walks.iter().map(|walk| u64::from(walk.weight)).sum();
        // Equal weights give the same turns as none at all.
        let are_equal = walks.iter().all(|walk| walk.weight == walks[0].weight);
        let weights = if are_equal || sum / count as u64 <= 1 {
            Vec::new()
        } else {
            // The reference counts in floating point and cuts the fraction off to compare.
            let weights = walks.iter().map(|walk| u64::from(walk.weight));
            weights.map(|weight| (weight, weight / count as u64)).collect()
        };
        Turns { count, next: 0, taken: 0, weights, sum }
    }

    fn next(&mut self) -> usize {
        let mut at = self.next;
        self.next = self.after(at);
        self.taken += 1;
        if self.weights.is_empty() {
            return at;
        }
        while self.taken * self.weights[at].0 < self.weights[at].1 {
            at = self.after(at);
        }
        self.weights[at].1 += self.sum;
        at
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.count { 0 } else { at + 1 }
    }
}

#[cfg(test)]
mod tests;
