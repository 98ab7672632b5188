//! A set of pages, with one bit per page.

/// A set of page numbers below a fixed bound.
pub(crate) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    pub(crate) fn new(bits: u64) -> Self {
        Bitmap {
            words: vec![0; bits.div_ceil(64) as usize],
        }
    }

    /// Adds `bit`. Returns false if the set already contains it, or if it is not below the bound.
    pub(crate) fn insert(&mut self, bit: u64) -> bool {
        match self.words.get_mut((bit / 64) as usize) {
            Some(word) => {
                let mask = 1 << (bit % 64);
                let new = *word & mask == 0;
                *word |= mask;
                new
            }
            None => false,
        }
    }

    pub(crate) fn contains(&self, bit: u64) -> bool {
        self.words
            .get((bit / 64) as usize)
            .is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }
}
