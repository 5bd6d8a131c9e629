//! A store with objects of both kinds is a map that may forget what was not durable when it was killed.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

const LIMIT_BYTES: u64 = 24 * MIB;

#[derive(Clone, Debug)]
enum Step {
    Append(u64, u32),
    Read(u64, u32, u32, u32),
    Complete(u64),
    Forget(u64),
    Retain(u64),
    Sync,
    /// Closed and opened again.
    Restart,
    /// Killed and opened again.
    Kill,
}

/// Objects on both sides of the size from which they get a file, with odd ends.
fn size_of(number: u64) -> u64 {
    [1, 4095, 70_000, MIB - 1, MIB, MIB + 1, 2 * MIB + 4096, 3 * MIB + 12_345][number as usize % 8]
}

fn chunks_of(number: u64) -> u32 {
    size_of(number).div_ceil(MIB) as u32
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..12u64;
    let step = prop_oneof![
        12 => (number.clone(), any::<u32>()).prop_map(|(number, chunk)| Step::Append(number, chunk)),
        8 => (number.clone(), any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(number, chunk, a, b)| Step::Read(number, chunk, a, b)),
        4 => number.clone().prop_map(Step::Complete),
        2 => number.prop_map(Step::Forget),
        1 => (2..4u64).prop_map(Step::Retain),
        2 => Just(Step::Sync),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the map knows of a chunk that was ever appended and not forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Stored {
        durable: bool,
    },
    /// It may be there: it was forgotten, or not durable, before a kill.
    Perhaps,
}

struct Model {
    home: Home,
    store: Option<Store>,
    known: BTreeMap<(u64, u32), Known>,
    objects: Vec<Bytes>,
}

impl Model {
    fn new() -> Self {
        let home = Home::new();
        let store = Some(home.open_as(Self::config(&home)).0);
        let objects = (0..12).map(|number| object(number, size_of(number))).collect();
        Self { home, store, known: BTreeMap::new(), objects }
    }

    fn config(home: &Home) -> StoreConfig {
        let mut config = home.config(LIMIT_BYTES);
        config.segment_bytes = 2 << 20;
        // Only when asked, so that what is durable is known.
        config.writer.sync_interval = Duration::from_secs(3600);
        config
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open but while it restarts")
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(number, chunk) => self.append(number, chunk % chunks_of(number))?,
            Step::Read(number, chunk, a, b) => self.read(number, chunk % chunks_of(number), a, b)?,
            Step::Complete(number) => self.complete(number)?,
            Step::Forget(number) => {
                self.store().forget(&fingerprint(number), chunks_of(number));
                self.known.retain(|(known, _), _| *known != number);
            }
            Step::Retain(modulus) => {
                let kept = |number: u64| number.is_multiple_of(modulus);
                self.store().retain(&|object| kept(u64::from(object.0[0])));
                self.known.retain(|(number, _), _| kept(*number));
            }
            Step::Sync => {
                prop_assert!(self.store().sync().is_ok());
                self.settle(|known| matches!(known, Known::Stored { .. }));
            }
            Step::Restart => {
                self.store.take();
                self.settle(|known| matches!(known, Known::Stored { .. }));
                self.store = Some(self.home.open_as(Self::config(&self.home)).0);
            }
            Step::Kill => self.kill(),
        }
        let used = self.home.blocks_bytes();
        prop_assert!(used <= LIMIT_BYTES, "{} bytes of {}", used, LIMIT_BYTES);
        for ((number, chunk), known) in &self.known {
            let there = self.store().contains(&key(*number, *chunk)).is_some();
            prop_assert!(there || *known == Known::Perhaps, "chunk {} of {} is lost", chunk, number);
        }
        Ok(())
    }

    fn settle(&mut self, is_durable: impl Fn(Known) -> bool) {
        for known in self.known.values_mut().filter(|known| is_durable(**known)) {
            *known = Known::Stored { durable: true };
        }
    }

    fn kill(&mut self) {
        let killed = self.home.as_after_a_kill();
        self.store.take();
        self.home = killed;
        for known in self.known.values_mut() {
            if *known != (Known::Stored { durable: true }) {
                *known = Known::Perhaps;
            }
        }
        self.store = Some(self.home.open_as(Self::config(&self.home)).0);
    }

    fn append(&mut self, number: u64, chunk: u32) -> Result<(), TestCaseError> {
        let mut appended = put(self.store(), number, &self.objects[number as usize], chunk);
        // What was forgotten is gathered when somebody wants space, and given back after a second.
        for _ in 0..30 {
            if appended == Appended::Rejected(Rejection::Full) {
                std::thread::sleep(Duration::from_millis(100));
                appended = put(self.store(), number, &self.objects[number as usize], chunk);
            }
        }
        match appended {
            Appended::Stored => {
                let known = self.known.entry((number, chunk)).or_insert(Known::Perhaps);
                if *known == Known::Perhaps {
                    *known = Known::Stored { durable: false };
                }
            }
            Appended::Rejected(Rejection::Full) => {
                let live = self.store().usage().live_bytes;
                prop_assert!(live > LIMIT_BYTES / 4, "full with {} bytes: {:?}", live, self.store().usage());
            }
            Appended::Rejected(why) => prop_assert!(false, "{why:?}"),
        }
        Ok(())
    }

    fn read(&mut self, number: u64, chunk: u32, a: u32, b: u32) -> Result<(), TestCaseError> {
        let wanted = chunk_of(&self.objects[number as usize], chunk);
        let len = wanted.len() as u32;
        let (a, b) = (a % len, b % len);
        let range = a.min(b)..a.max(b) + 1;
        match get(self.store(), number, chunk, range.clone()) {
            Ok(bytes) => {
                prop_assert!(bytes == wanted[range.start as usize..range.end as usize], "wrong bytes")
            }
            Err(Miss::Absent) => {
                let stored = matches!(self.known.get(&(number, chunk)), Some(Known::Stored { .. }));
                prop_assert!(!stored, "chunk {chunk} of {number} is stored");
            }
            Err(miss) => prop_assert!(false, "{miss}"),
        }
        Ok(())
    }

    fn complete(&mut self, number: u64) -> Result<(), TestCaseError> {
        let Some(complete) = self.store().complete_file(&fingerprint(number)) else { return Ok(()) };
        prop_assert!(content(&complete) == self.objects[number as usize], "wrong bytes in {}", number);
        for chunk in 0..chunks_of(number) {
            prop_assert!(self.store().contains(&key(number, chunk)).is_some());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_store_of_both_kinds_forgets_only_what_was_not_durable_when_it_was_killed(steps in steps()) {
        let mut model = Model::new();
        steps.into_iter().try_for_each(|step| model.step(step))?;
        for number in 0..12 {
            for chunk in 0..chunks_of(number) {
                model.read(number, chunk, 0, u32::MAX)?;
            }
            model.complete(number)?;
        }
    }
}
