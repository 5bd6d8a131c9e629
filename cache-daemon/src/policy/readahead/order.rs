//! Orders: files in the order in which they will be read, because somebody said so.
//!
//! A training script tells the order of its epoch, it is that of an earlier epoch, or a user asks for a path to be
//! fetched (`cachectl warm`). A told order is believed at first, for [`UNPROVEN_MAX`] files ahead, and held against the
//! first readings: if fewer than half come about when it says, it is of another epoch or another job, and is dropped.
//! What it cost are those fetches. A recalled one is proven by the readings that it was recalled by. Both are
//! watched all along.

use crate::access::FileNo;

/// Readings of an order's files that prove it, or refute it.
const PROOF: u32 = 32;

/// Readings of other files that refute it, if hardly any of its own come. Ranks of a job have an order each.
const OTHERS_MAX: u32 = 1_024;

/// Files ahead of the readers before the order is proven.
const UNPROVEN_MAX: usize = 1_024;

/// How far a reading may be from its place, as a part of the order, and at least: workers read batches side by side.
const OFF_SHARE: usize = 8;
const OFF_MIN: usize = 64;
const OFF_MAX: usize = 4_096;

/// Readings of its files by which a proven order is judged again and again, and how many of them have to be as it says:
/// another job may read the same files in another order.
const JUDGED: u32 = 128;
const AS_TOLD_MIN: u32 = 48;

/// How quickly readers are taken to be farther ahead of each other, and nearer: what few readings say, of another job perhaps,
/// does not count.
const FARTHER: f32 = 1.0 / 8.0;
const NEARER: f32 = 1.0 / 64.0;

/// Readers whose places are remembered.
const READERS_MAX: usize = 64;

/// The part of an order that may be left when it counts as read, and the next one of its name is followed.
const LEFT_SHARE: usize = 20;

const NONE: u32 = u32::MAX;

/// What an order is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Readers will read in it.
    Told,
    /// As in an earlier epoch.
    Recalled,
    /// To have the files stored, whoever reads them.
    Warm,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Told => "told",
            Self::Recalled => "recalled",
            Self::Warm => "warm",
        })
    }
}

/// What is known of a told order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Too few readings to tell.
    Unproven,
    /// Readers follow it.
    Right,
    /// They do not.
    Wrong,
}

/// Files in order.
#[derive(Clone, Debug)]
pub struct Order {
    purpose: Purpose,
    /// Whose it is; empty if that does not matter.
    name: String,
    files: Vec<FileNo>,
    /// The place of each file, by its number.
    places: Vec<u32>,
    /// The next one to be fetched.
    next: usize,
    /// The next one to be pushed.
    pushed: usize,
    /// One reading in so many is seen.
    seen_every: usize,
    /// Files of it that were read since it was told.
    read: u32,
    /// Where its readers are, about: as many of their readings lie before it as behind it.
    at: usize,
    /// How far ahead of that the foremost of them are: workers go on without waiting for each other.
    spread: f32,
    /// Readers that were seen, and the place of the last reading of each.
    readers: Vec<(u32, usize)>,
    /// Of the readings by which it is judged now: all, and those that come about when it says.
    judged: u32,
    as_told: u32,
    others: u32,
    /// Readings that may still be of the epoch before: so many do not refute it.
    stragglers: u32,
    standing: Standing,
}

impl Order {
    /// These files, each once: what comes again is left out.
    pub fn new(purpose: Purpose, told: impl IntoIterator<Item = FileNo>) -> Self {
        let (mut files, mut places) = (Vec::new(), Vec::new());
        for file in told {
            let number = file.0 as usize;
            if number >= places.len() {
                places.resize((number + 1).max(places.len() * 3 / 2), NONE);
            }
            if places[number] == NONE {
                places[number] = files.len() as u32;
                files.push(file);
            }
        }
        let standing = Standing::Unproven;
        Self {
            purpose,
            name: String::new(),
            files,
            places,
            next: 0,
            pushed: 0,
            seen_every: 1,
            read: 0,
            at: 0,
            spread: 0.0,
            readers: Vec::new(),
            judged: 0,
            as_told: 0,
            others: 0,
            stragglers: 0,
            standing,
        }
    }

    /// The same files, to be stored whoever reads them.
    pub fn to_warm(mut self) -> Self {
        self.purpose = Purpose::Warm;
        self
    }

    /// The same, followed as soon as the order before it counts as read, of which some files are still to come.
    pub fn next_in_line(mut self) -> Self {
        // And the readings among which the last of them are.
        self.stragglers = (self.files.len() / LEFT_SHARE) as u32 + 2 * PROOF;
        self
    }

    /// The same files, read in this order before; its readers are at the one numbered `at`.
    pub fn recalled(mut self, at: usize) -> Self {
        (self.purpose, self.at) = (Purpose::Recalled, at);
        self.next = at.saturating_sub(self.off());
        self
    }

    /// From now on one reading in `every` is seen.
    pub fn set_seen_every(&mut self, every: usize) {
        self.seen_every = every;
    }

    /// The files.
    pub fn files(&self) -> &[FileNo] {
        &self.files
    }

    /// The same as that of `name`: another of the same name takes its place.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Whose it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// How many files it has.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A reader began to read `file`; `reader` is its process, or 0 where that is not known.
    pub fn reading(&mut self, file: FileNo, reader: u32) {
        if self.purpose == Purpose::Warm {
            return;
        }
        match self.place(file) {
            Some(place) => {
                let is_as_told = self.is_as_told(place, reader);
                self.as_told += u32::from(is_as_told);
                if is_as_told && (self.at..=self.at + self.off()).contains(&place) {
                    let farther = (place - self.at) as f32 - self.spread;
                    self.spread += farther * if farther > 0.0 { FARTHER } else { NEARER };
                }
                if place.abs_diff(self.at) <= self.off() {
                    self.at += if place > self.at { 2 * self.seen_every } else { 0 };
                }
                self.judged += 1;
                self.read += 1;
            }
            // Of another job, or of what this order does not speak of.
            None => self.others += 1,
        }
        if self.standing == Standing::Unproven && (self.judged >= PROOF || self.others >= OTHERS_MAX) {
            let is_right = self.judged >= PROOF && self.as_told * 2 >= self.judged;
            match self.stragglers.checked_sub(self.judged) {
                Some(left) if !is_right && self.judged >= PROOF => {
                    // Most of them were none of its epoch.
                    self.stragglers = left;
                    self.read -= self.judged - self.as_told;
                    (self.judged, self.as_told) = (0, 0);
                }
                _ => self.judge(is_right),
            }
        } else if self.judged >= JUDGED {
            self.judge(self.as_told >= AS_TOLD_MIN);
        }
    }

    /// Whether the reading at `place` comes about when the order says: shortly after the last one of the same reader, which goes
    /// by the order whatever the others do, or about where the readers are.
    fn is_as_told(&mut self, place: usize, reader: u32) -> bool {
        let off = self.off();
        let last = self.readers.iter_mut().find(|(other, _)| *other == reader && reader != 0);
        let Some((_, last)) = last else {
            if reader != 0 && self.readers.len() < READERS_MAX {
                self.readers.push((reader, place));
            }
            return place.abs_diff(self.at) <= off;
        };
        let since = place.wrapping_sub(std::mem::replace(last, place));
        (1..=off).contains(&since)
    }

    fn judge(&mut self, is_right: bool) {
        self.standing = if is_right { Standing::Right } else { Standing::Wrong };
        (self.judged, self.as_told) = (0, 0);
    }

    fn off(&self) -> usize {
        (self.files.len() / OFF_SHARE).clamp(OFF_MIN, OFF_MAX)
    }

    /// What is known of it.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The next file to be fetched; none for now, or for good if [`Order::is_done`].
    pub fn take_next(&mut self) -> Option<FileNo> {
        let is_far_ahead = self.purpose == Purpose::Told
            && self.standing == Standing::Unproven
            && self.next >= self.read as usize + UNPROVEN_MAX;
        if is_far_ahead {
            return None;
        }
        if self.standing == Standing::Right {
            // Behind the readers nothing is read any more.
            self.next = self.next.max(self.behind());
        }
        let file = self.files.get(self.next).copied()?;
        self.next += 1;
        Some(file)
    }

    /// The last file again: it could not be taken.
    pub fn step_back(&mut self) {
        self.next -= 1;
    }

    /// The next file to be pushed and its place: at least `lead` files ahead of the foremost readers, and before it is proven of the first
    /// `unproven_max`, so that its readers find something before they are seen.
    pub fn next_push(&mut self, lead: usize, unproven_max: usize) -> Option<(usize, FileNo)> {
        let place = match self.standing {
            Standing::Wrong => return None,
            Standing::Unproven if self.pushed >= unproven_max.min(UNPROVEN_MAX) => return None,
            // Nobody reads it yet, that is known.
            Standing::Unproven if self.read == 0 => self.pushed,
            _ => self.pushed.max(self.at + self.spread as usize + lead),
        };
        let file = self.files.get(place).copied()?;
        self.pushed = place + 1;
        Some((place, file))
    }

    /// The last file to be pushed again: there was no room.
    pub fn unpush(&mut self) {
        self.pushed -= 1;
    }

    /// The place before which all were read.
    pub fn behind(&self) -> usize {
        self.at.saturating_sub(self.off())
    }

    /// The place of `file`.
    pub fn place(&self, file: FileNo) -> Option<usize> {
        self.places.get(file.0 as usize).filter(|&&place| place != NONE).map(|&place| place as usize)
    }

    /// Whether the readers are in its first half.
    pub fn has_begun_only(&self) -> bool {
        self.at < self.files.len() / 2
    }

    /// Whether `file` is still to come, or just about to be read.
    pub fn is_ahead(&self, file: FileNo) -> bool {
        self.place(file).is_some_and(|place| place >= self.behind())
    }

    /// Whether the readers are through with it, all but a few.
    pub fn was_read(&self) -> bool {
        self.read as usize >= self.files.len() - self.files.len() / LEFT_SHARE
    }

    /// How many files were passed.
    pub fn passed(&self) -> usize {
        self.next
    }

    /// Whether all of it was passed.
    pub fn is_done(&self) -> bool {
        self.next == self.files.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::access::Touch;
    use crate::access::workload::{Set, jumbled, shuffled};

    fn told(epoch: u64, files: u32) -> Order {
        let set = Set { files, ..Set::default() };
        Order::new(Purpose::Told, shuffled(&set, 1, epoch).into_iter().map(|touch| touch.file))
    }

    proptest! {
        #[test]
        fn a_right_order_is_known_in_spite_of_workers_and_another_epochs_is_not(
            files in 2_000_u32..20_000, ahead in 0_usize..200, seed: u64,
        ) {
            let set = Set { files, ..Set::default() };
            let readings = jumbled(&shuffled(&set, 1, 0), ahead, seed);
            let (mut right, mut stale) = (told(0, files), told(1, files));
            for touch in readings.iter().take(64) {
                right.reading(touch.file, touch.reader);
                stale.reading(touch.file, touch.reader);
            }
            prop_assert_eq!((right.standing(), stale.standing()), (Standing::Right, Standing::Wrong));
        }
    }

    #[test]
    fn before_it_is_proven_an_order_costs_a_thousand_fetches() {
        let mut order = told(0, 5_000);
        assert_eq!(std::iter::from_fn(|| order.take_next()).count(), UNPROVEN_MAX);
        let set = Set { files: 5_000, ..Set::default() };
        shuffled(&set, 1, 0).iter().take(64).for_each(|touch| order.reading(touch.file, touch.reader));
        assert_eq!(std::iter::from_fn(|| order.take_next()).count(), 5_000 - UNPROVEN_MAX);
        assert!(order.is_done());
    }

    #[test]
    fn an_order_that_its_readers_leave_is_dropped_and_one_that_two_jobs_read_is_not() {
        let set = Set { files: 10_000, ..Set::default() };
        let (own, other) = (shuffled(&set, 1, 0), shuffled(&set, 2, 0));
        let (mut shared, mut left) = (told(0, 10_000), told(0, 10_000));
        for (own, other) in own.iter().zip(&other).take(5_000) {
            shared.reading(own.file, own.reader);
            left.reading(own.file, own.reader);
            shared.reading(other.file, other.reader);
        }
        assert_eq!((shared.standing(), left.standing()), (Standing::Right, Standing::Right));
        other[5_000..5_400].iter().for_each(|touch| left.reading(touch.file, touch.reader));
        assert_eq!(left.standing(), Standing::Wrong);
    }

    #[test]
    fn what_is_pushed_lies_ahead_of_the_foremost_of_workers_that_drift_apart() {
        let mut order = told(0, 20_000);
        let files = order.files().to_vec();
        // Of eight workers each is a fiftieth slower than the one before.
        let mut readings: Vec<(usize, usize)> =
            (0..20_000).map(|place| (place * (50 + place % 8), place)).collect();
        readings.sort_unstable();
        let mut foremost = 0;
        for &(_, place) in &readings[..8_000] {
            order.reading(files[place], 1 + (place % 8) as u32);
            foremost = foremost.max(place);
        }
        let (pushed, _) = order.next_push(0, 0).expect("the order is not at its end");
        assert!(
            (foremost - 100..foremost + 500).contains(&pushed),
            "{pushed}, and the foremost is at {foremost}"
        );
    }

    #[test]
    fn workers_that_drift_far_apart_follow_their_order_and_those_of_another_epoch_do_not() {
        let set = Set { files: 4_000, ..Set::default() };
        let (own, other) = (shuffled(&set, 1, 0), shuffled(&set, 1, 1));
        for (readings, standing) in [(&own, Standing::Right), (&other, Standing::Wrong)] {
            let mut order = told(0, 4_000);
            // Each worker has every eighth file, and they run one after the other.
            for worker in 0..8 {
                for touch in readings.iter().skip(worker).step_by(8) {
                    order.reading(touch.file, 1 + worker as u32);
                }
            }
            assert_eq!(order.standing(), standing);
        }
    }

    #[test]
    fn the_end_of_the_epoch_before_does_not_refute_the_next_order() {
        let set = Set { files: 10_000, ..Set::default() };
        let (before, own) = (shuffled(&set, 1, 0), shuffled(&set, 1, 1));
        let read = |order: &mut Order, touches: &[Touch]| {
            touches.iter().for_each(|touch| order.reading(touch.file, touch.reader));
        };
        let mut ended = told(0, 10_000);
        read(&mut ended, &before[..9_500]);
        assert!(ended.was_read());
        // What is followed from then on.
        let (mut next, mut stale) = (told(1, 10_000).next_in_line(), told(2, 10_000).next_in_line());
        for order in [&mut next, &mut stale] {
            read(order, &before[9_500..]);
            read(order, &own[..200]);
        }
        assert_eq!((next.standing(), stale.standing()), (Standing::Right, Standing::Wrong));
    }

    #[test]
    fn a_recalled_order_begins_where_its_readers_are() {
        let set = Set { files: 10_000, ..Set::default() };
        let all = shuffled(&set, 1, 0);
        let mut order = told(0, 10_000).recalled(6_016);
        all[6_000..6_032].iter().for_each(|touch| order.reading(touch.file, touch.reader));
        assert_eq!((order.standing(), order.purpose()), (Standing::Right, Purpose::Recalled));
        let fetched = std::iter::from_fn(|| order.take_next()).count();
        assert!((3_984..3_984 + 1_300).contains(&fetched), "{fetched}");
    }

    #[test]
    fn what_comes_twice_is_fetched_once() {
        let order = Order::new(Purpose::Warm, [3, 1, 3, 2, 1].map(FileNo));
        assert_eq!(order.files, [3, 1, 2].map(FileNo));
    }
}
