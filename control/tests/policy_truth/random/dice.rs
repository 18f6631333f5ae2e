//! Numbers from a seed.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// Once in `of` times.
    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub fn choose<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// Some of them, in their order; never none where `min` is 1.
    pub fn some<T: Clone>(&mut self, among: &[T], min: usize) -> Vec<T> {
        loop {
            let chosen: Vec<T> = among.iter().filter(|_| self.one_in(2)).cloned().collect();
            if chosen.len() >= min {
                return chosen;
            }
        }
    }

    /// Between `min` and `max` of what `make` makes.
    pub fn several<T>(
        &mut self,
        min: usize,
        max: usize,
        mut make: impl FnMut(&mut Dice) -> T,
    ) -> Vec<T> {
        let len = min + self.below(max - min + 1);
        (0..len).map(|_| make(self)).collect()
    }
}
