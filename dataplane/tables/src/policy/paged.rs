//! A persistent array: pages of 256 behind one table of pages.

use std::sync::Arc;

const PAGE: usize = 256;

/// Values by small number. Places that were never set hold the blank value and cost no page.
/// Cloning shares everything; setting copies what is shared, one page and the table of pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Paged<T> {
    pages: Arc<Vec<Option<Arc<[T; PAGE]>>>>,
    blank: T,
}

impl<T: Clone> Paged<T> {
    #[inline]
    pub(super) fn get(&self, index: u32) -> &T {
        let at = index as usize;
        match self.pages.get(at / PAGE) {
            Some(Some(page)) => &page[at % PAGE],
            _ => &self.blank,
        }
    }

    pub(super) fn set(&mut self, index: u32, value: T) {
        let at = index as usize;
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() <= at / PAGE {
            pages.resize(at / PAGE + 1, None);
        }
        let blank = &self.blank;
        let page = pages[at / PAGE]
            .get_or_insert_with(|| Arc::new(std::array::from_fn(|_| blank.clone())));
        Arc::make_mut(page)[at % PAGE] = value;
    }

    /// All values of pages that were ever set, blank ones among them.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten().flat_map(|page| page.iter())
    }

    /// Memory in bytes, without what the values point to.
    pub(super) fn bytes(&self) -> usize {
        let pages = self.pages.iter().flatten().count();
        pages * PAGE * size_of::<T>() + self.pages.len() * size_of::<usize>()
    }
}

/// Numbers from 0 without gaps for long: those that were given back come first.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    next: u32,
    free: Vec<u32>,
}

impl Numbers {
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(super) fn give_back(&mut self, number: u32) {
        self.free.push(number);
    }

    /// Most that were ever taken at once.
    #[cfg(test)]
    pub(super) fn most(&self) -> usize {
        self.next as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_never_changes_and_blank_pages_cost_nothing() {
        let mut array = Paged::<u32>::default();
        array.set(70_000, 7);
        let before = array.clone();
        array.set(70_000, 8);
        array.set(3, 1);
        assert_eq!([*before.get(70_000), *before.get(3), *before.get(4_000_000)], [7, 0, 0]);
        assert_eq!([*array.get(70_000), *array.get(3), *array.get(4)], [8, 1, 0]);
        assert!(array.bytes() < 2 * 1024 + 8 * 300);
    }

    #[test]
    fn numbers_are_used_again() {
        let mut numbers = Numbers::default();
        let taken: Vec<u32> = (0..3).map(|_| numbers.take()).collect();
        assert_eq!(taken, [0, 1, 2]);
        numbers.give_back(1);
        assert_eq!([numbers.take(), numbers.take()], [1, 3]);
        assert_eq!(numbers.most(), 4);
    }
}
