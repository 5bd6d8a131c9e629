//! The simulator against what it promises: what survives, what is reported, and that a seed replays it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::checksum;
use crate::io::{BufferPool, Completion, DeviceFile, DeviceOffset, Engine, Operation, Token};

const BLOCK: usize = 4096;

fn write_block(device: &SimDevice, block: u64, byte: u8) {
    DeviceFile::from(device.clone())
        .write_all_at(&[byte; BLOCK], DeviceOffset(block * BLOCK as u64))
        .unwrap();
}

fn read_block(device: &SimDevice, block: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    DeviceFile::from(device.clone()).read_exact_at(&mut bytes, DeviceOffset(block * BLOCK as u64)).unwrap();
    bytes
}

/// Random writes and syncs of single blocks; for each block every content that a power cut may leave.
fn workload(device: &SimDevice, rng: &mut StdRng, steps: usize) -> Vec<Vec<u8>> {
    let mut possible = vec![vec![0u8]; 16];
    for step in 1..=steps {
        if rng.random_bool(0.2) {
            if device.sync().is_err() {
                break;
            }
            possible.iter_mut().for_each(|contents| *contents = vec![*contents.last().unwrap()]);
            continue;
        }
        let block = rng.random_range(0..16u64);
        possible[block as usize].push(step as u8);
        let bytes = [step as u8; BLOCK];
        if device.write_at(&bytes, DeviceOffset(block * BLOCK as u64)).is_err() {
            break;
        }
    }
    possible
}

fn assert_survived(device: &SimDevice, possible: &[Vec<u8>], context: &str) {
    for (block, contents) in (0..).zip(possible) {
        for sector in read_block(device, block).chunks(512) {
            let byte = sector[0];
            assert!(
                sector.iter().all(|other| *other == byte),
                "{context}: a sector of block {block} is torn"
            );
            assert!(
                contents.contains(&byte),
                "{context}: block {block} has {byte}, possible are {contents:?}"
            );
        }
    }
}

#[test]
fn after_a_power_cut_each_sector_is_as_synced_or_as_written_later() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let device = SimDevice::new(1 << 16, seed);
        let possible = workload(&device, &mut rng, 30);
        device.power_cut(&mut rng);
        assert!(device.write_at(&[0; BLOCK], DeviceOffset(0)).is_err(), "it works without power");
        let device = device.reopen();
        assert_survived(&device, &possible, &format!("seed {seed}"));
        for (block, contents) in (0..).zip(&possible).filter(|(_, contents)| contents.len() > 1) {
            let block = read_block(&device, block);
            let last = *contents.last().unwrap();
            torn += usize::from(block.chunks(512).any(|sector| sector[0] != block[0]));
            kept += usize::from(block.iter().all(|byte| *byte == last));
            lost += usize::from(block.iter().all(|byte| *byte == contents[0]));
        }
    }
    assert!(lost > 100 && kept > 100 && torn > 100, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn every_boundary_can_be_the_cut_and_its_snapshot_shows_the_same() {
    let whole = SimDevice::new(1 << 16, 1);
    whole.keep_snapshots();
    let mut possible_at = vec![];
    workload(&whole, &mut StdRng::seed_from_u64(1), 40);
    assert_eq!(whole.boundaries(), 40);
    for cut in 0..40 {
        let device = SimDevice::new(1 << 16, 1);
        device.cut_after(cut);
        let possible = workload(&device, &mut StdRng::seed_from_u64(1), 40);
        assert_eq!(device.boundaries(), cut + 1, "nothing starts after the cut");
        assert!(device.sync().is_err());
        assert_survived(&device.reopen(), &possible, &format!("cut after {cut}"));
        possible_at.push(possible);
    }
    let snapshots = whole.take_snapshots();
    assert_eq!(snapshots.len(), 40);
    for (cut, (snapshot, possible)) in snapshots.iter().zip(possible_at).enumerate() {
        snapshot.power_cut(&mut StdRng::seed_from_u64(cut as u64));
        assert_survived(&snapshot.reopen(), &possible, &format!("snapshot {cut}"));
    }
}

#[test]
fn a_restart_of_the_process_alone_loses_nothing() {
    let device = SimDevice::new(1 << 16, 1);
    write_block(&device, 3, 9);
    assert_eq!(read_block(&device.reopen(), 3), [9; BLOCK]);
}

#[test]
fn what_a_failed_sync_covered_is_lost_although_the_next_sync_succeeds() {
    let mut seen = [0; 2];
    for seed in 0..50 {
        let device = SimDevice::new(1 << 16, seed);
        write_block(&device, 0, 1);
        device.sync().unwrap();
        write_block(&device, 0, 2);
        device.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
        device.sync().unwrap_err();
        device.set_faults(Faults::default());
        seen[usize::from(read_block(&device, 0)[0] == 2)] += 1;
        device.sync().unwrap();
        device.power_cut(&mut StdRng::seed_from_u64(seed));
        assert_eq!(read_block(&device.reopen(), 0), [1; BLOCK]);
    }
    assert!(seen[0] > 0 && seen[1] > 0, "the cache shows the lost write sometimes: {seen:?}");
}

struct Driver {
    pool: BufferPool,
    engine: SimEngine,
    file: crate::io::FileSlot,
}

impl Driver {
    fn new(device: &SimDevice, seed: u64) -> Self {
        let mut engine = SimEngine::new(8, seed).unwrap();
        let file = engine.register(device.clone().into()).unwrap();
        Self { pool: BufferPool::new(8, 4 * BLOCK).unwrap(), engine, file }
    }

    fn write(&mut self, token: u64, byte: u8, block: u64) {
        let mut buffer = self.pool.take().unwrap();
        buffer.fill(byte);
        let at = DeviceOffset(block * BLOCK as u64);
        self.engine.submit(Token(token), self.file, Operation::Write { buffer, len: BLOCK, at });
    }

    fn read(&mut self, token: u64, len: usize, block: u64) {
        let buffer = self.pool.take().unwrap();
        let at = DeviceOffset(block * BLOCK as u64);
        self.engine.submit(Token(token), self.file, Operation::Read { buffer, len, at });
    }

    fn sync(&mut self, token: u64) {
        self.engine.submit(Token(token), self.file, Operation::Sync);
    }

    fn wait(&mut self, count: usize) -> Vec<Completion> {
        let mut done = Vec::new();
        while done.len() < count {
            self.engine.complete(Duration::from_secs(60), &mut done).unwrap();
        }
        done
    }
}

#[test]
fn a_sync_covers_only_what_completed_before_it_was_submitted() {
    let mut lost = 0;
    for seed in 0..30 {
        let device = SimDevice::new(1 << 16, seed);
        let mut driver = Driver::new(&device, seed);
        driver.write(1, 1, 0);
        driver.wait(1);
        driver.write(2, 2, 1);
        driver.sync(3);
        driver.wait(2);
        device.power_cut(&mut StdRng::seed_from_u64(seed));
        let device = device.reopen();
        assert_eq!(read_block(&device, 0), [1; BLOCK]);
        lost += usize::from(read_block(&device, 1) == [0; BLOCK]);
    }
    assert!(lost > 0, "the write beside the sync was always durable");
}

#[test]
fn what_is_in_flight_at_the_cut_is_not_acknowledged() {
    let device = SimDevice::new(1 << 16, 1);
    let mut driver = Driver::new(&device, 1);
    driver.write(1, 1, 0);
    driver.write(2, 2, 1);
    device.cut_after(1);
    for completion in driver.wait(2) {
        assert_eq!(completion.result.unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}

#[test]
fn one_seed_gives_one_history() {
    let history = |seed| {
        let device = SimDevice::new(1 << 16, seed);
        device.set_faults(Faults { stall: 0.0, ..Faults::lying(0.1) });
        let mut driver = Driver::new(&device, seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = vec![];
        for token in 0..1000 {
            match rng.random_range(0..3) {
                0 => driver.write(token, token as u8, rng.random_range(0..16)),
                1 => driver.read(token, 4 * BLOCK, rng.random_range(0..12)),
                _ => driver.sync(token),
            }
            if token % 8 == 7 {
                history.extend(driver.wait(8).into_iter().map(|completion| {
                    let bytes = completion.buffer.as_ref().map(|buffer| checksum::crc32c(buffer));
                    (completion.token, completion.result.map_err(|error| error.raw_os_error()), bytes)
                }));
            }
        }
        device.power_cut(&mut rng);
        let device = device.reopen();
        (history, (0..16).map(|block| read_block(&device, block)).collect::<Vec<_>>())
    };
    assert_eq!(history(5), history(5));
    assert_ne!(history(5), history(6));
    let order: Vec<_> = history(5).0.into_iter().map(|(token, ..)| token).collect();
    assert!(!order.is_sorted(), "completions never overtook each other");
}

#[test]
fn every_fault_happens_and_shows_as_it_should() {
    let device = SimDevice::new(1 << 20, 3);
    device.set_faults(Faults { bad_ranges: vec![4096..4097, 1 << 19..1 << 20], ..Faults::default() });
    let mut driver = Driver::new(&device, 3);
    let mut one = |faults: Option<Faults>, operation: &dyn Fn(&mut Driver)| {
        if let Some(faults) = faults {
            device.set_faults(faults);
        }
        operation(&mut driver);
        driver.wait(1).pop().unwrap().result.map_err(|error| error.raw_os_error().unwrap())
    };
    let base = Faults::default;
    assert_eq!(one(None, &|driver| driver.read(0, 2 * BLOCK, 0)), Err(libc::EIO));
    assert_eq!(one(None, &|driver| driver.read(0, BLOCK, 0)), Ok(BLOCK));
    assert_eq!(one(None, &|driver| driver.write(0, 1, 1)), Err(libc::EIO));
    let always = |faults| Some(faults);
    let short = one(always(Faults { short: 1.0, ..base() }), &|driver| driver.write(0, 1, 5)).unwrap();
    assert!(short > 0 && short < BLOCK && short.is_multiple_of(512), "{short}");
    assert_eq!(
        one(always(Faults { interrupted: 1.0, ..base() }), &|d| d.read(0, BLOCK, 0)),
        Err(libc::EINTR)
    );
    assert_eq!(one(always(Faults { no_space: 1.0, ..base() }), &|d| d.write(0, 1, 0)), Err(libc::ENOSPC));
    assert_eq!(one(always(Faults { sync_error: 1.0, ..base() }), &|d| d.sync(0)), Err(libc::EIO));
    assert_eq!(one(always(Faults { torn_write: 1.0, ..base() }), &|d| d.write(0, 8, 8)), Ok(BLOCK));
    assert_ne!(read_block(&device, 8), [8; BLOCK]);
    assert_eq!(one(always(Faults { misdirected_write: 1.0, ..base() }), &|d| d.write(0, 9, 9)), Ok(BLOCK));
    assert_ne!(read_block(&device, 9), [9; BLOCK]);
    let before = read_block(&device, 5);
    assert_eq!(one(always(Faults { rot: 1.0, ..base() }), &|d| d.read(0, BLOCK, 5)), Ok(BLOCK));
    device.set_faults(base());
    let flipped: u32 = before.iter().zip(read_block(&device, 5)).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(flipped, 1);
    let injected = device.injected();
    let counts = [injected.short, injected.interrupted, injected.no_space, injected.sync_errors];
    assert_eq!(counts, [1; 4]);
    assert_eq!([injected.torn_writes, injected.misdirected_writes, injected.rotten_bits], [1; 3]);
    assert_eq!([injected.read_errors, injected.write_errors], [1, 1]);
}

#[test]
fn the_end_of_the_device_is_short_then_nothing_then_no_space() {
    let device = SimDevice::new(2 * BLOCK as u64, 1);
    let mut bytes = [0; 2 * BLOCK];
    assert_eq!(device.read_at(&mut bytes, DeviceOffset(BLOCK as u64)).unwrap(), BLOCK);
    assert_eq!(device.read_at(&mut bytes, DeviceOffset(2 * BLOCK as u64)).unwrap(), 0);
    assert_eq!(device.write_at(&bytes, DeviceOffset(BLOCK as u64)).unwrap(), BLOCK);
    let beyond = device.write_at(&bytes, DeviceOffset(2 * BLOCK as u64)).unwrap_err();
    assert_eq!(beyond.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn stalled_operations_end_when_released_or_without_power() {
    for power in [true, false] {
        let device = SimDevice::new(1 << 16, 1);
        device.set_faults(Faults { stall: 1.0, ..Faults::default() });
        let mut driver = Driver::new(&device, 1);
        driver.write(1, 1, 0);
        let mut done = Vec::new();
        driver.engine.complete(Duration::from_millis(1), &mut done).unwrap();
        assert!(done.is_empty());
        let thread = std::thread::spawn(move || match power {
            true => device.release_stalled(),
            false => device.power_cut(&mut StdRng::seed_from_u64(1)),
        });
        assert_eq!(driver.wait(1).pop().unwrap().result.is_ok(), power);
        thread.join().unwrap();
    }
}

#[test]
fn rot_flips_as_many_bits_as_it_is_told() {
    let device = SimDevice::new(1 << 30, 1);
    write_block(&device, 77, 0);
    device.rot(1, &mut StdRng::seed_from_u64(1));
    assert_eq!(read_block(&device, 77).iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    assert_eq!(device.injected().rotten_bits, 1);
}

#[test]
fn a_sync_of_a_part_makes_that_part_durable_and_nothing_else() {
    let device = SimDevice::new(1 << 20, 1);
    let [first, second] = [0..8192, 8192..12_288].map(|part| device.part(part));
    assert_eq!((first.size_bytes(), second.size_bytes()), (8192, 4096));
    write_block(&first, 1, 1);
    write_block(&second, 0, 2);
    first.sync().unwrap();
    assert!(second.write_at(&[3; BLOCK], DeviceOffset(BLOCK as u64)).is_err(), "past its end");
    let mut lost = 0;
    for seed in 0..50 {
        let copy = device.reopen();
        copy.power_cut(&mut StdRng::seed_from_u64(seed));
        let copy = copy.reopen();
        assert_eq!(read_block(&copy, 1), [1; BLOCK]);
        lost += u32::from(read_block(&copy, 2) != [2; BLOCK]);
    }
    assert!(lost > 10, "{lost}");
    first.discard();
    assert_eq!((read_block(&device, 1), read_block(&device, 2)), ([0; BLOCK], [2; BLOCK]));
}
