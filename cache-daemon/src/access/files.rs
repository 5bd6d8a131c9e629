//! The data set in listing order: of each file its number, size and directory.
//!
//! A file's *rank* is its place in a walk that takes names in order, as `find` and `cp -r` do on this mount. So a
//! subtree is a range of ranks, and a reader that follows the listing is one whose ranks go up.
//!
//! A directory called `train`, `val2017`, `test` and the like is a *part* of its own: jobs read such parts at
//! different times and with different frequency, so epochs are counted in each by itself. Everything outside of them
//! is one part too.

use std::collections::HashMap;
use std::ops::Range;

use super::FileNo;

/// The place of a file in listing order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Rank(pub u32);

/// The files of a data set. 16 bytes each.
#[derive(Debug, Default)]
pub struct FileTable {
    /// By number; [`NONE`] for numbers that no file has.
    rank_of: Vec<u32>,
    /// By rank.
    files: Vec<Filed>,
    directories: Vec<Directory>,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Filed {
    number: u32,
    /// Rounded up: 4 TiB fit, and what is larger counts as that.
    size_kib: u32,
    /// Place in `directories`.
    directory: u32,
}

/// A directory that has files in it or below it.
#[derive(Clone, Debug)]
struct Directory {
    number: u32,
    /// Place of the one above; its own for the topmost.
    above: u32,
    /// Ranks of all below.
    ranks: Range<u32>,
    /// Files directly in it.
    direct: u32,
    /// Number of the directory whose part it belongs to.
    part: u32,
}

/// Takes files in listing order.
#[derive(Debug, Default)]
pub struct FileTableBuilder {
    table: FileTable,
    places: HashMap<u32, u32>,
}

/// Whether a directory of that name holds a split of a data set: `train`, `val2017`, `test_images`.
pub fn is_split_name(name: &[u8]) -> bool {
    const SPLITS: [&str; 8] = ["training", "train", "validation", "valid", "val", "testing", "test", "eval"];
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    // The first that fits counts: `validated` is no split, and neither is `trainers`.
    SPLITS
        .iter()
        .filter_map(|split| name.strip_prefix(split))
        .any(|rest| rest.bytes().next().is_none_or(|next| !next.is_ascii_alphabetic()))
}

impl FileTableBuilder {
    /// The next file: its number, its directory's number, and its bytes.
    pub fn add(&mut self, file: FileNo, directory: u32, size_bytes: u64) {
        let table = &mut self.table;
        let rank = u32::try_from(table.files.len()).expect("numbers are 32 bits");
        let last = table.files.last().map(|last| last.directory);
        let place = match last.filter(|&place| table.directories[place as usize].number == directory) {
            Some(place) => place,
            None => place_of(table, &mut self.places, directory),
        };
        let entry = &mut table.directories[place as usize];
        entry.direct += 1;
        entry.ranks = entry.ranks.start.min(rank)..rank + 1;
        if file.0 as usize >= table.rank_of.len() {
            let len = (file.0 as usize + 1).max(table.rank_of.len() * 5 / 4);
            table.rank_of.resize(len, NONE);
        }
        table.rank_of[file.0 as usize] = rank;
        let size_kib = u32::try_from(size_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        table.files.push(Filed { number: file.0, size_kib, directory: place });
    }

    /// The table. `above` gives the number of the directory above one, the root's being the root; `is_split`
    /// whether a directory is a part of its own.
    pub fn finish(mut self, above: impl Fn(u32) -> u32, is_split: impl Fn(u32) -> bool) -> FileTable {
        let mut at = 0;
        // Grows while it is walked: those above are added at the end.
        while at < self.table.directories.len() {
            let number = self.table.directories[at].number;
            let place = match above(number) {
                same if same == number => at as u32,
                above => place_of(&mut self.table, &mut self.places, above),
            };
            self.table.directories[at].above = place;
            at += 1;
        }
        self.table.widen();
        self.table.part(&is_split);
        self.table.files.shrink_to_fit();
        self.table
    }
}

fn place_of(table: &mut FileTable, places: &mut HashMap<u32, u32>, number: u32) -> u32 {
    *places.entry(number).or_insert_with(|| {
        let place = table.directories.len() as u32;
        // Empty, and narrower than any.
        let ranks = Range { start: NONE, end: 0 };
        table.directories.push(Directory { number, above: place, ranks, direct: 0, part: number });
        place
    })
}

impl FileTable {
    /// A builder.
    pub fn builder() -> FileTableBuilder {
        FileTableBuilder::default()
    }

    /// Every directory's ranks cover those of the directories below it.
    fn widen(&mut self) {
        for place in 0..self.directories.len() {
            let ranks = self.directories[place].ranks.clone();
            let mut above = self.directories[place].above as usize;
            let mut below = place;
            while above != below {
                let wider = &mut self.directories[above].ranks;
                *wider = wider.start.min(ranks.start)..wider.end.max(ranks.end);
                (below, above) = (above, self.directories[above].above as usize);
            }
        }
    }

    fn part(&mut self, is_split: &impl Fn(u32) -> bool) {
        for place in 0..self.directories.len() {
            let mut at = place as u32;
            let part = loop {
                let directory = &self.directories[at as usize];
                if directory.above == at || is_split(directory.number) {
                    break directory.number;
                }
                at = directory.above;
            };
            self.directories[place].part = part;
        }
    }

    /// How many files there are.
    pub fn len(&self) -> u32 {
        self.files.len() as u32
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The rank of `file`; `None` if it is not one of these.
    pub fn rank(&self, file: FileNo) -> Option<Rank> {
        self.rank_of.get(file.0 as usize).copied().filter(|&rank| rank != NONE).map(Rank)
    }

    /// The file at `rank`.
    ///
    /// # Panics
    /// If there is none.
    pub fn file(&self, rank: Rank) -> FileNo {
        FileNo(self.files[rank.0 as usize].number)
    }

    /// Bytes of the file at `rank`, rounded up to KiB.
    pub fn size_bytes(&self, rank: Rank) -> u64 {
        u64::from(self.files[rank.0 as usize].size_kib) * 1024
    }

    /// The place of the directory that the file at `rank` is in.
    pub(super) fn directory(&self, rank: Rank) -> u32 {
        self.files[rank.0 as usize].directory
    }

    /// How many directories have files in them or below them.
    pub(super) fn directories(&self) -> u32 {
        self.directories.len() as u32
    }

    /// The part that the file at `rank` belongs to: the number of its directory.
    pub fn part_of(&self, rank: Rank) -> u32 {
        self.part_of_directory(self.directory(rank))
    }

    /// The part that the directory at `place` belongs to.
    pub(super) fn part_of_directory(&self, place: u32) -> u32 {
        self.directories[place as usize].part
    }

    /// The number of the directory at `place`.
    pub(super) fn directory_number(&self, place: u32) -> u32 {
        self.directories[place as usize].number
    }

    /// Files directly in the directory at `place`.
    pub(super) fn direct(&self, place: u32) -> u32 {
        self.directories[place as usize].direct
    }

    /// Ranks of all files below the directory at `place`.
    pub(super) fn below(&self, place: u32) -> Range<u32> {
        self.directories[place as usize].ranks.clone()
    }

    /// The lowest directory that has all of `ranks` below it.
    pub(super) fn lowest_over(&self, ranks: &Range<u32>) -> u32 {
        let mut place = self.directory(Rank(ranks.start));
        loop {
            let directory = &self.directories[place as usize];
            let covers = directory.ranks.start <= ranks.start && ranks.end <= directory.ranks.end;
            if covers || directory.above == place {
                return place;
            }
            place = directory.above;
        }
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.rank_of.capacity() * size_of::<u32>()
            + self.files.capacity() * size_of::<Filed>()
            + self.directories.capacity() * size_of::<Directory>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root 1 with `readme` (10), `train` (2) with classes 3 and 4, `val` (5); files from 11.
    fn sample() -> FileTable {
        let mut builder = FileTable::builder();
        let files = [(10, 1), (11, 3), (12, 3), (13, 4), (14, 5), (15, 5)];
        files.iter().for_each(|&(number, dir)| builder.add(FileNo(number), dir, u64::from(number)));
        let above = |dir| match dir {
            3 | 4 => 2,
            _ => 1,
        };
        builder.finish(above, |dir| dir == 2 || dir == 5)
    }

    #[test]
    fn subtrees_are_ranges_of_ranks_and_splits_are_parts() {
        let table = sample();
        assert_eq!(table.rank(FileNo(13)), Some(Rank(3)));
        assert_eq!((table.rank(FileNo(9)), table.rank(FileNo(99))), (None, None));
        let number = |ranks: Range<u32>| table.directory_number(table.lowest_over(&ranks));
        assert_eq!([number(1..3), number(1..4), number(0..4), number(4..6)], [3, 2, 1, 5]);
        assert_eq!(table.below(table.lowest_over(&(2..4))), 1..4);
        let parts = (0..6).map(|rank| table.part_of(Rank(rank)));
        assert_eq!(parts.collect::<Vec<_>>(), [1, 2, 2, 2, 5, 5]);
    }

    #[test]
    fn splits_are_known_by_their_names() {
        for name in ["train", "Train", "val2017", "validation", "test_images", "training-set", "eval"] {
            assert!(is_split_name(name.as_bytes()), "{name}");
        }
        for name in ["", "trainers", "n01440764", "images", "validated", "testament", "valley"] {
            assert!(!is_split_name(name.as_bytes()), "{name}");
        }
    }
}
