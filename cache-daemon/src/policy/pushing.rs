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
//! - Nothing is pushed without an order that readers are seen to follow.

use std::collections::{HashMap, VecDeque};

use super::readahead::Order;
use crate::access::{FileNo, FileTable, Touch};

/// What readers take in so many seconds right ahead of them, and so many files at least, is left to them: a push would come
/// too late. It is more where pushes do come too late, for they wait for each other.
const LEAD_S: f64 = 0.05;
const LEAD_S_MAX: f64 = 1.0;
const LEAD_MIN: usize = 16;

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

/// What became of what was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PushCounts {
    /// Files put into the page cache.
    pub pushed: u64,
    /// Files of which something could not be.
    pub failed: u64,
    /// Files read after they were pushed.
    pub used: u64,
    /// Files dropped.
    pub dropped: u64,
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
#[derive(Debug)]
pub struct Pushing {
    held: HashMap<FileNo, State>,
    /// In the order in which their ends were reached.
    read: VecDeque<FileNo>,
    /// On their way from the origin.
    fetches: usize,
    /// Bytes on their way.
    coming_bytes: u64,
    /// Some of the orders' files have to come from there.
    has_fetched: bool,
    lead_s: f64,
    /// Bytes of a file, on the average of late.
    file_bytes: f64,
    /// Pushes since the last plan, and those of them that came after their reader.
    came: u32,
    late: u32,
    counts: PushCounts,
}

impl Default for Pushing {
    fn default() -> Self {
        Self {
            held: HashMap::new(),
            read: VecDeque::new(),
            fetches: 0,
            coming_bytes: 0,
            has_fetched: false,
            lead_s: LEAD_S,
            file_bytes: 0.0,
            came: 0,
            late: 0,
            counts: PushCounts::default(),
        }
    }
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
    pub fn pushed(&mut self, file: FileNo, is_there: bool) {
        self.came(file);
        if is_there {
            self.counts.pushed += 1;
            self.came += 1;
            match self.held.get_mut(&file) {
                Some(state @ State::Coming { .. }) => *state = State::Unread,
                _ => self.late += 1,
            }
        } else {
            self.counts.failed += 1;
            self.backed(file);
        }
    }

    /// Nothing of the file was pushed: the kernel reads it from elsewhere.
    pub fn backed(&mut self, file: FileNo) {
        self.came(file);
        if matches!(self.held.get(&file), Some(State::Coming { .. })) {
            self.held.remove(&file);
        }
    }

    fn came(&mut self, file: FileNo) {
        if let Some(State::Coming { is_fetch, bytes }) = self.held.get_mut(&file) {
            self.fetches -= usize::from(std::mem::take(is_fetch));
            self.coming_bytes -= std::mem::take(bytes);
        }
    }

    /// Something that was to be dropped is gone.
    pub fn dropped(&mut self) {
        self.counts.dropped += 1;
    }

    /// An epoch has ended, and `orders` are still followed: what was pushed for another, and not read, makes room when others want it.
    pub fn ended(&mut self, orders: &[&mut Order], now_ns: u64) {
        let unread = self.held.iter_mut().filter(|(_, state)| matches!(state, State::Unread));
        for (file, state) in unread {
            if !orders.iter().any(|order| order.is_ahead(*file)) {
                *state = State::Read(now_ns);
                self.read.push_back(*file);
            }
        }
    }

    /// What to do now, for `orders` that readers follow. `is_at` tells where a file is.
    pub fn plan(
        &mut self,
        orders: &mut [&mut Order],
        table: &FileTable,
        room: &Room,
        is_at: &dyn Fn(FileNo) -> Whereabouts,
    ) -> Vec<PushCommand> {
        let mut commands = Vec::new();
        let mut free_bytes = room.free_bytes.saturating_sub(self.coming_bytes);
        if !room.sees_all {
            orders.iter().for_each(|order| self.pass_by(order, room.now_ns));
        }
        self.adapt_lead();
        if self.has_fetched {
            // The budget is what limits how far ahead files can be fetched.
            self.make_room(room, &mut commands);
        }
        let (mut turn, mut tired) = (0, 0);
        while tired < orders.len() && commands.len() < room.commands {
            let order = &mut *orders[turn % orders.len()];
            turn += 1;
            let Some((file, bytes)) = self.next_of(order, table, room) else {
                tired += 1;
                continue;
            };
            if bytes > free_bytes {
                order.unpush();
                self.make_room(room, &mut commands);
                break;
            }
            let is_fetch = match is_at(file) {
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
            self.file_bytes += (bytes as f64 - self.file_bytes) / 64.0;
            self.held.insert(file, State::Coming { is_fetch, bytes });
            commands.push(PushCommand::Push(file));
        }
        commands
    }

    fn adapt_lead(&mut self) {
        let (came, late) = (std::mem::take(&mut self.came), std::mem::take(&mut self.late));
        if late * 4 > came {
            self.lead_s = (self.lead_s * 1.25).min(LEAD_S_MAX);
        } else if came > 0 && late * 20 < came {
            self.lead_s = (self.lead_s * 0.98).max(LEAD_S);
        }
    }

    /// The next file of `order` that is not held, and its bytes in whole pages.
    fn next_of(&self, order: &mut Order, table: &FileTable, room: &Room) -> Option<(FileNo, u64)> {
        // What lies far ahead takes room for long: a quarter of the budget at most.
        let lead_max = room.budget_bytes as f64 / 4.0 / self.file_bytes.max(1.0);
        let lead = ((room.files_per_s * self.lead_s).min(lead_max) as usize).max(LEAD_MIN);
        loop {
            let (place, file) = order.next_push(lead)?;
            let is_mark = !room.sees_all && place % MARK_EVERY == 0;
            let Some(rank) = table.rank(file) else { continue };
            if !is_mark && !self.held.contains_key(&file) {
                return Some((file, table.size_bytes(rank).next_multiple_of(room.page_bytes)));
            }
        }
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
            for command in self.pushing.plan(&mut [&mut self.order], &self.table, &room, &is_at) {
                match command {
                    PushCommand::Push(file) => {
                        assert!(self.cached.insert(file), "pushed twice");
                        self.pushing.pushed(file, true);
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
        let mut rig = Rig::new(&set, 1_000, true);
        let touches = shuffled(&set, 1, 0);
        touches[..40].iter().for_each(|touch| rig.order.reading(touch.file, touch.reader));
        let room = Room {
            now_ns: 0,
            free_bytes: 1 << 30,
            page_bytes: 4096,
            commands: 500,
            fetches: 3,
            files_per_s: 0.0,
            budget_bytes: 1 << 30,
            sees_all: true,
        };
        let mut plan =
            |is_at: Whereabouts| rig.pushing.plan(&mut [&mut rig.order], &rig.table, &room, &|_| is_at);
        assert_eq!(plan(Whereabouts::Awaited), []);
        let commands = plan(Whereabouts::Origin);
        assert_eq!((commands.len(), plan(Whereabouts::Origin).len()), (3, 0));
        let PushCommand::Push(file) = commands[0] else { panic!("{commands:?}") };
        rig.pushing.pushed(file, false);
        let more = rig.pushing.plan(&mut [&mut rig.order], &rig.table, &room, &|_| Whereabouts::Origin);
        assert_eq!(more.len(), 1);
    }

    #[test]
    fn pushes_that_come_too_late_are_begun_farther_ahead() {
        let set = Set { files: 20_000, ..Set::default() };
        let mut rig = Rig::new(&set, 10_000, true);
        let touches = shuffled(&set, 1, 0);
        let room =
            Room { files_per_s: 5_000.0, commands: 100, free_bytes: 1 << 40, budget_bytes: 1 << 40, ..ROOM };
        let mut waiting: VecDeque<Vec<PushCommand>> = VecDeque::new();
        let mut hits = 0;
        for (turn, touches) in touches.chunks(100).enumerate() {
            for touch in touches {
                hits += usize::from(rig.cached.contains(&touch.file) && turn >= 100);
                rig.order.reading(touch.file, touch.reader);
                rig.pushing.touched(touch);
            }
            // What is asked for now is there ten turns later, a fifth of a second.
            let here = |_: FileNo| Whereabouts::Here;
            waiting.push_back(rig.pushing.plan(&mut [&mut rig.order], &rig.table, &room, &here));
            if waiting.len() > 10 {
                for command in waiting.pop_front().into_iter().flatten() {
                    let PushCommand::Push(file) = command else { panic!("there is room") };
                    rig.cached.insert(file);
                    rig.pushing.pushed(file, true);
                }
            }
        }
        assert!(hits > 9_000, "{hits} of the last 10 000");
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
    fn nothing_is_pushed_before_the_order_is_proven_and_nothing_unread_is_dropped() {
        let set = Set::default();
        let mut rig = Rig::new(&set, 100, true);
        rig.plan(0);
        assert!(rig.cached.is_empty());
        rig.read(&shuffled(&set, 1, 0)[..40]);
        assert_eq!(rig.cached.len(), 100);
        rig.plan(10 * QUIET_NS);
        assert_eq!((rig.cached.len(), rig.pushing.counts().dropped), (100, 0));
        rig.pushing.ended(&[&mut rig.order], 10 * QUIET_NS);
        assert_eq!(rig.unread(), 100);
        rig.pushing.ended(&[], 10 * QUIET_NS);
        assert_eq!(rig.unread(), 0);
    }
}
