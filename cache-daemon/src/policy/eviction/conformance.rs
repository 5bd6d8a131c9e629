//! What every policy promises, and that each does what its paper says: random uses against a dumb model.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::oracle::{self, Oracle};
use super::{Access, Evictor, ObjectNo, Objective, Pattern, PolicyKind, Rules, SetNo, Touched, Victim};

const OBJECTS: u32 = 24;
const CAPACITY_BYTES: u64 = 60;

#[derive(Clone, Copy, Debug)]
enum Step {
    Touch { object: u32, pattern: Pattern, after_ms: u64 },
    Forget(u32),
    Insist(u32, Pattern),
    Capacity(u64),
    Claim(u32, Pattern),
    Retire(u8),
    Pin(u32),
    Unpin(u32),
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        4 => (0u8..3).prop_map(|set| Pattern::Epoch(SetNo(set))),
        2 => (0u8..3, prop_oneof![0u32..4, Just(Pattern::NOT_TOLD)])
            .prop_map(|(set, due)| Pattern::Due(SetNo(set), due)),
        1 => Just(Pattern::Scan),
        3 => Just(Pattern::General),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let object = || 0..OBJECTS;
    prop_oneof![
        20 => (object(), pattern(), prop_oneof![9 => 0u64..1000, 1 => 0u64..1 << 32])
            .prop_map(|(object, pattern, after_ms)| Step::Touch { object, pattern, after_ms }),
        2 => object().prop_map(Step::Forget),
        1 => (object(), pattern()).prop_map(|(object, pattern)| Step::Insist(object, pattern)),
        1 => (0..2 * CAPACITY_BYTES).prop_map(Step::Capacity),
        1 => (object(), pattern()).prop_map(|(object, pattern)| Step::Claim(object, pattern)),
        1 => (0u8..3).prop_map(Step::Retire),
        2 => object().prop_map(Step::Pin),
        2 => object().prop_map(Step::Unpin),
    ]
}

/// From nothing to more than fits.
fn size_bytes(object: u32) -> u64 {
    [0, 1, 3, 5, 8, 13, 20, 61][object as usize % 8]
}

/// The positions at which each step's object is touched next.
fn next_uses(steps: &[Step]) -> Vec<u64> {
    let mut next = HashMap::new();
    let mut uses = vec![u64::MAX; steps.len()];
    for (position, step) in steps.iter().enumerate().rev() {
        if let Step::Touch { object, .. } = step {
            uses[position] = next.insert(*object, position as u64).unwrap_or(u64::MAX);
        }
    }
    uses
}

/// What is in and how often it is pinned, kept a second time.
struct Model {
    resident: HashMap<u32, u32>,
    capacity_bytes: u64,
}

impl Model {
    fn bytes(&self) -> u64 {
        self.resident.keys().map(|&object| size_bytes(object).max(1)).sum()
    }

    fn touched(&mut self, object: u32, touched: Touched, victims: &[Victim]) {
        assert_eq!(touched == Touched::Hit, self.resident.contains_key(&object));
        assert!(victims.is_empty() || touched == Touched::Admitted, "a refusal evicted");
        for victim in victims {
            let pins = self.resident.remove(&victim.object.0);
            assert_eq!(pins, Some(0), "{victim:?} was not in, or pinned");
            assert_eq!(victim.size_bytes, size_bytes(victim.object.0).max(1));
        }
        let fits = self.bytes() + size_bytes(object).max(1) <= self.capacity_bytes;
        match touched {
            Touched::Hit => {}
            Touched::Admitted => assert!(fits && self.resident.insert(object, 0).is_none()),
            Touched::Refused => assert!(!fits, "refused though there is room"),
        }
    }
}

fn access(object: u32, now_ms: u64, pattern: Pattern, next_use: u64) -> Access {
    Access { object: ObjectNo(object), size_bytes: size_bytes(object), now_ms, pattern, next_use }
}

fn conforms(kind: PolicyKind, objective: Objective, steps: &[Step]) {
    let mut evictor = Evictor::new(kind, CAPACITY_BYTES, &Rules { objective, seed: 7 });
    let (mut model, mut victims, mut now_ms) =
        (Model { resident: HashMap::new(), capacity_bytes: CAPACITY_BYTES }, Vec::new(), 0);
    let next_uses = next_uses(steps);
    for (position, step) in steps.iter().enumerate() {
        match *step {
            Step::Touch { object, pattern, after_ms } => {
                now_ms += after_ms;
                let access = access(object, now_ms, pattern, next_uses[position]);
                let touched = evictor.touch(&access, &mut victims);
                model.touched(object, touched, &victims);
            }
            Step::Forget(object) => {
                evictor.forget(ObjectNo(object));
                model.resident.remove(&object);
            }
            Step::Insist(object, pattern) => {
                evictor.insist(&access(object, now_ms, pattern, u64::MAX));
                if let Entry::Vacant(vacant) = model.resident.entry(object) {
                    vacant.insert(0);
                    model.capacity_bytes = model.capacity_bytes.max(model.bytes());
                }
            }
            Step::Capacity(bytes) => {
                evictor.set_capacity(bytes);
                model.capacity_bytes = bytes;
            }
            Step::Claim(object, pattern) => evictor.claim(ObjectNo(object), pattern),
            Step::Retire(set) => evictor.retire(SetNo(set)),
            Step::Pin(object) => {
                assert_eq!(evictor.pin(ObjectNo(object)), model.resident.contains_key(&object));
                model.resident.entry(object).and_modify(|pins| *pins += 1);
            }
            Step::Unpin(object) => {
                evictor.unpin(ObjectNo(object));
                model.resident.entry(object).and_modify(|pins| *pins = pins.saturating_sub(1));
            }
        }
        let residents = evictor.residents();
        assert_eq!((residents.used_bytes(), residents.count()), (model.bytes(), model.resident.len() as u64));
        assert_eq!(residents.capacity_bytes(), model.capacity_bytes);
        assert!(
            (0..OBJECTS)
                .all(|object| residents.contains(ObjectNo(object)) == model.resident.contains_key(&object))
        );
    }
}

proptest! {
    #[test]
    fn never_above_the_capacity_and_never_a_pin(steps in prop::collection::vec(step(), 0..300)) {
        for kind in PolicyKind::ALL {
            conforms(kind, Objective::Bytes, &steps);
        }
        conforms(PolicyKind::Epoch, Objective::Requests, &steps);
    }

    #[test]
    fn each_evicts_whom_its_definition_says(objects in prop::collection::vec(0..OBJECTS, 0..400)) {
        follows(PolicyKind::Lru, &mut oracle::Lru::default(), &objects);
        follows(PolicyKind::Fifo, &mut oracle::Fifo::default(), &objects);
        follows(PolicyKind::Sieve, &mut oracle::Sieve::default(), &objects);
        follows(PolicyKind::S3Fifo, &mut oracle::S3Fifo::default(), &objects);
        // Without sets, ours is S3-FIFO.
        follows(PolicyKind::Epoch, &mut oracle::S3Fifo::default(), &objects);
        follows(PolicyKind::Belady, &mut oracle::Belady::default(), &objects);
        follows(PolicyKind::NoReplacement, &mut oracle::NoReplacement, &objects);
    }

    #[test]
    fn no_policy_hits_more_than_belady_when_sizes_are_equal(objects in prop::collection::vec(0..OBJECTS, 0..400)) {
        let bound = hits(PolicyKind::Belady, &objects);
        for kind in PolicyKind::ALL {
            prop_assert!(hits(kind, &objects) <= bound, "{kind}");
        }
    }
}

fn accesses(objects: &[u32]) -> Vec<Access> {
    let steps: Vec<_> = objects
        .iter()
        .map(|&object| Step::Touch { object, pattern: Pattern::General, after_ms: 0 })
        .collect();
    let access = |(&object, next_use)| Access {
        object: ObjectNo(object),
        size_bytes: 1,
        now_ms: 0,
        pattern: Pattern::General,
        next_use,
    };
    objects.iter().zip(next_uses(&steps)).map(access).collect()
}

fn hits(kind: PolicyKind, objects: &[u32]) -> usize {
    let mut evictor = Evictor::new(kind, 7, &Rules::default());
    let mut victims = Vec::new();
    accesses(objects).iter().filter(|access| evictor.touch(access, &mut victims) == Touched::Hit).count()
}

/// Objects of one byte, ten of which fit: exactly what the oracle keeps is kept.
fn follows(kind: PolicyKind, oracle: &mut dyn Oracle, objects: &[u32]) {
    let mut evictor = Evictor::new(kind, 10, &Rules::default());
    let (mut resident, mut victims) = (HashSet::new(), Vec::new());
    for access in accesses(objects) {
        let object = access.object.0;
        let expected = match resident.contains(&object) {
            true => {
                oracle.used(&access);
                (Touched::Hit, None)
            }
            false => match (resident.len() == 10).then(|| oracle.evict(&access)) {
                Some(None) => (Touched::Refused, None),
                evicted => {
                    let victim = evicted.flatten();
                    victim.inspect(|victim| assert!(resident.remove(victim)));
                    resident.insert(object);
                    oracle.admit(&access);
                    (Touched::Admitted, victim)
                }
            },
        };
        let touched = evictor.touch(&access, &mut victims);
        let victim = victims.first().map(|victim| victim.object.0);
        assert_eq!((touched, victim), expected, "{kind} at {access:?}");
    }
}
