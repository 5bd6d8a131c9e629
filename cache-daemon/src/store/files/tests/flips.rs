//! Flipped bits and swapped blocks of files and maps on a simulated device: many, because it is fast.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::rig::{OBJECTS, Rig, chunks_of, data_of, format};
use super::*;
use crate::io::{DeviceFile, DeviceOffset};
use crate::store::layout::PAGE_BYTES;
use crate::store::record::BLOCK_BYTES;

const FLIPS: usize = 20_000;
const SWAPS: usize = 2_000;

fn flip(file: &DeviceFile, rng: &mut SmallRng) -> u64 {
    let bit = rng.random_range(0..8 * file.size_bytes().unwrap());
    let mut byte = [0];
    file.read_exact_at(&mut byte, DeviceOffset(bit / 8)).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], DeviceOffset(bit / 8)).unwrap();
    bit / 8
}

/// A rig with every object in it; the damage of a small one is as good as that of a large one, and cheaper.
fn filled(seed: u64) -> (Rig, SmallRng) {
    println!("seed {seed}");
    let mut rig = Rig::open(format(seed), seed);
    assert!((0..OBJECTS).all(|number| rig.put_all(number)));
    (rig, SmallRng::seed_from_u64(seed))
}

fn any_object(rng: &mut SmallRng) -> u64 {
    if rng.random_bool(0.02) { rng.random_range(0..OBJECTS) } else { 5 + rng.random_range(0..2) }
}

/// Object `number` is damaged at `at`: what touches that is noticed and takes the file, what does not is right.
fn read_damaged(rig: &mut Rig, rng: &mut SmallRng, (number, at): (u64, u64), told: &str) {
    let held = rig.file(number).unwrap();
    let (chunk, at) = ((at / MIB) as u32, (at % MIB) as u32);
    let data = chunk_of(data_of(number), chunk);
    let start = rng.random_range(0..data.len() as u32);
    let range = start..rng.random_range(start + 1..=data.len() as u32);
    let (failures, revoked) = (rig.figures.checksum_failures.get(), rig.figures.revoked_files.get());
    match rig.get(number, chunk, range.clone()) {
        Ok(bytes) => {
            let block = at / BLOCK_BYTES as u32;
            let touched = range.start / BLOCK_BYTES as u32..range.end.div_ceil(BLOCK_BYTES as u32);
            assert!(!touched.contains(&block), "{told}: byte {at} of {number} was not noticed in {range:?}");
            assert!(bytes == data[range.start as usize..range.end as usize], "{told}");
            assert_eq!(rig.get_all(number, chunk), Err(Miss::Corrupt), "{told}: byte {at} of {number}");
        }
        Err(miss) => assert_eq!(miss, Miss::Corrupt, "{told}: byte {at} of {number}"),
    }
    let counted = (rig.figures.checksum_failures.get(), rig.figures.revoked_files.get());
    assert_eq!(counted, (failures + 1, revoked + 1), "{told}");
    assert!(held.is_gone() && held.is_damaged() && rig.file(number).is_none(), "{told}: taken back");
    rig.work();
    assert!(rig.put_all(number), "{told}");
}

#[test]
fn every_flipped_bit_of_a_file_on_the_device_is_noticed_by_the_read_that_touches_it() {
    let (mut rig, mut rng) = filled(5);
    for round in 0..FLIPS {
        let number = any_object(&mut rng);
        let at = flip(&rig.raw(number), &mut rng);
        read_damaged(&mut rig, &mut rng, (number, at), &format!("flip {round}"));
    }
    assert!((0..OBJECTS).all(|number| rig.file(number).unwrap().is_verified()));
}

#[test]
fn every_block_that_is_swapped_with_one_of_another_file_is_noticed() {
    let (mut rig, mut rng) = filled(6);
    for round in 0..SWAPS {
        let (number, other) = (any_object(&mut rng), rng.random_range(0..OBJECTS));
        let unit = if rng.random_bool(0.5) { 512 } else { u64::from(PAGE_BYTES) };
        let (mine, theirs) = (rig.raw(number), rig.raw(other));
        let units = |file: &DeviceFile| file.size_bytes().unwrap() / unit;
        if units(&mine).min(units(&theirs)) == 0 {
            continue;
        }
        let here = rng.random_range(0..units(&mine)) * unit;
        let there = rng.random_range(0..units(&theirs)) * unit;
        let [mut old, mut new] = [(); 2].map(|()| vec![0; unit as usize]);
        mine.read_exact_at(&mut old, DeviceOffset(here)).unwrap();
        theirs.read_exact_at(&mut new, DeviceOffset(there)).unwrap();
        let Some(first) = old.iter().zip(&new).position(|(old, new)| old != new) else { continue };
        mine.write_all_at(&new, DeviceOffset(here)).unwrap();
        read_damaged(&mut rig, &mut rng, (number, here + first as u64), &format!("swap {round}"));
    }
}

#[test]
fn after_a_restart_damage_of_files_and_maps_is_found_before_anything_is_offered() {
    let (mut rig, mut rng) = filled(7);
    rig.sync().unwrap();
    let (mut refused, mut lost, mut offered) = (0, 0, 0);
    for round in 0..60 {
        for number in 0..OBJECTS {
            match rng.random_range(0..4) {
                0 => _ = flip(&rig.raw(number), &mut rng),
                1 => (0..8).for_each(|_| _ = flip(&rig.raw_map(number), &mut rng)),
                _ => {}
            }
        }
        rig = Rig::open(rig.device.reopen(), round);
        for number in 0..OBJECTS {
            let Some(file) = rig.file(number) else {
                lost += 1;
                continue;
            };
            assert!(!file.is_verified(), "round {round}: {number} was not read");
            // What the verifier does.
            let whole = (0..chunks_of(number)).all(|chunk| match rig.get_all(number, chunk) {
                Ok(bytes) => bytes == chunk_of(data_of(number), chunk) || panic!("wrong bytes of {number}"),
                Err(_) => false,
            });
            let mut bytes = vec![0; data_of(number).len()];
            assert_eq!(whole, file.is_verified() && !file.is_gone(), "round {round}: {number}");
            if whole {
                offered += 1;
                rig.raw(number).read_exact_at(&mut bytes, DeviceOffset(0)).unwrap();
                assert!(bytes == *data_of(number), "round {round}: {number} would be offered");
            } else if file.is_gone() {
                refused += 1;
            }
        }
        rig.work();
        assert!((0..OBJECTS).all(|number| rig.put_all(number)));
        rig.sync().unwrap();
    }
    println!("{offered} offered, {refused} damaged, {lost} without a map");
    assert!(offered > 100 && refused > 100 && lost > 5);
}
