//! The store against a map: random operations, with faults, crashes and restarts, and shrinking.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::checkpoint::Checkpoint;
use super::super::*;
use super::rig::{LAYOUT, Rig, data_of, format, format_if_lost};
use crate::io::sim::Faults;

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Read(u64, u32, u32),
    Forget(u64),
    Retain(u64),
    Sync,
    Advance(u64),
    /// The daemon starts again; what was not durable may be there.
    Restart,
    /// The power fails first.
    PowerCut(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..30u64;
    let step = prop_oneof![
        10 => key.clone().prop_map(Step::Append),
        8 => (key.clone(), any::<u32>(), any::<u32>()).prop_map(|(key, a, b)| Step::Read(key, a, b)),
        3 => key.prop_map(Step::Forget),
        1 => (2..5u64).prop_map(Step::Retain),
        2 => Just(Step::Sync),
        2 => (0..3000u64).prop_map(Step::Advance),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::PowerCut),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What the map knows of a key that was ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It must be there.
    Stored { durable: bool },
    /// It may be there: it was forgotten, or not durable, before a restart.
    Perhaps,
}

struct Model {
    rig: Rig,
    known: BTreeMap<u64, Known>,
    checkpoint: Option<Checkpoint>,
    faults: Faults,
    seed: u64,
    /// A restart brings back what was forgotten, and with it the store may be so full that something has to go.
    has_restarted: bool,
}

impl Model {
    fn new(seed: u64, faults: Faults) -> Self {
        let rig = Rig::open(format(seed), None, seed);
        rig.device.set_faults(faults.clone());
        Self { rig, known: BTreeMap::new(), checkpoint: None, faults, seed, has_restarted: false }
    }

    /// Whether what is stored must stay: only a device without faults promises that.
    fn is_reliable(&self) -> bool {
        self.faults == Faults::default()
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(key) if self.rig.contains(key) => {}
            Step::Append(key) => self.append(key)?,
            Step::Read(key, a, b) => self.read(key, a, b)?,
            Step::Forget(key) => {
                self.rig.forget(key);
                self.known.remove(&key);
            }
            Step::Retain(modulus) => {
                let kept = |key: &u64| key.is_multiple_of(modulus);
                self.rig.keys().into_iter().filter(|key| !kept(key)).for_each(|key| _ = self.rig.forget(key));
                self.known.retain(|key, _| kept(key));
            }
            Step::Sync => self.sync()?,
            Step::Advance(ms) => self.rig.advance(ms),
            Step::Restart => self.restart(),
            Step::PowerCut(seed) => {
                self.rig.device.power_cut(&mut SmallRng::seed_from_u64(seed));
                self.restart();
            }
        }
        self.check()
    }

    fn append(&mut self, key: u64) -> Result<(), TestCaseError> {
        let mut appended = self.rig.put(key);
        // What was forgotten is gathered, segment by segment, when somebody wants space.
        for _ in 0..LAYOUT.segments {
            if matches!(appended, Appended::Rejected(Rejection::Full | Rejection::Busy)) {
                self.rig.advance(1500);
                appended = self.rig.put(key);
            }
        }
        match appended {
            Appended::Stored => _ = self.known.insert(key, Known::Stored { durable: false }),
            Appended::Rejected(Rejection::Full | Rejection::Busy) => {
                let room = u64::from(LAYOUT.room_bytes()) * u64::from(LAYOUT.segments);
                let live = self.rig.volume.segments.live_bytes_total();
                prop_assert!(live > room * 2 / 5 || !self.is_reliable(), "full with {} of {}", live, room);
            }
            Appended::Rejected(why) => prop_assert!(!self.is_reliable(), "{why:?}"),
        }
        Ok(())
    }

    fn read(&mut self, key: u64, a: u32, b: u32) -> Result<(), TestCaseError> {
        let wanted = data_of(key);
        let len = wanted.len() as u32;
        let (a, b) = (a % len, b % len);
        let range = a.min(b)..a.max(b) + 1;
        let read = if b % 2 == 0 { Rig::get } else { Rig::get_here };
        match read(&mut self.rig, key, Some(range.clone())) {
            Ok(bytes) => {
                prop_assert!(bytes == wanted[range.start as usize..range.end as usize], "wrong bytes")
            }
            Err(miss) => {
                let stored = matches!(self.known.get(&key), Some(Known::Stored { .. }));
                prop_assert!(!stored || !self.is_reliable(), "{key} is stored, and reading says {miss}");
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), TestCaseError> {
        match self.rig.sync() {
            Ok(covered) => {
                self.checkpoint = Some(self.rig.checkpoint(covered));
                // Recovery goes by headers: the data of what was not durable before a restart may be torn still.
                let stored = self.known.values_mut().filter(|known| matches!(known, Known::Stored { .. }));
                stored.for_each(|known| *known = Known::Stored { durable: true });
            }
            Err(_) => prop_assert!(!self.is_reliable()),
        }
        Ok(())
    }

    fn restart(&mut self) {
        self.has_restarted = true;
        for known in self.known.values_mut() {
            if *known != (Known::Stored { durable: true }) {
                *known = Known::Perhaps;
            }
        }
        let device = self.rig.device.reopen();
        // Lies can take both superblocks, and the store with them.
        if !self.is_reliable() && format_if_lost(&device, StoreUuid([self.seed as u8; 16])) {
            self.checkpoint = None;
        }
        self.rig = Rig::open(device, self.checkpoint.as_ref(), self.seed);
        self.rig.device.set_faults(self.faults.clone());
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.rig.residents.index().self_check().map_err(TestCaseError::fail)?;
        let segments = &self.rig.volume.segments;
        prop_assert_eq!(segments.live_extents_total(), self.rig.residents.index().len() as u64);
        let live: u64 = self
            .rig
            .keys()
            .iter()
            .map(|key| u64::from(layout::extent_bytes(data_of(*key).len() as u32)))
            .sum();
        prop_assert_eq!(segments.live_bytes_total(), live);
        if self.rig.figures.given_up_bytes.get() > 0 {
            prop_assert!(self.has_restarted, "given up though nothing came back");
            self.known.retain(|key, _| self.rig.contains(*key));
        }
        for (key, known) in &self.known {
            let must = matches!(known, Known::Stored { .. }) && self.is_reliable();
            prop_assert!(!must || self.rig.contains(*key), "{} is lost", key);
        }
        Ok(())
    }
}

fn run(seed: u64, faults: Faults, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = Model::new(seed, faults);
    steps.into_iter().try_for_each(|step| model.step(step))?;
    for key in 0..30 {
        model.read(key, 0, u32::MAX)?;
    }
    Ok(())
}

/// All six segments have something that was forgotten and came back, and the last free one was in use.
#[test]
fn a_restart_that_brings_back_what_was_forgotten_leaves_a_store_that_takes_more() {
    use Step::{Append, Forget, Restart, Retain, Sync};
    let mut steps: Vec<Step> = [21, 24, 3, 4, 7, 0, 13, 12, 14, 1].map(Append).into();
    steps.extend([
        Forget(12),
        Append(20),
        Sync,
        Retain(3),
        Append(2),
        Restart,
        Append(19),
        Retain(2),
        Append(5),
    ]);
    run(0, Faults::default(), steps).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map_that_may_forget_only_what_was_not_durable(seed in 0..1000u64, steps in steps()) {
        run(seed, Faults::default(), steps)?;
    }

    #[test]
    fn a_device_that_fails_costs_misses_and_never_a_wrong_byte(seed in 0..1000u64, steps in steps()) {
        run(seed, Faults::honest(0.05), steps)?;
    }

    #[test]
    fn a_device_that_lies_costs_misses_and_never_a_wrong_byte(seed in 0..1000u64, steps in steps()) {
        run(seed, Faults::lying(0.05), steps)?;
    }
}
