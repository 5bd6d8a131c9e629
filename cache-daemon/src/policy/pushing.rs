//! Pushing: which files of a known order to put into the kernel's page cache, and which to take out of it.
//!
//! Of the orders that readers follow, what comes next is pushed just ahead of them, so that it costs them no request; what they
//! have read makes room for it, once it has been quiet for a while and as soon as its room is wanted, the file that was
//! read first going first. What is stored nowhere is fetched for it: a full store keeps what it has, and what it
//! has no room for is staged in the page cache.
//!
//! Invariants
//! - Unread pages and those on their way never exceed the budget that the pusher counts.
//! - A file is pushed once an epoch; nothing that was pushed is dropped before it was read or passed by.
//! - Nothing is pushed without an order, and little before readers are seen to follow it.

use std::collections::{HashMap, VecDeque};

use super::readahead::Order;
use crate::access::{FileNo, FileTable, Touch};

/// Readings are known so much later: events wait for whoever takes them, and then for a plan.
const KNOWN_AFTER_S: f64 = 0.02;

/// What readers take while one push takes its time, and so many files at least, is left to them: a push would come too late.
const LEAD_S_MAX: f64 = 1.0;
const LEAD_MIN: usize = 16;

/// How quickly the time of a push is taken for longer, and for shorter: it is as nearly all take at most.
const LONGER: f64 = 1.0 / 8.0;
const SHORTER: f64 = 1.0 / 64.0;

/// How many such times the lead is. Each push that comes too late raises it, each other lowers it, so that one in 21 is late.
const MARGIN_MIN: f64 = 1.5;
const MARGIN_MAX: f64 = 8.0;
const RAISED: f64 = 0.02;
const LOWERED: f64 = 0.001;

/// Files that a reader has left alone for so long are not read any more: PIL reads 4 KiB first, and then the rest.
const QUIET_NS: u64 = 20_000_000;

/// Where cached reads are not seen, one file in so many is not pushed, so that its request marks the progress.
pub const MARK_EVERY: usize = 16;

/// What is to be done to the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushCommand {
    /// Put all of the file in.
    Push(FileNo),
    /// Take it out.
    Drop(FileNo),
}

/// Where a file's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// Stored, or on their way.
    Here,
    /// At the origin, and nothing else will fetch them before their reader.
    Origin,
    /// At the origin, and they will be fetched ahead into the store.
    Awaited,
}

/// How the page cache stands.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Monotonic clock, ns.
    pub now_ns: u64,
    /// Bytes of the budget that nothing pushed takes...
    pub free_bytes: u64,
    /// ...and of the budget itself.
    pub budget_bytes: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Commands that may be given now.
    pub commands: usize,
    /// Files that may be on their way from the origin for a push.
    pub fetches: usize,
    /// Files a second that the readers take.
    pub files_per_s: f64,
    /// Cached reads are seen.
    pub sees_all: bool,
}

/// What is known of files.
pub struct Files<'a> {
    /// All of them.
    pub table: &'a FileTable,
    /// Where its bytes are.
    pub is_at: &'a dyn Fn(FileNo) -> Whereabouts,
    /// Whether all of a file of so many bytes is in the page cache; `None` where nobody counts.
    pub is_cached: &'a dyn Fn(FileNo, u64) -> Option<bool>,
}

/// What became of what was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PushCounts {
    /// Files put into the page cache.
    pub pushed: u64,
    /// Files of which something could not be.
    pub failed: u64,
    /// Files read after they were pushed.
    pub used: u64,
    /// Files that their readers asked for first.
    pub late: u64,
    /// Files dropped.
    pub dropped: u64,
    /// Files that the kernel had taken out again when they were wanted.
    pub reclaimed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// On its way: whether from the origin, and its bytes, which the pusher does not count yet.
    Coming {
        is_fetch: bool,
        bytes: u64,
    },
    Unread,
    /// Its readers have reached its end; when they last touched it.
    Read(u64),
}

/// Decides what is pushed and dropped.
#[derive(Debug, Default)]
pub struct Pushing {
    held: HashMap<FileNo, State>,
    /// When a push was asked for that has not come yet, also of a file that was read meanwhile.
    asked_ns: HashMap<FileNo, u64>,
    /// In the order in which their ends were reached.
    read: VecDeque<FileNo>,
    /// On their way from the origin.
    fetches: usize,
    /// Bytes on their way.
    coming_bytes: u64,
    /// Some of the orders' files have to come from there.
    has_fetched: bool,
    /// From the command to a push until the file is there, of nearly all.
    push_s: f64,
    margin: f64,
    /// Bytes of a file, on the average of late.
    file_bytes: f64,
    counts: PushCounts,
}

impl Pushing {
    /// A file was touched.
    pub fn touched(&mut self, touch: &Touch) {
        match self.held.get_mut(&touch.file) {
            Some(State::Read(at_ns)) => *at_ns = touch.at_ns,
            Some(state) if touch.ends => {
                if let State::Coming { is_fetch, bytes } = state {
                    self.fetches -= usize::from(*is_fetch);
                    self.coming_bytes -= *bytes;
                }
                // One that was on its way came too late: its reader asked for it.
                self.counts.used += u64::from(*state == State::Unread);
                *state = State::Read(touch.at_ns);
                self.read.push_back(touch.file);
            }
            _ => {}
        }
    }

    /// A file is in the page cache, or could not be put there.
    pub fn pushed(&mut self, file: FileNo, is_there: bool, now_ns: u64) {
        self.came(file, now_ns);
        if is_there {
            self.counts.pushed += 1;
            let coming = self.held.get_mut(&file).filter(|state| matches!(state, State::Coming { .. }));
            let is_late = coming.is_none();
            coming.into_iter().for_each(|state| *state = State::Unread);
            self.judge(is_late);
        } else {
            self.counts.failed += 1;
            self.backed(file);
        }
    }

    fn came(&mut self, file: FileNo, now_ns: u64) {
        if let Some(asked_ns) = self.asked_ns.remove(&file) {
            let longer_s = now_ns.saturating_sub(asked_ns) as f64 / 1e9 - self.push_s;
            self.push_s += longer_s * if longer_s > 0.0 { LONGER } else { SHORTER };
        }
        self.left(file);
    }

    /// Nothing of the file was pushed: its reader asked for it first.
    pub fn too_late(&mut self, file: FileNo, now_ns: u64) {
        self.came(file, now_ns);
        self.counts.late += 1;
        self.judge(true);
        self.backed(file);
    }

    fn judge(&mut self, is_late: bool) {
        let margin = self.margin + if is_late { RAISED } else { -LOWERED };
        self.margin = margin.clamp(MARGIN_MIN, MARGIN_MAX);
    }

    /// Nothing of the file was pushed: the kernel reads it from elsewhere.
    pub fn backed(&mut self, file: FileNo) {
        self.asked_ns.remove(&file);
        self.left(file);
        if matches!(self.held.get(&file), Some(State::Coming { .. })) {
            self.held.remove(&file);
        }
    }

    /// It is not on its way any more.
    fn left(&mut self, file: FileNo) {
        if let Some(State::Coming { is_fetch, bytes }) = self.held.get_mut(&file) {
            self.fetches -= usize::from(std::mem::take(is_fetch));
            self.coming_bytes -= std::mem::take(bytes);
        }
    }

    /// Something that was to be dropped is gone.
    pub fn dropped(&mut self) {
        self.counts.dropped += 1;
    }

    /// An epoch has ended, and there are `orders` still: what was pushed for another, and not read, makes room when others want it.
    pub fn ended(&mut self, orders: &[&mut Order], now_ns: u64) {
        self.has_fetched = false;
        let unread = self.held.iter_mut().filter(|(_, state)| matches!(state, State::Unread));
        for (file, state) in unread {
            if !orders.iter().any(|order| order.is_ahead(*file)) {
                *state = State::Read(now_ns);
                self.read.push_back(*file);
            }
        }
    }

    /// What to do now, for `orders`.
    pub fn plan(&mut self, orders: &mut [&mut Order], files: &Files<'_>, room: &Room) -> Vec<PushCommand> {
        let mut commands = Vec::new();
        let mut free_bytes = room.free_bytes.saturating_sub(self.coming_bytes);
        if !room.sees_all {
            orders.iter().for_each(|order| self.pass_by(order, room.now_ns));
        }
        if self.has_fetched {
            // The budget is what limits how far ahead files can be fetched.
            self.make_room(room, &mut commands);
        }
        let (mut turn, mut tired) = (0, 0);
        while tired < orders.len() && commands.len() < room.commands {
            let order = &mut *orders[turn % orders.len()];
            turn += 1;
            let Some((file, bytes)) = self.next_of(order, files, room) else {
                tired += 1;
                continue;
            };
            if bytes > free_bytes {
                order.unpush();
                self.make_room(room, &mut commands);
                break;
            }
            let is_fetch = match (files.is_at)(file) {
                // Half of the budget is for what a READ would wait for.
                Whereabouts::Here if self.has_fetched && free_bytes < room.budget_bytes / 2 => continue,
                Whereabouts::Here => false,
                Whereabouts::Origin if self.fetches < room.fetches => true,
                Whereabouts::Origin | Whereabouts::Awaited => {
                    order.unpush();
                    tired += 1;
                    continue;
                }
            };
            free_bytes -= bytes;
            tired = 0;
            self.fetches += usize::from(is_fetch);
            self.has_fetched |= is_fetch;
            self.coming_bytes += bytes;
            let averaged = if self.file_bytes == 0.0 { 1.0 } else { 64.0 };
            self.file_bytes += (bytes as f64 - self.file_bytes) / averaged;
            self.held.insert(file, State::Coming { is_fetch, bytes });
            self.asked_ns.insert(file, room.now_ns);
            commands.push(PushCommand::Push(file));
        }
        commands
    }

    /// The next file of `order` that is not in the page cache, and its bytes in whole pages.
    fn next_of(&mut self, order: &mut Order, files: &Files<'_>, room: &Room) -> Option<(FileNo, u64)> {
        // What lies far ahead takes room for long: a quarter of the budget at most.
        let ahead_max = (room.budget_bytes as f64 / 4.0 / self.file_bytes.max(1.0)) as usize;
        let lead_s = ((KNOWN_AFTER_S + self.push_s) * self.margin.max(MARGIN_MIN)).min(LEAD_S_MAX);
        let lead = ((room.files_per_s * lead_s) as usize).min(ahead_max).max(LEAD_MIN);
        loop {
            let (place, file) = order.next_push(lead, ahead_max)?;
            let is_mark = !room.sees_all && place % MARK_EVERY == 0;
            let Some(rank) = files.table.rank(file).filter(|_| !is_mark) else { continue };
            let bytes = files.table.size_bytes(rank);
            if !self.is_held(file, bytes, files) {
                return Some((file, bytes.next_multiple_of(room.page_bytes)));
            }
        }
    }

    /// Whether `file` is there or on its way. The kernel may have reclaimed what was pushed.
    fn is_held(&mut self, file: FileNo, bytes: u64, files: &Files<'_>) -> bool {
        let is_there = match self.held.get(&file) {
            None => return false,
            Some(State::Coming { .. }) => true,
            Some(State::Unread | State::Read(_)) => (files.is_cached)(file, bytes) != Some(false),
        };
        if !is_there {
            self.held.remove(&file);
            self.counts.reclaimed += 1;
        }
        is_there
    }

    /// Drops what was read and has been quiet, all of it: once room is wanted, it will be again.
    fn make_room(&mut self, room: &Room, commands: &mut Vec<PushCommand>) {
        while commands.len() < room.commands {
            let Some(&file) = self.read.front() else { return };
            match self.held.get(&file) {
                Some(State::Read(at_ns)) if room.now_ns.saturating_sub(*at_ns) < QUIET_NS => return,
                Some(State::Read(_)) => {
                    commands.push(PushCommand::Drop(file));
                    self.held.remove(&file);
                }
                _ => {}
            }
            self.read.pop_front();
        }
    }

    /// Where cached reads are not seen, what lies well behind the readers was read.
    fn pass_by(&mut self, order: &Order, now_ns: u64) {
        let behind = order.behind();
        let passed = self.held.iter_mut().filter(|(file, state)| {
            **state == State::Unread && order.place(**file).is_some_and(|place| place < behind)
        });
        for (file, state) in passed {
            *state = State::Read(now_ns);
            self.read.push_back(*file);
            self.counts.used += 1;
        }
    }

    /// What became of what was pushed.
    pub fn counts(&self) -> PushCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::readahead::Purpose;
    use super::*;
    use crate::access::workload::{Set, jumbled, shuffled};

    const FILE_BYTES: u64 = 102_400;

    /// A page cache that holds what it is told.
    struct Rig {
        pushing: Pushing,
        order: Order,
        table: FileTable,
        cached: HashSet<FileNo>,
        budget_bytes: u64,
        sees_all: bool,
        /// Every so many files is stored nowhere.
        absent_every: u32,
    }

    impl Rig {
        fn new(set: &Set, budget_files: u64, sees_all: bool) -> Self {
            let files = shuffled(set, 1, 0).into_iter().map(|touch| touch.file);
            let mut order = Order::new(Purpose::Told, files);
            order.set_seen_every(if sees_all { 1 } else { MARK_EVERY });
            Self {
                pushing: Pushing::default(),
                order,
                table: set.table(),
                cached: HashSet::new(),
                budget_bytes: budget_files * FILE_BYTES,
                sees_all,
                absent_every: u32::MAX,
            }
        }

        fn unread(&self) -> usize {
            self.pushing.held.values().filter(|state| !matches!(state, State::Read(_))).count()
        }

        fn plan(&mut self, now_ns: u64) {
            let free_bytes = self.budget_bytes - self.cached.len() as u64 * FILE_BYTES;
            let room = Room {
                now_ns,
                free_bytes,
                page_bytes: 4096,
                commands: 512,
                fetches: 40,
                files_per_s: 1_000.0,
                budget_bytes: self.budget_bytes,
                sees_all: self.sees_all,
            };
            let absent_every = self.absent_every;
            let is_at = |file: FileNo| match file.0 % absent_every {
                0 => Whereabouts::Origin,
                _ => Whereabouts::Here,
            };
            let cached = self.cached.clone();
            let is_cached = |file: FileNo, _: u64| Some(cached.contains(&file));
            let files = Files { table: &self.table, is_at: &is_at, is_cached: &is_cached };
            for command in self.pushing.plan(&mut [&mut self.order], &files, &room) {
                match command {
                    PushCommand::Push(file) => {
                        assert!(self.cached.insert(file), "pushed twice");
                        self.pushing.pushed(file, true, now_ns);
                    }
                    PushCommand::Drop(file) => {
                        assert!(self.cached.remove(&file), "dropped what was not there");
                        self.pushing.dropped();
                    }
                }
            }
            assert!(self.cached.len() as u64 * FILE_BYTES <= self.budget_bytes);
        }

        /// Reads, a reading a millisecond, and plans every 20 of them; how many found their file in the page cache, and how many
        /// of those that are stored nowhere did not.
        fn read(&mut self, touches: &[Touch]) -> (usize, usize) {
            let (mut hits, mut fetched) = (0, 0);
            for (at, touch) in touches.iter().enumerate() {
                let is_hit = self.cached.contains(&touch.file);
                hits += usize::from(is_hit);
                fetched += usize::from(!is_hit && touch.file.0 % self.absent_every == 0);
                if self.sees_all || !is_hit {
                    self.order.reading(touch.file, touch.reader);
                    self.pushing.touched(touch);
                }
                if at % 20 == 19 {
                    self.plan(touch.at_ns);
                }
            }
            (hits, fetched)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn nearly_all_of_an_order_is_there_before_its_readers_within_any_budget(
            files in 2_000_u32..8_000, budget_files in 600_u64..2_000, ahead in 0_usize..64, seed: u64,
        ) {
            let set = Set { files, ..Set::default() };
            let mut rig = Rig::new(&set, budget_files, true);
            let (hits, _) = rig.read(&jumbled(&shuffled(&set, 1, 0), ahead, seed));
            // The first ones prove it, and those that lie right behind them are left to their readers.
            prop_assert!(hits as u32 + 200 >= files, "{} of {}", hits, files);
            let counts = rig.pushing.counts();
            prop_assert!(counts.used + 300 >= counts.pushed && counts.failed == 0, "{:?}", counts);
        }

        #[test]
        fn what_is_stored_nowhere_is_there_before_its_readers_in_a_small_budget(
            files in 2_000_u32..8_000, budget_files in 150_u64..500, seed: u64,
        ) {
            let set = Set { files, ..Set::default() };
            let mut rig = Rig { absent_every: 2, ..Rig::new(&set, budget_files, true) };
            let (_, fetched) = rig.read(&jumbled(&shuffled(&set, 1, 0), 16, seed));
            prop_assert!(fetched < 100, "{} of {}", fetched, files / 2);
        }

        #[test]
        fn where_cached_reads_are_not_seen_the_marks_tell_the_progress(files in 3_000_u32..8_000, seed: u64) {
            let set = Set { files, ..Set::default() };
            let mut rig = Rig::new(&set, 2_500, false);
            let (hits, _) = rig.read(&jumbled(&shuffled(&set, 1, 0), 32, seed));
            prop_assert!(hits as f64 > f64::from(files) * 0.75, "{} of {}", hits, files);
        }
    }

    #[test]
    fn what_will_be_fetched_ahead_is_awaited_and_so_many_are_fetched_for_a_push() {
        let set = Set::default();
        let Rig { mut pushing, mut order, table, .. } = Rig::new(&set, 1_000, true);
        shuffled(&set, 1, 0)[..40].iter().for_each(|touch| order.reading(touch.file, touch.reader));
        let room = Room { free_bytes: 1 << 30, budget_bytes: 1 << 30, fetches: 3, ..ROOM };
        let mut plan = |pushing: &mut Pushing, is_at: Whereabouts| {
            let files = Files { table: &table, is_at: &|_| is_at, is_cached: &|_, _| None };
            pushing.plan(&mut [&mut order], &files, &room)
        };
        assert_eq!(plan(&mut pushing, Whereabouts::Awaited), []);
        let commands = plan(&mut pushing, Whereabouts::Origin);
        assert_eq!((commands.len(), plan(&mut pushing, Whereabouts::Origin).len()), (3, 0));
        let PushCommand::Push(file) = commands[0] else { panic!("{commands:?}") };
        pushing.pushed(file, false, 0);
        assert_eq!(plan(&mut pushing, Whereabouts::Origin).len(), 1);
    }

    #[test]
    fn pushes_that_take_long_are_begun_farther_ahead() {
        let set = Set { files: 20_000, ..Set::default() };
        let Rig { mut pushing, mut order, table, mut cached, .. } = Rig::new(&set, 10_000, true);
        let mut waiting: VecDeque<Vec<PushCommand>> = VecDeque::new();
        let mut hits = 0;
        for (turn, touches) in shuffled(&set, 1, 0).chunks(100).enumerate() {
            let room = Room {
                now_ns: turn as u64 * 20_000_000,
                files_per_s: 5_000.0,
                commands: 100,
                free_bytes: 1 << 40,
                budget_bytes: 1 << 40,
                ..ROOM
            };
            for touch in touches {
                hits += usize::from(cached.contains(&touch.file) && turn >= 100);
                order.reading(touch.file, touch.reader);
                pushing.touched(touch);
            }
            // What is asked for now is there ten turns later, a fifth of a second.
            let files = Files { table: &table, is_at: &|_| Whereabouts::Here, is_cached: &|_, _| None };
            waiting.push_back(pushing.plan(&mut [&mut order], &files, &room));
            if waiting.len() > 10 {
                for command in waiting.pop_front().into_iter().flatten() {
                    let PushCommand::Push(file) = command else { panic!("there is room") };
                    cached.insert(file);
                    pushing.pushed(file, true, room.now_ns);
                }
            }
        }
        assert!(hits > 9_000, "{hits} of the last 10 000");
    }

    #[test]
    fn what_the_kernel_reclaimed_is_pushed_again() {
        let set = Set { files: 4_000, ..Set::default() };
        let mut rig = Rig::new(&set, 10_000, true);
        rig.read(&shuffled(&set, 1, 0));
        rig.cached.clear();
        let touches = shuffled(&set, 1, 1);
        rig.order = Order::new(Purpose::Told, touches.iter().map(|touch| touch.file));
        let (hits, _) = rig.read(&touches);
        assert!(hits > 3_800, "{hits} of 4 000");
        assert!(rig.pushing.counts().reclaimed > 3_500, "{:?}", rig.pushing.counts());
    }

    #[test]
    fn what_is_still_there_of_an_earlier_epoch_is_not_pushed_again() {
        let set = Set { files: 4_000, ..Set::default() };
        let mut rig = Rig::new(&set, 10_000, true);
        rig.read(&shuffled(&set, 1, 0));
        let pushed = rig.pushing.counts().pushed;
        let touches = shuffled(&set, 1, 1);
        rig.order = Order::new(Purpose::Told, touches.iter().map(|touch| touch.file));
        rig.read(&touches);
        assert!(rig.pushing.counts().pushed - pushed < 200, "{:?}", rig.pushing.counts());
    }

    const ROOM: Room = Room {
        now_ns: 0,
        free_bytes: 0,
        budget_bytes: 0,
        page_bytes: 4096,
        commands: 512,
        fetches: 40,
        files_per_s: 0.0,
        sees_all: true,
    };

    #[test]
    fn little_is_pushed_before_the_order_is_proven_and_nothing_unread_is_dropped() {
        let set = Set::default();
        let mut rig = Rig::new(&set, 100, true);
        rig.plan(0);
        assert_eq!(rig.cached.len(), 25, "a quarter of the budget");
        let touches = shuffled(&set, 1, 0);
        let (hits, _) = rig.read(&touches[..40]);
        assert!(hits >= 20, "{hits}: the first readers find theirs");
        assert!(rig.cached.len() >= 75, "{}", rig.cached.len());
        let unread = rig.unread();
        rig.plan(10 * QUIET_NS);
        assert!(rig.unread() >= unread, "what is read makes room, and nothing else does");
        rig.pushing.ended(&[&mut rig.order], 10 * QUIET_NS);
        assert!(rig.unread() >= unread);
        rig.pushing.ended(&[], 10 * QUIET_NS);
        assert_eq!(rig.unread(), 0);
    }

    #[test]
    fn an_order_that_nobody_follows_is_pushed_no_farther() {
        let set = Set { files: 20_000, ..Set::default() };
        let mut rig = Rig::new(&set, 10_000, true);
        (0..100).for_each(|turn| rig.plan(turn * QUIET_NS));
        assert_eq!(rig.cached.len(), 1_024, "{:?}", rig.pushing.counts());
        let other = shuffled(&set, 1, 1);
        rig.read(&other[..2_000]);
        assert!(rig.cached.len() < 1_200, "{}", rig.cached.len());
    }
}
