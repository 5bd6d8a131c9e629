//! Crashes: power is cut at every write of seeded workloads of backing files. Opening never fails, nothing that was
//! durable is missing, no byte is wrong, and nothing is offered to the kernel before it was read.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::rig::{OBJECTS, Rig, chunks_of, data_of, format};
use super::*;
use crate::io::DeviceOffset;
use crate::io::sim::{Faults, SimDevice};

/// Distinct crash points that a run has at least.
const CRASH_POINTS_MIN: usize = 3000;

type Chunks = BTreeSet<(u64, u32)>;

/// Random fills, forgets, reads and syncs; a snapshot of the device at each write, and from which on what was promised.
fn workload(seed: u64, faults: Faults) -> (Vec<SimDevice>, Vec<(u64, Chunks)>, crate::io::sim::Injected) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let device = format(seed);
    let mut rig = Rig::open(device.clone(), seed);
    device.set_faults(faults);
    device.keep_snapshots();
    let (mut durable, mut promises) = (Chunks::new(), vec![(0, Chunks::new())]);
    for _ in 0..rng.random_range(40..100) {
        let number = rng.random_range(0..OBJECTS);
        match rng.random_range(0..20) {
            0..9 => _ = rig.put(number, rng.random_range(0..chunks_of(number))),
            9..11 => _ = rig.put_all(number),
            11..14 => {
                rig.forget(number);
                durable.retain(|(of, _)| *of != number);
            }
            14..16 => rig.advance(400),
            16 => {
                let read = rig.get_all(number, 0);
                assert!(read.is_err() || read.unwrap() == chunk_of(data_of(number), 0), "seed {seed}");
            }
            17 => rig.work(),
            _ => {
                if rig.sync().is_ok() {
                    durable = rig.chunks().into_iter().collect();
                }
            }
        }
        // Errors take files, and nobody is told: what is not there any more is not promised.
        durable.retain(|(number, chunk)| rig.contains(*number, *chunk));
        promises.push((device.boundaries(), durable.clone()));
    }
    let injected = device.injected();
    (device.take_snapshots(), promises, injected)
}

/// What holds for a crash at `boundary`: promised before it, and not taken back by an action that it is part of.
fn promised(promises: &[(u64, Chunks)], boundary: u64) -> Chunks {
    let made = promises.iter().rposition(|(from, _)| *from <= boundary).unwrap();
    match promises.get(made + 1) {
        Some((_, next)) => promises[made].1.intersection(next).copied().collect(),
        None => promises[made].1.clone(),
    }
}

fn check_recovered(rig: &mut Rig, durable: &Chunks, told: &str) {
    for (number, chunk) in durable {
        assert!(rig.contains(*number, *chunk), "{told}: chunk {chunk} of {number} was durable and is lost");
    }
    for number in 0..OBJECTS {
        assert!(rig.file(number).is_none_or(|file| !file.is_verified()), "{told}: {number} was not read");
    }
    for (number, chunk) in rig.chunks() {
        match rig.get_all(number, chunk) {
            Ok(bytes) => {
                assert!(bytes == chunk_of(data_of(number), chunk), "{told}: wrong bytes of {number}")
            }
            // The file is gone with its first damaged chunk.
            Err(miss) => assert!(
                !durable.contains(&(number, chunk)),
                "{told}: chunk {chunk} of {number} was durable and reading says {miss}"
            ),
        }
    }
    for number in 0..OBJECTS {
        if rig.file(number).is_some_and(|file| file.is_verified()) {
            let mut bytes = vec![0; data_of(number).len()];
            rig.raw(number).read_exact_at(&mut bytes, DeviceOffset(0)).unwrap();
            assert!(bytes == *data_of(number), "{told}: {number} would be offered with wrong bytes");
        }
    }
}

/// Goes on after a crash, and crashes again at the end.
fn go_on(mut rig: Rig, durable: &Chunks, rng: &mut SmallRng, told: &str) {
    let number = rng.random_range(0..OBJECTS);
    rig.forget(number);
    assert!(rig.put_all(number), "{told}: the device works again");
    let other = rng.random_range(0..OBJECTS);
    rig.put(other, 0);
    rig.sync().expect("the device works again");
    let kept = durable.iter().copied().filter(|(of, _)| *of != number);
    let kept = kept.chain((0..chunks_of(number)).map(|chunk| (number, chunk))).chain([(other, 0)]).collect();
    rig.device.power_cut(rng);
    check_recovered(&mut Rig::open(rig.device.reopen(), 7), &kept, told);
}

fn crash_until(points_min: usize, first_seed: u64, faults: &Faults) -> u64 {
    let started = Instant::now();
    let (mut points, mut seed, mut recovered, mut errors) = (0, first_seed, 0, 0);
    while points < points_min {
        let (snapshots, promises, injected) = workload(seed, faults.clone());
        let mut rng = SmallRng::seed_from_u64(seed);
        errors += injected.write_errors + injected.no_space + injected.sync_errors + injected.short;
        for (boundary, snapshot) in snapshots.into_iter().enumerate() {
            let told = format!("seed {seed}, crash at write {boundary}");
            points += 1;
            snapshot.power_cut(&mut rng);
            let durable = promised(&promises, boundary as u64);
            let mut rig = Rig::open(snapshot.reopen(), seed);
            check_recovered(&mut rig, &durable, &told);
            recovered += rig.chunks().len();
            if rng.random_bool(0.05) {
                go_on(rig, &durable, &mut rng, &told);
            }
        }
        seed += 1;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{points} crash points, seeds {first_seed}..{seed}, {recovered} chunks found, {errors} faults, {took:.1} s"
    );
    errors
}

#[test]
fn a_power_cut_at_any_write_loses_no_durable_chunk_and_serves_no_wrong_byte() {
    crash_until(CRASH_POINTS_MIN * 2 / 3, 1, &Faults { latency_ticks_max: 8, ..Faults::default() });
}

#[test]
fn a_power_cut_on_a_device_that_fails_now_and_then_serves_no_wrong_byte_of_a_file() {
    let errors = crash_until(CRASH_POINTS_MIN / 3, 100_000, &Faults::honest(0.1));
    assert!(errors > 200, "{errors}");
}
