//! Which chunks a device has lent to the kernel.

/// A bit per chunk: set from FILL or TX until RX or COMPLETION. It makes a chunk that comes back
/// twice visible, and finds what is still out when a device ends.
pub struct Lent {
    bits: Box<[u64]>,
}

impl Lent {
    /// Nothing lent, of `chunks`.
    pub fn new(chunks: u32) -> Lent {
        Lent { bits: vec![0; chunks.div_ceil(64) as usize].into() }
    }

    /// Notes that a chunk of the region is lent.
    #[inline]
    pub fn insert(&mut self, chunk: u32) {
        let (word, bit) = split(chunk);
        self.bits[word] |= bit;
    }

    /// Notes that it came back. False where it was not lent.
    #[inline]
    #[must_use]
    pub fn remove(&mut self, chunk: u32) -> bool {
        let (word, bit) = split(chunk);
        let Some(bits) = self.bits.get_mut(word) else { return false };
        let lent = *bits & bit != 0;
        *bits &= !bit;
        lent
    }

    /// Takes out one chunk that is lent.
    pub fn pop(&mut self) -> Option<u32> {
        let word = self.bits.iter().position(|bits| *bits != 0)?;
        let bit = self.bits[word].trailing_zeros();
        self.bits[word] &= self.bits[word] - 1;
        Some(word as u32 * 64 + bit)
    }
}

#[inline]
fn split(chunk: u32) -> (usize, u64) {
    ((chunk / 64) as usize, 1 << (chunk % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_once() {
        let mut lent = Lent::new(130);
        for chunk in [0, 63, 64, 129] {
            lent.insert(chunk);
        }
        assert!(lent.remove(64) && !lent.remove(64) && !lent.remove(1) && !lent.remove(9999));
        assert_eq!(std::iter::from_fn(|| lent.pop()).collect::<Vec<_>>(), [0, 63, 129]);
    }
}
