//! Readahead against jobs whose readings are made up: what it asks for, and when it does not.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::access::workload::{Set, shuffled, timed};

const LIMITS: Limits =
    Limits { mode: Mode::Auto, requests_max: 64, bytes_max: 64 << 20, bytes_per_hour_max: None };

/// A planner with a store that takes everything, and remembers what it was asked for.
struct Rig {
    history: History,
    readahead: Readahead,
    stored: HashSet<FileNo>,
    now_ns: u64,
    room_bytes: u64,
}

impl Rig {
    fn new(set: &Set, limits: Limits) -> Self {
        Self {
            history: History::new(Arc::new(set.table())),
            readahead: Readahead::new(limits),
            stored: HashSet::new(),
            now_ns: 0,
            room_bytes: u64::MAX,
        }
    }

    fn read(&mut self, touches: &[Touch]) {
        for touch in touches {
            self.history.touch(touch);
            self.readahead.touched(&self.history, touch);
            self.stored.insert(touch.file);
            self.now_ns = self.now_ns.max(touch.at_ns);
        }
        for summary in self.history.take_ended() {
            self.readahead.ended(&self.history, &summary);
        }
    }

    fn plan(&mut self) -> Plan {
        self.now_ns += 20_000_000;
        let sample = Sample { fetched: 20, latency_us: 400_000, refused: 0 };
        let now =
            Situation { now_ns: self.now_ns, sample, room_bytes: self.room_bytes, ..Situation::default() };
        self.readahead.plan(&self.history, &now, &mut |file| !self.stored.contains(&file))
    }

    /// Plans, and fetches what is planned; the commands.
    fn step(&mut self) -> Vec<Prefetch> {
        let commands = self.plan().prefetch;
        for command in &commands {
            let outcome = if self.stored.insert(command.file) { Outcome::Fetched } else { Outcome::Needless };
            self.room_bytes -= command.bytes;
            self.readahead.done(&self.history, command, outcome);
        }
        commands
    }
}

#[test]
fn a_few_files_pull_in_nothing_and_a_walk_neither() {
    let set = Set::default();
    let mut rig = Rig::new(&set, LIMITS);
    rig.read(&shuffled(&set, 1, 0)[..199]);
    let plan = rig.plan();
    assert_eq!((plan.prefetch, plan.activity), (vec![], Activity::Idle));
    let mut rig = Rig::new(&set, LIMITS);
    rig.read(&timed(&set.train(), 0));
    assert_eq!(rig.plan().prefetch, []);
}

#[test]
fn everything_that_was_not_read_is_fetched_once_and_then_it_is_done() {
    let set = Set { val_files: 100, ..Set::default() };
    let mut rig = Rig::new(&set, LIMITS);
    let epoch = shuffled(&set, 1, 0);
    rig.read(&epoch[..200]);
    let mut asked = HashSet::new();
    for _ in 0..200 {
        for command in rig.step() {
            assert!(asked.insert(command.file), "{command:?} twice");
        }
    }
    let expected: HashSet<FileNo> = epoch[200..].iter().map(|touch| touch.file).collect();
    assert!(asked == expected, "{} of {}", asked.len(), expected.len());
    assert_eq!(rig.plan().activity, Activity::Done);
    rig.read(&epoch[200..]);
    rig.read(&shuffled(&set, 1, 1));
    let counts = rig.readahead.counts();
    assert_eq!((counts.fetched, counts.used, counts.wasted, counts.unread), (1_800, 1_800, 0, 0));
}

#[test]
fn it_stops_half_a_minute_after_the_readers() {
    let set = Set::default();
    let mut rig = Rig::new(&set, LIMITS);
    rig.read(&shuffled(&set, 1, 0)[..300]);
    assert_ne!(rig.step(), []);
    rig.now_ns += IDLE_AFTER_NS;
    assert_eq!((rig.step(), rig.plan().activity), (vec![], Activity::Idle));
    rig.read(&[Touch { at_ns: rig.now_ns, ..shuffled(&set, 1, 0)[300] }]);
    assert_ne!(rig.step(), []);
}

#[test]
fn what_was_fetched_for_an_epoch_that_did_not_read_it_is_counted_as_wasted() {
    let set = Set::default();
    let mut rig = Rig::new(&set, LIMITS);
    let half: Vec<Touch> = shuffled(&set, 1, 0).into_iter().filter(|touch| touch.file.0 % 2 == 0).collect();
    rig.read(&half[..400]);
    (0..200).for_each(|_| drop(rig.step()));
    rig.read(&half[400..]);
    let again: Vec<Touch> = shuffled(&set, 1, 1).into_iter().filter(|touch| touch.file.0 % 2 == 0).collect();
    rig.read(&again);
    let counts = rig.readahead.counts();
    assert_eq!((counts.fetched, counts.used, counts.wasted, counts.unread), (1_600, 600, 1_000, 0));
}

#[test]
fn what_failed_is_tried_again_later() {
    let set = Set { files: 400, ..Set::default() };
    let mut rig = Rig::new(&set, LIMITS);
    rig.read(&shuffled(&set, 1, 0)[..300]);
    let mut tries = 0;
    for _ in 0..1_000 {
        for command in rig.plan().prefetch {
            tries += 1;
            rig.readahead.done(&rig.history, &command, Outcome::Failed);
        }
    }
    // In 20 s: all hundred at once, then pauses of 5 and 10 s.
    assert!((101..=400).contains(&tries), "{tries}");
    let before = tries;
    rig.now_ns += 60_000_000_000;
    rig.read(&[Touch { at_ns: rig.now_ns, ..shuffled(&set, 1, 0)[299] }]);
    assert!((0..200).map(|_| rig.step().len()).sum::<usize>() == 100, "after {before}");
}

#[test]
fn nothing_is_fetched_that_the_user_does_not_want() {
    for mode in [Mode::Off, Mode::Told] {
        let set = Set::default();
        let mut rig = Rig::new(&set, Limits { mode, ..LIMITS });
        rig.read(&shuffled(&set, 1, 0)[..500]);
        assert_eq!(rig.plan().prefetch, []);
    }
}

fn order_of(touches: &[Touch]) -> Order {
    Order::new(Purpose::Told, touches.iter().map(|touch| touch.file))
}

#[test]
fn a_told_order_is_fetched_in_order_before_anything_was_read() {
    for mode in [Mode::Told, Mode::Auto] {
        let set = Set::default();
        let mut rig = Rig::new(&set, Limits { mode, ..LIMITS });
        let epoch = shuffled(&set, 1, 0);
        rig.readahead.told(order_of(&epoch), 0);
        let mut fetched: Vec<FileNo> = Vec::new();
        for at in 0..40 {
            fetched.extend(rig.step().iter().map(|command| command.file));
            rig.read(&epoch[at * 10..(at + 1) * 10]);
        }
        (0..100).for_each(|_| fetched.extend(rig.step().iter().map(|command| command.file)));
        assert_eq!(fetched, epoch.iter().map(|touch| touch.file).collect::<Vec<_>>());
        rig.read(&epoch[400..]);
        rig.read(&shuffled(&set, 1, 1)[..500]);
        assert_eq!((rig.readahead.counts().wasted, rig.readahead.wrong_orders()), (0, 0));
    }
}

#[test]
fn an_order_told_before_the_end_of_an_epoch_is_noticed_is_followed_in_the_next() {
    let set = Set::default();
    let mut rig = Rig::new(&set, LIMITS);
    rig.read(&shuffled(&set, 1, 0));
    let next = shuffled(&set, 1, 1);
    rig.readahead.told(order_of(&next), next[0].at_ns);
    rig.read(&next[..300]);
    assert_eq!((rig.history.jobs()[0].epoch(), rig.readahead.followed()), (2, Some(Purpose::Told)));
}

#[test]
fn a_stale_order_costs_its_first_fetches_and_the_epoch_goes_on_without_it() {
    let set = Set { files: 4_000, ..Set::default() };
    let mut rig = Rig::new(&set, LIMITS);
    rig.readahead.told(order_of(&shuffled(&set, 1, 7)), 0);
    (0..50).for_each(|_| drop(rig.step()));
    assert_eq!(rig.readahead.counts().fetched, 1_024);
    rig.read(&shuffled(&set, 1, 0)[..400]);
    (0..200).for_each(|_| drop(rig.step()));
    assert_eq!(rig.readahead.wrong_orders(), 1);
    assert_eq!(rig.stored.len(), 4_000, "as an unseen set");
}

#[test]
fn what_a_user_wants_stored_is_fetched_whoever_reads_and_whatever_the_mode() {
    for mode in [Mode::Off, Mode::Told, Mode::Auto] {
        let set = Set::default();
        let mut rig = Rig::new(&set, Limits { mode, ..LIMITS });
        rig.now_ns = 2 * IDLE_AFTER_NS;
        rig.readahead.told(Order::new(Purpose::Warm, set.train()), 0);
        (0..100).for_each(|_| drop(rig.step()));
        assert_eq!((rig.stored.len(), rig.readahead.warmed()), (2_000, Some(2_000)));
        rig.readahead.stop_warming();
        assert_eq!(rig.readahead.warmed(), None);
    }
}

#[test]
fn a_run_within_an_object_is_fetched_ahead_as_far_as_there_is_room() {
    let set = Set::default();
    let mut rig = Rig::new(&set, LIMITS);
    rig.room_bytes = 13 << 20;
    for unit in 0..6 {
        rig.readahead.unit_read(&UnitRead { file: set.train()[3], unit, units: 100, unit_bytes: 4 << 20 });
    }
    let commands = rig.plan().prefetch;
    assert_eq!(commands.len(), 3, "{commands:?}");
    assert!(commands.iter().all(|command| command.unit.is_some() && command.bytes == 4 << 20));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn room_allowance_and_limits_are_kept(
        files in 500_u32..3_000, read in 200_usize..490, room_mib in 0_u64..300, per_hour_mib in 1_u64..300, seed: u64,
    ) {
        let set = Set { files, ..Set::default() };
        let limits = Limits { bytes_per_hour_max: Some(per_hour_mib << 20), bytes_max: 3 << 20, ..LIMITS };
        let mut rig = Rig::new(&set, limits);
        rig.room_bytes = room_mib << 20;
        rig.read(&shuffled(&set, seed % 1_000, 0)[..read]);
        let mut bytes = 0;
        for _ in 0..100 {
            let commands = rig.step();
            let now: u64 = commands.iter().map(|command| command.bytes).sum();
            prop_assert!(now <= 3 << 20 && commands.len() <= 64 + 50);
            bytes += now;
        }
        prop_assert!(bytes <= room_mib << 20 && bytes <= per_hour_mib << 20, "{}", bytes);
        let most = (u64::from(files) - read as u64) * 100_352;
        let bound = most.min(room_mib << 20).min(per_hour_mib << 20);
        prop_assert!(bytes + 200_000 >= bound, "{} of {}", bytes, bound);
        let expected = match () {
            () if bytes == most => Activity::Done,
            () if (room_mib << 20) - bytes < 100_352 => Activity::Full,
            () => Activity::Capped,
        };
        prop_assert_eq!(rig.plan().activity, expected);
    }
}
