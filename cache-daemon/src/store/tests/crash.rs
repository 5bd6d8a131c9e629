//! Power cuts at every write of a seeded workload: what was acknowledged as durable is there afterwards,
//! and nothing that is there is wrong.

use std::collections::BTreeSet;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::checkpoint::Checkpoint;
use super::super::*;
use super::rig::{Rig, data_of, format};
use crate::io::sim::{Faults, SimDevice};

/// Distinct crash points that a run has at least.
const CRASH_POINTS_MIN: usize = 10_000;

/// What must be there after a crash, from a boundary on.
struct Promise {
    from_boundary: u64,
    durable: Arc<BTreeSet<u64>>,
    checkpoint: Option<Arc<Checkpoint>>,
}

/// Random appends, forgets and syncs; a snapshot of the device at each write, and what had been promised by then.
fn workload(seed: u64, faults: Faults) -> (Vec<SimDevice>, Vec<Promise>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let device = format(seed);
    let mut rig = Rig::open(device.clone(), None, seed);
    device.set_faults(faults);
    device.keep_snapshots();
    let start = device.boundaries();
    let mut durable = BTreeSet::new();
    let mut checkpoint = None;
    let mut promises = vec![Promise { from_boundary: 0, durable: Arc::default(), checkpoint: None }];
    for _ in 0..rng.random_range(60..160) {
        match rng.random_range(0..20) {
            0..13 => drop(rig.append(rng.random_range(0..40))),
            13..16 => {
                let key = rng.random_range(0..40);
                rig.forget(key);
                durable.remove(&key);
            }
            16..18 => rig.advance(400),
            18 => rig.work(),
            _ => {
                if let Ok(covered) = rig.sync() {
                    durable = rig.keys().into_iter().collect();
                    checkpoint = Some(Arc::new(rig.checkpoint(covered)));
                }
            }
        }
        rig.work();
        // Errors forget extents, and nobody is told: what is not there any more is not promised.
        durable.retain(|key| rig.contains(*key));
        promises.push(Promise {
            from_boundary: device.boundaries() - start,
            durable: Arc::new(durable.clone()),
            checkpoint: checkpoint.clone(),
        });
    }
    (device.take_snapshots(), promises)
}

/// What holds for a crash at `boundary`: promised before it, and not taken back by an action that it is part of.
fn promised(promises: &[Promise], boundary: u64) -> (BTreeSet<u64>, Option<Arc<Checkpoint>>) {
    let made = promises.iter().rposition(|promise| promise.from_boundary <= boundary).unwrap();
    let durable = match promises.get(made + 1) {
        Some(next) => promises[made].durable.intersection(&next.durable).copied().collect(),
        None => (*promises[made].durable).clone(),
    };
    (durable, promises[made].checkpoint.clone())
}

fn check_recovered(rig: &mut Rig, durable: &BTreeSet<u64>, told: &str) {
    for key in durable {
        assert!(rig.contains(*key), "{told}: {key} was durable and is lost");
    }
    for key in rig.keys() {
        match rig.get(key, None) {
            Ok(bytes) => assert!(bytes == data_of(key), "{told}: wrong bytes for {key}"),
            Err(miss) => {
                assert!(!durable.contains(&key), "{told}: {key} was durable and reading says {miss}")
            }
        }
    }
}

/// Goes on after a crash, and crashes again at the end.
fn go_on(mut rig: Rig, durable: &BTreeSet<u64>, rng: &mut SmallRng, told: &str) {
    let before: BTreeSet<u64> = rig.keys().into_iter().collect();
    for key in 100..104 {
        rig.put(key);
    }
    rig.sync().expect("the device works again");
    let mut kept: BTreeSet<u64> = durable.intersection(&before).copied().collect();
    if rig.figures.given_up_bytes.get() > 0 {
        // What had been forgotten came back, and took the room that others are moved to.
        kept.retain(|key| rig.contains(*key));
    }
    kept.extend((100..104).filter(|key| rig.contains(*key)));
    rig.device.power_cut(rng);
    let mut rig = Rig::open(rig.device.reopen(), None, 7);
    check_recovered(&mut rig, &kept, told);
}

fn crash_everywhere(seed: u64, faults: Faults) -> usize {
    let (snapshots, promises) = workload(seed, faults);
    let mut rng = SmallRng::seed_from_u64(seed);
    let points = snapshots.len();
    for (boundary, snapshot) in snapshots.into_iter().enumerate() {
        let told = format!("seed {seed}, crash at write {boundary}");
        snapshot.power_cut(&mut rng);
        let (durable, checkpoint) = promised(&promises, boundary as u64);
        let checkpoint = checkpoint.filter(|_| rng.random_bool(0.5));
        let mut rig = Rig::open(snapshot.reopen(), checkpoint.as_deref(), seed);
        check_recovered(&mut rig, &durable, &told);
        if rng.random_bool(0.05) {
            go_on(rig, &durable, &mut rng, &told);
        }
    }
    points
}

fn crash_until(points_min: usize, first_seed: u64, faults: &Faults) {
    let started = Instant::now();
    let (mut points, mut seed) = (0, first_seed);
    while points < points_min {
        points += crash_everywhere(seed, faults.clone());
        seed += 1;
    }
    println!("{points} crash points, seeds {first_seed}..{seed}, {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_durable_and_serves_no_wrong_byte() {
    crash_until(CRASH_POINTS_MIN * 3 / 4, 1, &Faults { latency_ticks_max: 8, ..Faults::default() });
}

#[test]
fn a_power_cut_on_a_device_that_fails_now_and_then_serves_no_wrong_byte() {
    crash_until(CRASH_POINTS_MIN / 4, 100_000, &Faults::honest(0.02));
}
