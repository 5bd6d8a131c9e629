//! Recall: orders that were read before, and whether one is being read again.
//!
//! A fixed seed, a sweep over hyper-parameters, a list that was shuffled once: the order of an epoch comes again, in the
//! next epoch or the next run. What each job reads in an epoch is noted, 4 bytes a reading, and kept when the epoch ends;
//! after [`PROOF`] readings of the next one, and again after [`PROOF_LATE`], the kept orders are searched for one in which
//! those readings lie side by side, in spite of workers that run ahead of each other. A job that resumes in
//! the middle of an epoch is found there.
//!
//! Orders of one job are a *run*. When they take more than the limit, the run that has been of no use for longest
//! gives way, its last epoch first: a sweep begins at the first.

use std::sync::Arc;

use super::{EVIDENCE_FILES, EpochSummary, FileNo, History, IDLE_AFTER_NS, Marks, Workload};

/// Readings of an epoch after which the kept orders are searched.
pub const PROOF: usize = 32;

/// And once more, if those told nothing.
pub const PROOF_LATE: usize = 256;

/// How far a reading may be from the middle of those that are searched for, as a part of the order, and at least.
const OFF_SHARE: usize = 64;
const OFF_MIN: usize = 96;
const OFF_MAX: usize = 4_096;

/// A file again among so many readings is one reading.
const ONE_READING: usize = 64;

/// Orders kept of one run.
const RUN_MAX: usize = 32;

/// Jobs whose readings are noted.
const WATCHES_MAX: usize = 16;

/// An order that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The number of the part's directory.
    pub part: u32,
    /// Orders of one job have the same.
    pub run: u32,
    /// The files, each once.
    pub files: Arc<[FileNo]>,
}

/// A kept order that is being read again.
#[derive(Clone, Debug)]
pub struct Recalled {
    /// Who reads it.
    pub group: u32,
    /// The number of the part's directory.
    pub part: u32,
    /// The order.
    pub files: Arc<[FileNo]>,
    /// About where in it the readers are.
    pub at: usize,
    /// What they have read of late, the oldest first.
    pub read: Vec<FileNo>,
}

/// What one job reads in this epoch.
#[derive(Debug)]
struct Watch {
    group: u32,
    part: u32,
    run: u32,
    readings: Vec<FileNo>,
    last_ns: u64,
    /// How many there were when they were last kept.
    settled: usize,
    /// The kept order that it follows.
    follows: Option<Arc<[FileNo]>>,
    /// What was kept of this epoch already, when the job paused.
    kept: Option<Arc<[FileNo]>>,
}

/// The orders that were read.
#[derive(Debug)]
pub struct Recall {
    bytes_max: usize,
    /// Of the run that was of no use for longest first; of a run in the order in which they were read.
    kept: Vec<Kept>,
    watches: Vec<Watch>,
    recalled: Vec<Recalled>,
    next_run: u32,
    has_news: bool,
}

impl Recall {
    /// Keeps up to `bytes_max` of orders, beginning with `kept`.
    pub fn new(bytes_max: usize, kept: Vec<Kept>) -> Self {
        let next_run = kept.iter().map(|kept| kept.run + 1).max().unwrap_or(0);
        let mut recall =
            Self { bytes_max, kept, watches: Vec::new(), recalled: Vec::new(), next_run, has_news: false };
        recall.shrink();
        recall
    }

    /// `group` began to read `file`, which is in `part`, of a data set of so many `files`.
    pub fn reading(&mut self, (group, part): (u32, u32), file: FileNo, at_ns: u64, files: u32) {
        let place = self.place_of(group, part);
        let watch = &mut self.watches[place];
        watch.last_ns = at_ns;
        let lately = &watch.readings[watch.readings.len().saturating_sub(ONE_READING)..];
        // An epoch has each file once; what has twice as many is none, and no end of it is in sight.
        if lately.contains(&file) || watch.readings.len() > 2 * files as usize {
            return;
        }
        watch.readings.push(file);
        if watch.follows.is_none() && matches!(watch.readings.len(), PROOF | PROOF_LATE) {
            self.search(place, PROOF);
        }
    }

    fn place_of(&mut self, group: u32, part: u32) -> usize {
        if let Some(place) = self.watches.iter().position(|watch| (watch.group, watch.part) == (group, part))
        {
            return place;
        }
        if self.watches.len() == WATCHES_MAX {
            // A loop of short-lived readers must not push out a job that pauses.
            let worth = |watch: &Watch| (watch.readings.len() >= EVIDENCE_FILES as usize, watch.last_ns);
            let least = self.watches.iter().enumerate().min_by_key(|(_, watch)| worth(watch));
            self.watches.swap_remove(least.map_or(0, |(place, _)| place));
        }
        let run = self.next_run;
        self.next_run += 1;
        let watch = Watch {
            group,
            part,
            run,
            readings: Vec::new(),
            last_ns: 0,
            settled: 0,
            follows: None,
            kept: None,
        };
        self.watches.push(watch);
        self.watches.len() - 1
    }

    /// Looks for the last `count` readings of the watch at `place` in the kept orders.
    fn search(&mut self, place: usize, count: usize) {
        let watch = &mut self.watches[place];
        let lately = &watch.readings[watch.readings.len().saturating_sub(count)..];
        let of_part = self.kept.iter().filter(|kept| kept.part == watch.part);
        let mut found = of_part.filter_map(|kept| Some((middle_of(&kept.files, lately)?, kept)));
        // Of two orders that begin alike the newer one.
        let Some((at, kept)) = found.next_back() else { return };
        let (files, run) = (kept.files.clone(), kept.run);
        watch.follows = Some(files.clone());
        let Watch { group, part, .. } = *watch;
        let read = lately.to_vec();
        self.recalled.push(Recalled { group, part, files, at, read });
        self.was_of_use(run);
    }

    /// The orders of `run` are the last to give way.
    fn was_of_use(&mut self, run: u32) {
        // Stable: the others keep their order.
        self.kept.sort_by_key(|kept| kept.run == run);
    }

    /// An epoch has ended: its order is kept, unless it was one that is.
    pub fn ended(&mut self, history: &History, summary: &EpochSummary) {
        let (group, part) = (summary.group, summary.part);
        let Some(place) = self.watches.iter().position(|watch| (watch.group, watch.part) == (group, part))
        else {
            return;
        };
        let job = history.job(group, part);
        let is_next = |file| job.is_some_and(|job| job.has_read(file));
        let readings = std::mem::take(&mut self.watches[place].readings);
        let (order, again) = split(&readings);
        if summary.is_exactly_once && summary.files >= EVIDENCE_FILES {
            self.keep(place, order);
        }
        let watch = &mut self.watches[place];
        (watch.follows, watch.kept, watch.settled) = (None, None, 0);
        // What came again was the beginning of the next epoch.
        watch.readings = again.into_iter().filter(|&file| is_next(file)).collect();
        if watch.readings.len() >= PROOF {
            let count = watch.readings.len();
            self.search(place, count);
        }
    }

    /// Keeps what jobs that have stopped, or pause, have read of their last epoch; of all jobs if the daemon `is_closing`.
    pub fn settle(&mut self, history: &History, now_ns: u64, is_closing: bool) {
        for place in 0..self.watches.len() {
            let watch = &self.watches[place];
            let is_idle = is_closing || now_ns.saturating_sub(watch.last_ns) >= IDLE_AFTER_NS;
            let len = watch.readings.len();
            if !is_idle || len < EVIDENCE_FILES as usize || len == watch.settled {
                continue;
            }
            self.watches[place].settled = len;
            let watch = &self.watches[place];
            let job = history.job(watch.group, watch.part);
            let (order, again) = split(&watch.readings);
            let is_new = watch.kept.as_ref().is_none_or(|kept| kept.len() < order.len());
            let is_shuffled = job.is_some_and(|job| job.workload() == Workload::Epochs);
            if is_new && is_shuffled && again.len() * 16 < order.len() {
                self.keep(place, order);
            }
        }
    }

    /// Keeps `order`, which the watch at `place` has read.
    fn keep(&mut self, place: usize, order: Vec<FileNo>) {
        let watch = &mut self.watches[place];
        let middle = order.len() / 2;
        let lately = &order[middle..(middle + PROOF).min(order.len())];
        let is_known = watch.follows.as_ref().is_some_and(|follows| {
            // The same to its end: half an epoch was kept when a job paused, or had been killed.
            middle_of(follows, lately).is_some() && follows.len() + follows.len() / 16 >= order.len()
        });
        if is_known {
            return;
        }
        let files: Arc<[FileNo]> = order.into();
        let replaced = [watch.kept.replace(files.clone()), watch.follows.take()];
        let is_replaced = |kept: &Kept| {
            let same = |old: &Arc<[FileNo]>| Arc::ptr_eq(old, &kept.files);
            replaced.iter().flatten().any(|old| same(old) && old.len() <= files.len())
        };
        self.kept.retain(|kept| !is_replaced(kept));
        let (part, run) = (watch.part, watch.run);
        watch.follows = Some(files.clone());
        if self.kept.iter().filter(|kept| kept.run == run).count() < RUN_MAX {
            self.kept.push(Kept { part, run, files });
            self.was_of_use(run);
            self.has_news = true;
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        while self.kept_bytes() > self.bytes_max {
            let Some(oldest) = self.kept.first().map(|kept| kept.run) else { return };
            let last = self.kept.iter().rposition(|kept| kept.run == oldest);
            self.kept.remove(last.unwrap_or(0));
            self.has_news = true;
        }
    }

    fn kept_bytes(&self) -> usize {
        self.kept.iter().map(|kept| size_of_val(&kept.files[..])).sum()
    }

    /// Orders that are being read again, found since it was last asked.
    pub fn take_recalled(&mut self) -> Vec<Recalled> {
        std::mem::take(&mut self.recalled)
    }

    /// Whether the kept orders are others than when it was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// The kept orders.
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        let noted = self.watches.iter().map(|watch| watch.readings.capacity() * size_of::<FileNo>());
        self.kept_bytes() + noted.sum::<usize>()
    }
}

/// Each file once, and those that came again, both as they came.
fn split(readings: &[FileNo]) -> (Vec<FileNo>, Vec<FileNo>) {
    let (mut seen, mut again) = (Marks::default(), Marks::default());
    let (mut first, mut rest) = (Vec::with_capacity(readings.len()), Vec::new());
    for &file in readings {
        if seen.insert(file) {
            first.push(file);
        } else if again.insert(file) {
            rest.push(file);
        }
    }
    (first, rest)
}

/// Where in `order` the `readings` lie, if three quarters of them lie side by side.
fn middle_of(order: &[FileNo], readings: &[FileNo]) -> Option<usize> {
    let mut wanted = Marks::default();
    readings.iter().for_each(|&file| _ = wanted.insert(file));
    let places = order.iter().enumerate().filter(|(_, file)| wanted.contains(**file)).map(|(place, _)| place);
    // In the order's order, so the middle one is the median.
    let places: Vec<usize> = places.collect();
    let middle = *places.get(places.len() / 2)?;
    let off = (order.len() / OFF_SHARE).clamp(OFF_MIN, OFF_MAX);
    let near = places.iter().filter(|place| place.abs_diff(middle) <= off).count();
    // In a small set any readings lie near each other.
    let is_small = off * 4 > order.len();
    (near * 4 >= wanted.len() as usize * 3 && !is_small).then_some(middle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::workload::{Set, jumbled, sampled, shuffled, timed};
    use super::super::{History, Touch};
    use super::*;

    struct Rig {
        history: History,
        recall: Recall,
    }

    impl Rig {
        fn new(set: &Set, bytes_max: usize) -> Self {
            Self { history: History::new(Arc::new(set.table())), recall: Recall::new(bytes_max, Vec::new()) }
        }

        /// The daemon starts again.
        fn restarted(mut self, set: &Set) -> Self {
            self.recall.settle(&self.history, 0, true);
            let kept = self.recall.kept().to_vec();
            Self { history: History::new(Arc::new(set.table())), recall: Recall::new(1 << 30, kept) }
        }

        fn read(&mut self, touches: &[Touch]) {
            for touch in touches {
                let table = self.history.table().clone();
                let part = table.part_of(table.rank(touch.file).unwrap());
                self.history.touch(touch);
                self.recall.reading((touch.group, part), touch.file, touch.at_ns, table.len());
                for summary in self.history.take_ended() {
                    self.recall.ended(&self.history, &summary);
                }
            }
        }

        /// How many readings it takes until an order is recalled, and which part of what comes then it has right.
        fn until_recalled(&mut self, touches: &[Touch]) -> Option<(usize, f64)> {
            for at in 0..touches.len() {
                self.read(&touches[at..=at]);
                if let Some(recalled) = self.recall.take_recalled().pop() {
                    let off = 512;
                    let right = touches[at + 1..].iter().enumerate().filter(|(ahead, touch)| {
                        let place = recalled.files.iter().position(|file| *file == touch.file);
                        place.is_some_and(|place| place.abs_diff(recalled.at + 16 + ahead) <= off)
                    });
                    return Some((at + 1, right.count() as f64 / (touches.len() - at - 1) as f64));
                }
            }
            None
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn the_orders_of_an_earlier_run_are_recalled_in_each_of_its_epochs(
            files in 1_000_u32..6_000, ahead in 0_usize..40, seed in 0_u64..1_000,
        ) {
            let set = Set { files, ..Set::default() };
            let run = |seed, group, jumble| {
                let epochs = (0..3).map(move |epoch| jumbled(&shuffled(&set, seed, epoch), ahead, jumble + epoch));
                epochs.map(|touches| touches.iter().map(|touch| Touch { group, ..*touch }).collect::<Vec<_>>()).collect::<Vec<_>>()
            };
            let mut rig = Rig::new(&set, 1 << 30);
            run(seed, 1, 7).iter().for_each(|epoch| rig.read(epoch));
            prop_assert_eq!(rig.recall.take_recalled().len(), 0);
            let mut rig = rig.restarted(&set);
            prop_assert_eq!(rig.recall.kept().len(), 3);
            // Other workers run ahead, and the group is another.
            for (epoch, touches) in run(seed, 2, 99).iter().enumerate() {
                let (after, right) = rig.until_recalled(touches).expect("it is the same order");
                prop_assert!(after <= if epoch == 0 { PROOF } else { 128 }, "{}", after);
                prop_assert!(right > 0.95, "{}", right);
                rig.read(&touches[after..]);
            }
            // What is known is not kept again, and another seed is another order.
            prop_assert_eq!(rig.recall.kept().len(), 3);
            for touches in run(seed + 5_000, 3, 7) {
                prop_assert!(rig.until_recalled(&touches).is_none());
            }
        }
    }

    #[test]
    fn a_list_shuffled_once_is_recalled_from_its_second_epoch_on_and_kept_once() {
        let set = Set::default();
        let mut rig = Rig::new(&set, 1 << 30);
        let files: Vec<FileNo> = shuffled(&set, 1, 0).iter().map(|touch| touch.file).collect();
        rig.read(&timed(&files, 0));
        for epoch in 1..4 {
            let touches = timed(&files, epoch * 2_000);
            let (after, right) = rig.until_recalled(&touches).expect("the same list");
            assert!(after <= 64 && right > 0.99, "{after} {right}");
            rig.read(&touches[after..]);
        }
        assert_eq!(rig.recall.kept().len(), 1);
    }

    #[test]
    fn a_job_that_resumes_is_found_in_the_middle_and_half_an_epoch_gives_way_to_the_whole() {
        let set = Set::default();
        let mut rig = Rig::new(&set, 1 << 30);
        let all = shuffled(&set, 1, 0);
        rig.read(&all[..1_200]);
        let mut rig = rig.restarted(&set);
        assert_eq!(rig.recall.kept()[0].files.len(), 1_200);
        rig.read(&all);
        let mut rig = rig.restarted(&set);
        assert_eq!((rig.recall.kept().len(), rig.recall.kept()[0].files.len()), (1, 2_000));
        let (after, right) = rig.until_recalled(&all[700..]).expect("it resumes");
        assert!(after == PROOF && right > 0.99, "{after} {right}");
    }

    #[test]
    fn walks_and_samplers_are_not_kept() {
        let set = Set::default();
        let mut rig = Rig::new(&set, 1 << 30);
        rig.read(&sampled(&set, 6_000, 3));
        rig.read(
            &timed(&set.train(), 10_000).iter().map(|touch| Touch { group: 9, ..*touch }).collect::<Vec<_>>(),
        );
        rig.recall.settle(&rig.history, 0, true);
        assert_eq!(rig.recall.kept(), []);
    }

    #[test]
    fn beyond_the_limit_the_last_epochs_of_the_run_that_was_no_use_give_way() {
        let set = Set::default();
        // Five orders of 2 000 files.
        let mut rig = Rig::new(&set, 5 * 8_000);
        let mut runs = Vec::new();
        for group in 0..3 {
            for epoch in 0..4 {
                let mut touches = shuffled(&set, 50 + u64::from(group), epoch);
                touches.iter_mut().for_each(|touch| touch.group = group);
                rig.read(&touches);
            }
            runs.push(rig.recall.kept().iter().map(|kept| kept.run).collect::<Vec<_>>());
        }
        // The fourth epoch has not ended.
        assert_eq!(runs, [vec![0, 0, 0], vec![0, 0, 1, 1, 1], vec![1, 1, 2, 2, 2]]);
    }
}
