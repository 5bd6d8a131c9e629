//! Marks: a set of files, one bit each, by their dense numbers.

use super::FileNo;

/// A set of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    words: Vec<u64>,
    count: u32,
}

fn place(file: FileNo) -> (usize, u64) {
    (file.0 as usize / 64, 1 << (file.0 % 64))
}

impl Marks {
    /// Adds `file`: whether it was not in yet.
    pub fn insert(&mut self, file: FileNo) -> bool {
        let (word, bit) = place(file);
        if word >= self.words.len() {
            // Grown by half: numbers come in no order, and each new highest one would copy all.
            self.words.resize((word + 1).max(self.words.len() * 3 / 2), 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u32::from(is_new);
        is_new
    }

    /// Takes `file` out: whether it was in.
    pub fn remove(&mut self, file: FileNo) -> bool {
        let (word, bit) = place(file);
        let was_in = self.contains(file);
        if was_in {
            self.words[word] &= !bit;
            self.count -= 1;
        }
        was_in
    }

    /// Whether `file` is in.
    pub fn contains(&self, file: FileNo) -> bool {
        let (word, bit) = place(file);
        self.words.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// How many are in.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes all out, and keeps the memory.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// Those that are in, by number.
    pub fn iter(&self) -> impl Iterator<Item = FileNo> + '_ {
        self.words.iter().enumerate().flat_map(|(word, &bits)| {
            let mut left = bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(FileNo(word as u32 * 64 + bit))
            })
        })
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_are_a_set(steps in prop::collection::vec((0_u32..300, 0..8), 0..400)) {
            let (mut marks, mut oracle) = (Marks::default(), BTreeSet::new());
            for (number, what) in steps {
                let file = FileNo(number);
                match what {
                    0 => prop_assert_eq!(marks.remove(file), oracle.remove(&file)),
                    7 if number == 0 => { marks.clear(); oracle.clear(); }
                    _ => prop_assert_eq!(marks.insert(file), oracle.insert(file)),
                }
                prop_assert_eq!(marks.contains(file), oracle.contains(&file));
            }
            prop_assert_eq!(marks.iter().collect::<Vec<_>>(), oracle.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!((marks.len() as usize, marks.is_empty()), (oracle.len(), oracle.is_empty()));
        }
    }
}
