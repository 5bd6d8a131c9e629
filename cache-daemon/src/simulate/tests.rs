//! The simulator against what is known on paper.

use super::origin::Model;
use super::run::{Case, Outcome, Progress, Settings, run};
use super::sizes::Sizes;
use super::synthetic::{Order, Shape, Synthetic};
use super::{Trace, next_uses};
use crate::policy::eviction::{Objective, PolicyKind, Rules};

const FILES: u32 = 10_000;

const SHAPE: Shape = Shape {
    files: FILES,
    sizes: Sizes::Fixed(1 << 10),
    epochs: 5,
    order: Order::Shuffle,
    workers: 8,
    batch: 32,
    ranks: 1,
    told: None,
    seed: 1,
};

const MODEL: Model = Model {
    latency_s: 0.02,
    bandwidth_bytes_per_s: 125e6,
    requests_per_s: f64::INFINITY,
    files_per_s: f64::INFINITY,
    readers: 8,
    ahead: None,
};

fn settings(from_epoch: u32) -> Settings {
    Settings { rules: Rules::default(), model: MODEL, from_epoch }
}

fn outcome(shape: &Shape, policy: PolicyKind, c: f64, settings: &Settings) -> Outcome {
    let trace = Synthetic::new(*shape);
    let cache_bytes = (c * trace.data_set_bytes() as f64) as u64;
    run(&trace, Case { policy, cache_bytes }, settings, &Progress::default()).expect("nothing is read")
}

/// Epochs 2 to 5 with a cache of `c`.
fn ratio(policy: PolicyKind, c: f64) -> f64 {
    outcome(&SHAPE, policy, c, &settings(1)).hit_ratio()
}

/// Of 40 000 uses a ratio deviates by .0025; three of that, and what 10 000 objects differ from infinitely many.
const TOLERANCE: f64 = 0.01;

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < TOLERANCE, "{found} is not {expected}");
}

#[test]
fn no_replacement_and_belady_and_ours_hit_c_and_no_more() {
    for c in [0.1, 0.25, 0.5, 0.9] {
        for policy in [PolicyKind::NoReplacement, PolicyKind::Epoch, PolicyKind::Belady] {
            let found = ratio(policy, c);
            assert!((found - c).abs() < 1e-9, "{policy}: {found} is not {c}");
        }
    }
}

#[test]
fn lru_hits_what_its_formula_says() {
    for c in [0.1f64, 0.25, 0.5, 0.9] {
        near(ratio(PolicyKind::Lru, c), c + (1.0 - c) * (1.0 - c).ln());
    }
}

#[test]
fn the_others_hit_what_they_are_known_to_hit() {
    for (policy, expected) in [
        (PolicyKind::TwoRandom, 0.218),
        (PolicyKind::Fifo, 0.193),
        (PolicyKind::S3Fifo, 0.188),
        (PolicyKind::Sieve, 0.255),
    ] {
        near(ratio(policy, 0.5), expected);
    }
}

#[test]
fn a_rank_of_eight_hits_more_if_it_knows_its_order() {
    // A node reads an eighth an epoch: its cache is full after four epochs at most, and the last tenth is not asked.
    let shape = Shape { files: 8_000, epochs: 80, ranks: 8, ..SHAPE };
    for (c, belady, frozen) in [(0.10, 0.371, 0.100), (0.25, 0.589, 0.253), (0.50, 0.802, 0.501)] {
        let ratio = |policy| outcome(&shape, policy, c, &settings(30)).hit_ratio();
        near(ratio(PolicyKind::Belady), belady);
        near(ratio(PolicyKind::NoReplacement), frozen);
    }
}

#[test]
fn orders_of_a_few_epochs_ahead_are_worth_most_of_all_of_them() {
    let shape = Shape { files: 8_000, epochs: 80, ranks: 8, ..SHAPE };
    let ratio = |told| outcome(&Shape { told, ..shape }, PolicyKind::Belady, 0.25, &settings(30)).hit_ratio();
    let ratios = [Some(0), Some(1), Some(4), Some(16), None].map(ratio);
    println!("{ratios:.3?}");
    assert!(ratios.is_sorted(), "{ratios:?}");
    // Nothing known is not replacing.
    near(ratios[0], 0.25);
}

#[test]
fn ours_hits_what_belady_hits_if_a_rank_is_told_as_much_and_replaces_no_more() {
    for (ranks, told) in [(4, 1), (4, 4), (8, 4)] {
        let shape = Shape { files: 8_000, epochs: 60, ranks, told: Some(told), ..SHAPE };
        let of = |policy| outcome(&shape, policy, 0.25, &settings(30));
        let (ours, belady) = (of(PolicyKind::Epoch), of(PolicyKind::Belady));
        near(ours.hit_ratio(), belady.hit_ratio());
        assert!(ours.hit_ratio() > 0.3 && ours.evicted <= belady.evicted, "{ours:?} and {belady:?}");
    }
    // A node that reads all of the set in each epoch gains nothing, and replaces nothing.
    let outcome = outcome(&Shape { told: Some(4), ..SHAPE }, PolicyKind::Epoch, 0.25, &settings(1));
    assert_eq!(outcome.evicted, 0);
}

#[test]
fn bytes_hit_what_fits_whatever_the_sizes_are() {
    let shape = Shape { sizes: Sizes::Lognormal { mean_bytes: 110 << 10, sigma: 0.5 }, ..SHAPE };
    for c in [0.1, 0.5] {
        let found = outcome(&shape, PolicyKind::Epoch, c, &settings(1)).byte_hit_ratio();
        assert!(found <= c && found > c - 0.002, "{found} is not {c}");
    }
}

#[test]
fn where_requests_are_short_fewer_are_sent() {
    let shape = Shape { sizes: Sizes::Lognormal { mean_bytes: 110 << 10, sigma: 0.5 }, ..SHAPE };
    let rules = Rules { objective: Objective::Requests, ..Rules::default() };
    // The smallest that fill half of the bytes are, with sigma .5, the normal distribution at .5: .691 of the files.
    let outcome = outcome(&shape, PolicyKind::Epoch, 0.5, &Settings { rules, ..settings(2) });
    near(outcome.hit_ratio(), 0.691);
}

#[test]
fn with_replacement_everybody_hits_c() {
    let shape = Shape { order: Order::Replacement, epochs: 10, ..SHAPE };
    for policy in [PolicyKind::Epoch, PolicyKind::Lru, PolicyKind::Sieve, PolicyKind::NoReplacement] {
        let found = outcome(&shape, policy, 0.25, &settings(4)).hit_ratio();
        // Who was never read before is not counted, so a little more.
        assert!((0.24..0.27).contains(&found), "{policy}: {found}");
    }
    assert!(outcome(&shape, PolicyKind::Belady, 0.25, &settings(4)).hit_ratio() > 0.4);
}

#[test]
fn the_future_by_formula_is_the_one_that_comes() {
    for (order, ranks, workers, batch) in [
        (Order::Shuffle, 1, 8, 32),
        (Order::Shuffle, 3, 4, 7),
        (Order::Listing, 1, 3, 5),
        (Order::Listing, 2, 1, 1),
    ] {
        let trace = Synthetic::new(Shape { files: 1_000, order, ranks, workers, batch, ..SHAPE });
        let expected = next_uses(&trace).expect("it is short");
        trace
            .replay(true, &mut |used| {
                let expected = match expected[used.position as usize] {
                    u32::MAX => u64::MAX,
                    next => next.into(),
                };
                assert_eq!(used.next_use, expected, "{used:?}");
                true
            })
            .expect("nothing is read");
    }
}

#[test]
fn every_epoch_reads_every_file_once_whatever_the_workers() {
    for (workers, batch) in [(1, 1), (8, 32), (7, 13), (64, 1000)] {
        let trace = Synthetic::new(Shape { files: 1_000, workers, batch, epochs: 2, ..SHAPE });
        let mut seen = [[false; 1_000]; 2];
        let mut see = |used: &super::Use| {
            !std::mem::replace(&mut seen[used.epoch as usize][used.object.0 as usize], true)
                || panic!("{used:?} again")
        };
        trace.replay(false, &mut see).expect("nothing is read");
        assert!(seen.iter().flatten().all(|seen| *seen));
    }
}
