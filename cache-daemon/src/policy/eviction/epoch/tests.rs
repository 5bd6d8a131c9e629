//! What the policy does where several things read at once.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::policy::eviction::{
    Access, Evictor, ObjectNo, Objective, Pattern, PolicyKind, Rules, SetNo, Touched, Victim,
};

const MINUTE_MS: u64 = 60_000;

/// A cache and what was read through it.
struct Bench {
    evictor: Evictor,
    victims: Vec<Victim>,
    random: SmallRng,
    now_ms: u64,
}

#[derive(Default, Clone, Copy)]
struct Count {
    reads: u64,
    hits: u64,
    admitted: u64,
}

impl Count {
    fn ratio(self) -> f64 {
        self.hits as f64 / self.reads as f64
    }
}

impl Bench {
    fn new(kind: PolicyKind, capacity_bytes: u64) -> Self {
        Self::with(kind, capacity_bytes, Objective::Bytes)
    }

    fn with(kind: PolicyKind, capacity_bytes: u64, objective: Objective) -> Self {
        let evictor = Evictor::new(kind, capacity_bytes, &Rules { objective, seed: 1 });
        Self { evictor, victims: Vec::new(), random: SmallRng::seed_from_u64(1), now_ms: 0 }
    }

    fn read(&mut self, object: u32, size_bytes: u64, pattern: Pattern, count: &mut Count) {
        let object = ObjectNo(object);
        let access = Access { object, size_bytes, now_ms: self.now_ms, pattern, next_use: u64::MAX };
        let touched = self.evictor.touch(&access, &mut self.victims);
        count.reads += 1;
        count.hits += u64::from(touched == Touched::Hit);
        count.admitted += u64::from(touched == Touched::Admitted);
    }

    /// Every object of each set once, the sets at the same time, in the time given.
    fn epochs(&mut self, sets: &[(std::ops::Range<u32>, Pattern)], takes_ms: u64) -> Vec<Count> {
        let mut reads = Vec::new();
        for (number, (set, _)) in sets.iter().enumerate() {
            let mut order: Vec<_> = set.clone().collect();
            order.shuffle(&mut self.random);
            let len = order.len() as f64;
            reads.extend(order.into_iter().enumerate().map(|(at, object)| (at as f64 / len, number, object)));
        }
        reads.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (start_ms, mut counts) = (self.now_ms, vec![Count::default(); sets.len()]);
        for (at, number, object) in reads {
            self.now_ms = start_ms + (takes_ms as f64 * at) as u64;
            self.read(object, 1, sets[number].1, &mut counts[number]);
        }
        self.now_ms = start_ms + takes_ms;
        counts
    }

    fn epoch(&mut self, set: std::ops::Range<u32>, pattern: Pattern) -> Count {
        self.epochs(&[(set, pattern)], MINUTE_MS)[0]
    }

    fn resident(&self, set: std::ops::Range<u32>) -> usize {
        set.filter(|&object| self.evictor.residents().contains(ObjectNo(object))).count()
    }
}

const A: Pattern = Pattern::Epoch(SetNo(0));
const B: Pattern = Pattern::Epoch(SetNo(1));

#[test]
fn one_set_is_never_replaced() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    bench.epoch(0..1000, A);
    for _ in 0..5 {
        let count = bench.epoch(0..1000, A);
        assert_eq!((count.hits, count.admitted), (500, 0));
    }
}

#[test]
fn a_scan_takes_only_what_is_free_and_goes_first() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    bench.epoch(0..400, A);
    let mut scan = Count::default();
    (1000..3000).for_each(|object| bench.read(object, 1, Pattern::Scan, &mut scan));
    assert_eq!((scan.admitted, bench.resident(0..400)), (100, 400));
    // A scan of the set itself changes nothing either.
    (0..400).for_each(|object| bench.read(object, 1, Pattern::Scan, &mut scan));
    assert_eq!(bench.epoch(0..500, A).hits, 400);
    assert_eq!(bench.resident(0..500), 500);
}

#[test]
fn a_set_that_is_not_used_any_more_gives_way() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    bench.epochs(&[(0..1000, A)], 10 * MINUTE_MS);
    // Somebody else an hour later.
    bench.now_ms += 60 * MINUTE_MS;
    bench.epochs(&[(2000..3000, B)], 10 * MINUTE_MS);
    let hits = bench.epochs(&[(2000..3000, B)], 10 * MINUTE_MS)[0].hits;
    assert!(hits > 430, "{hits}");
}

#[test]
fn a_set_that_is_retired_gives_way_at_once() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    bench.epoch(0..1000, A);
    bench.evictor.retire(SetNo(0));
    bench.epoch(2000..3000, B);
    assert!(bench.resident(2000..3000) > 430);
}

#[test]
fn a_pause_of_minutes_changes_nothing() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    bench.epochs(&[(0..1000, A)], 20 * MINUTE_MS);
    bench.now_ms += 10 * MINUTE_MS;
    let count = bench.epochs(&[(0..1000, A)], 20 * MINUTE_MS)[0];
    assert_eq!((count.hits, count.admitted), (500, 0));
}

#[test]
fn two_jobs_share_by_the_bytes_they_read() {
    let mut bench = Bench::new(PolicyKind::Epoch, 600);
    for _ in 0..12 {
        bench.epochs(&[(0..1000, A), (2000..3000, B)], 5 * MINUTE_MS);
    }
    let (a, b) = (bench.resident(0..1000), bench.resident(2000..3000));
    assert!(a.abs_diff(b) < 100 && a + b == 600, "{a} and {b}");
    // Twice the bytes, twice the room.
    let mut bench = Bench::new(PolicyKind::Epoch, 600);
    for _ in 0..12 {
        bench.epochs(&[(0..500, A), (2000..3000, B)], 5 * MINUTE_MS);
    }
    let (a, b) = (bench.resident(0..500), bench.resident(2000..3000));
    assert!((150..=250).contains(&a) && a + b == 600, "{a} and {b}");
}

#[test]
fn two_jobs_on_one_set_hit_what_one_hits() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    for epoch in 0..5 {
        for count in bench.epochs(&[(0..1000, A), (0..1000, A)], MINUTE_MS) {
            // What the other one fetched before is a hit too: no less than the share that is in.
            assert!(epoch == 0 || count.hits == 500, "{}", count.hits);
        }
    }
}

#[test]
fn validation_between_epochs_costs_the_bound_nothing() {
    // 1 000 of training and 50 of validation in a cache of 525: half of what is read can hit.
    let mut bench = Bench::new(PolicyKind::Epoch, 525);
    let mut late = Count::default();
    for epoch in 0..20 {
        let train = bench.epochs(&[(0..1000, A)], 20 * MINUTE_MS)[0];
        let val = bench.epochs(&[(2000..2050, B)], MINUTE_MS)[0];
        if epoch >= 4 {
            late.hits += train.hits + val.hits;
            late.reads += train.reads + val.reads;
        }
    }
    assert!(late.ratio() > 0.495, "{}", late.ratio());
}

#[test]
fn of_told_parts_what_is_due_last_goes_and_nothing_for_what_is_due_as_late() {
    let mut bench = Bench::new(PolicyKind::Epoch, 3);
    let mut read = |object, due| {
        let mut count = Count::default();
        bench.read(object, 1, Pattern::Due(SetNo(0), due), &mut count);
        let resident: Vec<u32> = (0..10).filter(|&object| bench.resident(object..object + 1) == 1).collect();
        resident
    };
    read(0, Pattern::NOT_TOLD);
    read(1, 2);
    read(2, 4);
    assert_eq!(read(3, Pattern::NOT_TOLD), [0, 1, 2]);
    assert_eq!(read(4, 4), [1, 2, 4]);
    assert_eq!(read(5, 4), [1, 2, 4]);
    assert_eq!(read(6, 3), [1, 2, 6], "of those due in one epoch the one used last");
    assert_eq!(read(1, 5), [1, 2, 6]);
    assert_eq!(read(7, 4), [2, 6, 7], "a use tells when it is due from then on");
    // Nothing is told any more.
    let mut count = Count::default();
    bench.read(8, 1, A, &mut count);
    assert_eq!(bench.resident(0..10), 3);
    assert_eq!((count.admitted, bench.resident(8..9)), (0, 0));
}

#[test]
fn hot_files_beside_an_epoch_stay() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    let (mut hot, mut cold) = (Count::default(), Count::default());
    for epoch in 0..6 {
        let mut order: Vec<u32> = (0..1000).collect();
        order.shuffle(&mut bench.random);
        for object in order {
            bench.now_ms += 60;
            bench.read(object, 1, A, &mut cold);
            // 20 files, one of them read for every ten of the set.
            if object % 10 == 0 {
                let file = 5000 + bench.random.random_range(0..20);
                let count = if epoch > 0 { &mut hot } else { &mut Count::default() };
                bench.read(file, 1, Pattern::General, count);
            }
        }
    }
    assert!(hot.ratio() > 0.9, "{}", hot.ratio());
    assert!(bench.resident(0..1000) >= 450, "{}", bench.resident(0..1000));
}

#[test]
fn with_replacement_it_hits_what_others_hit() {
    let ratio = |kind| {
        let mut bench = Bench::new(kind, 500);
        let (mut warm, mut count) = (Count::default(), Count::default());
        for read in 0..20_000 {
            let object = bench.random.random_range(0..1000);
            bench.read(object, 1, Pattern::General, if read < 2_000 { &mut warm } else { &mut count });
        }
        count.ratio()
    };
    let (ours, lru) = (ratio(PolicyKind::Epoch), ratio(PolicyKind::Lru));
    assert!((ours - 0.5).abs() < 0.02 && (lru - 0.5).abs() < 0.02, "{ours} and {lru}");
}

#[test]
fn where_requests_are_short_small_objects_are_kept() {
    let mut bench = Bench::with(PolicyKind::Epoch, 5_000, Objective::Requests);
    // 900 of one byte and 100 of a hundred: half of the bytes, nine tenths of the requests.
    let size = |object: u32| if object < 900 { 1 } else { 100 };
    for epoch in 0..4 {
        let mut order: Vec<u32> = (0..1000).collect();
        order.shuffle(&mut bench.random);
        let mut count = Count::default();
        order.into_iter().for_each(|object| bench.read(object, size(object), A, &mut count));
        if epoch > 0 {
            assert_eq!(bench.resident(0..900), 900);
            assert_eq!((count.hits, bench.resident(900..1000)), (941, 41));
        }
    }
}

#[test]
fn a_claim_of_what_is_there_already_changes_nothing() {
    let mut bench = Bench::new(PolicyKind::Epoch, 10);
    let mut count = Count::default();
    // Ten in the small queue, and the first of them used twice more: it goes to the main one when its turn comes.
    (0..10).chain([0, 0]).for_each(|object| bench.read(object, 1, Pattern::General, &mut count));
    (0..10).for_each(|object| bench.evictor.claim(ObjectNo(object), Pattern::General));
    bench.read(10, 1, Pattern::General, &mut count);
    assert!(bench.resident(0..1) == 1 && bench.resident(1..2) == 0);
}

#[test]
fn what_a_restart_finds_belongs_to_the_set_that_claims_it() {
    let mut bench = Bench::new(PolicyKind::Epoch, 500);
    (0..500).for_each(|object| bench.read(object, 1, Pattern::General, &mut Count::default()));
    (0..500).for_each(|object| bench.evictor.claim(ObjectNo(object), A));
    bench.now_ms += 60 * MINUTE_MS;
    let count = bench.epoch(0..1000, A);
    assert_eq!((count.hits, count.admitted), (500, 0));
}
