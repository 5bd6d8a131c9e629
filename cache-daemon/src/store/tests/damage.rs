//! Damage: flipped bits and swapped blocks under extents that are in the index. Every one is noticed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::*;
use super::rig::{LARGE, Rig, data_of, format_as};
use crate::io::DeviceOffset;
use crate::store::layout::{Layout, Span};
use crate::store::record::EXTENT_HEADER_BYTES;

const SECTOR_BYTES: usize = 512;

fn filled(seed: u64) -> (Rig, Vec<u64>) {
    let layout = Layout { segment_bytes: 512 << 10, segments: 4 };
    let mut rig = Rig::open(format_as(seed, layout), None, seed);
    for key in (0..40).chain(LARGE..LARGE + 8) {
        assert_eq!(rig.put(key), Appended::Stored);
    }
    rig.sync().unwrap();
    let keys = rig.keys();
    (rig, keys)
}

fn overwrite(rig: &Rig, at: u64, bytes: &[u8]) {
    rig.device.write_at(bytes, DeviceOffset(at)).unwrap();
    rig.device.sync().unwrap();
}

fn on_device(rig: &Rig, at: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    rig.device.read_at(&mut content, DeviceOffset(at)).unwrap();
    content
}

/// Reads an extent that was damaged in `damaged` (bytes from its beginning) and puts it back into the index.
fn read_damaged(rig: &mut Rig, key: u64, range: Option<Range<u32>>, damaged: Range<u32>, told: &str) {
    let addr = rig.residents.get(&super::key(key)).unwrap();
    let wanted = range.clone().unwrap_or(0..addr.len);
    let span = Span::of(wanted.clone(), addr.len);
    let header = EXTENT_HEADER_BYTES as u32;
    let read = [0..header, header + span.data_start..header + span.data_end];
    let touched = read.iter().any(|part| part.start < damaged.end && damaged.start < part.end);
    let failures = rig.figures.checksum_failures.get();
    match rig.get(key, range) {
        Ok(bytes) => {
            assert!(!touched, "{told}: damage in {damaged:?} of {key} was not noticed");
            assert!(bytes == data_of(key)[wanted.start as usize..wanted.end as usize], "{told}");
        }
        Err(miss) => {
            assert_eq!((miss, touched), (Miss::Corrupt, true), "{told}: {damaged:?} of {key}");
            assert!(!rig.contains(key) && rig.figures.checksum_failures.get() == failures + 1);
            rig.residents.insert(super::key(key), addr);
        }
    }
}

fn some_range(rng: &mut SmallRng, len: u32) -> Option<Range<u32>> {
    let a = rng.random_range(0..len);
    rng.random_bool(0.3).then(|| a..rng.random_range(a + 1..=len))
}

#[test]
fn every_one_of_100_000_flipped_bits_and_swapped_blocks_is_noticed() {
    let seed = 20_261_125;
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut rig, keys) = filled(seed);
    for round in 0..90_000 {
        let key = keys[rng.random_range(0..keys.len())];
        let (at, bytes) = rig.place(key);
        let bit = rng.random_range(0..8 * u64::from(bytes));
        let byte = on_device(&rig, at + bit / 8, 1);
        overwrite(&rig, at + bit / 8, &[byte[0] ^ (1 << (bit % 8))]);
        let damaged = (bit / 8) as u32..(bit / 8) as u32 + 1;
        let range = some_range(&mut rng, bytes - EXTENT_HEADER_BYTES as u32);
        read_damaged(&mut rig, key, range, damaged, &format!("flip {round}, seed {seed}"));
        overwrite(&rig, at + bit / 8, &byte);
    }
    for round in 0..10_000 {
        let told = format!("swap {round}, seed {seed}");
        swap(&mut rig, &keys, &mut rng, &told);
    }
    for key in keys {
        assert!(rig.get(key, None).unwrap() == data_of(key), "everything was put back");
    }
}

/// Swaps a sector or a page of an extent with another one on the device.
fn swap(rig: &mut Rig, keys: &[u64], rng: &mut SmallRng, told: &str) {
    let unit = if rng.random_bool(0.5) { SECTOR_BYTES } else { PAGE_BYTES as usize };
    let key = keys[rng.random_range(0..keys.len())];
    let (at, bytes) = rig.place(key);
    let here = at + rng.random_range(0..u64::from(bytes).div_ceil(unit as u64)) * unit as u64;
    let start = rig.volume.layout.segment_at(0).0;
    let units = (rig.volume.layout.volume_bytes() - start) / unit as u64;
    let there = start + rng.random_range(0..units) * unit as u64;
    let (mine, other) = (on_device(rig, here, unit), on_device(rig, there, unit));
    let Some(first) = mine.iter().zip(&other).position(|(mine, other)| mine != other) else { return };
    let damaged = (here - at) as u32 + first as u32;
    if damaged >= bytes {
        return;
    }
    overwrite(rig, here, &other);
    overwrite(rig, there, &mine);
    read_damaged(rig, key, None, damaged..damaged + 1, told);
    overwrite(rig, there, &other);
    overwrite(rig, here, &mine);
}
