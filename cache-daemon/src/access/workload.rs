//! Workloads made up for tests, with what is true of them.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::{FileNo, FileTable, Touch};

/// A data set in class directories, each file a number from 1000 on.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    pub files: u32,
    pub classes: u32,
    /// Files of a directory `val` beside `train`.
    pub val_files: u32,
}

impl Default for Set {
    fn default() -> Self {
        Self { files: 2_000, classes: 20, val_files: 0 }
    }
}

const FIRST: u32 = 1_000;

impl Set {
    pub fn table(&self) -> FileTable {
        let mut builder = FileTable::builder();
        for number in 0..self.files {
            // Listing order: classes one after the other.
            let class = u64::from(number) * u64::from(self.classes) / u64::from(self.files);
            builder.add(FileNo(FIRST + number), 10 + class as u32, 100_000);
        }
        for number in 0..self.val_files {
            builder.add(FileNo(FIRST + self.files + number), 3, 100_000);
        }
        builder.finish(|dir| if dir >= 10 { 2 } else { 1 }, |dir| dir == 2 || dir == 3)
    }

    pub fn train(&self) -> Vec<FileNo> {
        (FIRST..FIRST + self.files).map(FileNo).collect()
    }

    pub fn val(&self) -> Vec<FileNo> {
        (FIRST + self.files..FIRST + self.files + self.val_files).map(FileNo).collect()
    }
}

pub fn read(file: FileNo, at_ns: u64) -> Touch {
    Touch { at_ns, file, reader: 0, group: 1, first: 0, end: 100_000, begins: true, ends: true }
}

/// One epoch over the training set, a reading each millisecond.
pub fn shuffled(set: &Set, seed: u64, epoch: u64) -> Vec<Touch> {
    let mut files = set.train();
    files.shuffle(&mut SmallRng::seed_from_u64(seed * 1_000 + epoch));
    timed(&files, epoch * u64::from(set.files))
}

pub fn timed(files: &[FileNo], from: u64) -> Vec<Touch> {
    (from..).zip(files).map(|(at, &file)| read(file, at * 1_000_000)).collect()
}

/// The same readings, each moved back by up to `ahead` places: workers that run ahead of each other.
pub fn jumbled(touches: &[Touch], ahead: usize, seed: u64) -> Vec<Touch> {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut moved: Vec<(usize, Touch)> =
        touches.iter().enumerate().map(|(at, touch)| (at + dice.random_range(0..=ahead), *touch)).collect();
    moved.sort_by_key(|(at, _)| *at);
    moved.into_iter().map(|(_, touch)| touch).collect()
}

/// `count` draws with replacement.
pub fn sampled(set: &Set, count: usize, seed: u64) -> Vec<Touch> {
    let (files, mut dice) = (set.train(), SmallRng::seed_from_u64(seed));
    let drawn: Vec<FileNo> = (0..count).map(|_| files[dice.random_range(0..files.len())]).collect();
    timed(&drawn, 0)
}
