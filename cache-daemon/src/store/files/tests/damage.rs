//! Damage of files and maps: every flipped bit is noticed, and takes the file out of every hand.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

fn flip(path: &Path, bit: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn every_flipped_bit_that_a_read_touches_is_noticed_and_revokes_the_file() {
    let seed = 20_261_125;
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let home = Home::new();
    let (store, figures) = home.open_as(home.config(16 * MIB));
    let bytes = MIB + 200_000;
    let data = object(1, bytes);
    for round in 0..150 {
        assert_eq!(put_all(&store, 1, &data), Appended::Stored);
        let complete = store.complete_file(&fingerprint(1)).unwrap();
        let bit = rng.random_range(0..8 * bytes);
        flip(&home.path_of(1), bit);
        let (revoked, failures) = (figures.revoked_files.get(), figures.checksum_failures.get());
        let chunk = (bit / 8 / MIB) as u32;
        let at = (bit / 8 % MIB) as u32;
        let block = at / 65_536 * 65_536..(at / 65_536 + 1) * 65_536;
        let len = store.contains(&key(1, chunk)).unwrap();
        let start = rng.random_range(0..len);
        let range = start..rng.random_range(start + 1..=len);
        let touched = range.start < block.end && block.start < range.end;
        match get(&store, 1, chunk, range.clone()) {
            Ok(got) => {
                assert!(!touched, "round {round}: bit {bit} was not noticed");
                let wanted = chunk_of(&data, chunk);
                assert!(got == wanted[range.start as usize..range.end as usize]);
                // The scrubber reads everything.
                assert_eq!(get_all(&store, 1, chunk), Err(Miss::Corrupt), "round {round}: bit {bit}");
            }
            Err(miss) => assert_eq!((miss, touched), (Miss::Corrupt, true), "round {round}: bit {bit}"),
        }
        assert!(complete.is_revoked() && store.complete_file(&fingerprint(1)).is_none());
        assert_eq!(store.contains(&key(1, 1 - chunk)), None, "all of it is forgotten");
        assert_eq!(
            (figures.revoked_files.get(), figures.checksum_failures.get()),
            (revoked + 1, failures + 1)
        );
    }
}

#[test]
fn damage_from_between_two_runs_is_found_before_the_file_is_offered() {
    let home = Home::new();
    let store = home.open(32 * MIB);
    for number in 0..8 {
        assert_eq!(put_all(&store, number, &object(number, 2 * MIB)), Appended::Stored);
    }
    drop(store);
    for number in 0..4 {
        flip(&home.path_of(number), number * 4_111_111);
    }
    let (store, figures) = home.open_as(home.config(32 * MIB));
    until("the verification", || (figures.scrubbed_bytes.get() >= 8 * MIB).then_some(()));
    until("the revocation", || (figures.revoked_files.get() == 4).then_some(()));
    for number in 0..8 {
        let offered = until("the end", || match number {
            0..4 => Some(store.complete_file(&fingerprint(number)).is_some()),
            _ => store.complete_file(&fingerprint(number)).map(|_| true),
        });
        assert_eq!(offered, number >= 4, "{number}");
    }
}

#[test]
fn damage_of_a_map_costs_the_file_or_what_was_filled_last_and_never_a_wrong_byte() {
    let seed = 7;
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let home = Home::new();
    let data = object(1, 2 * MIB + 77);
    let mut outcomes = [0; 3];
    for round in 0..16 {
        let store = home.open(16 * MIB);
        store.forget(&fingerprint(1), 3);
        assert_eq!(put(&store, 1, &data, 0), Appended::Stored);
        store.sync().unwrap();
        assert_eq!(put(&store, 1, &data, 2), Appended::Stored);
        drop(store);
        let slot = std::fs::metadata(home.map_of(1)).unwrap().len() / 2;
        for half in 0..2 {
            if rng.random_bool(0.6) {
                flip(&home.map_of(1), 8 * slot * half + rng.random_range(0..8 * slot));
            }
        }
        let store = home.open(16 * MIB);
        let there = [0, 1, 2].map(|chunk| store.contains(&key(1, chunk)).is_some());
        outcomes[there.iter().filter(|there| **there).count()] += 1;
        assert!(!there[1] && (there[0] || !there[2]), "round {round}: {there:?}");
        for chunk in [0, 2] {
            let read = get_all(&store, 1, chunk);
            assert!(read == Err(Miss::Absent) || read.unwrap() == chunk_of(&data, chunk), "round {round}");
        }
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn a_file_that_is_deleted_or_truncated_behind_our_back_is_a_miss_and_forgotten() {
    let home = Home::new();
    let (store, figures) = home.open_as(home.config(32 * MIB));
    for number in 0..4 {
        assert_eq!(put_all(&store, number, &object(number, 2 * MIB)), Appended::Stored);
    }
    let truncate = |number, len| {
        std::fs::File::options().write(true).open(home.path_of(number)).unwrap().set_len(len).unwrap();
    };
    truncate(0, MIB + 5000);
    assert_eq!(get_all(&store, 0, 1), Err(Miss::Corrupt));
    truncate(1, 0);
    assert!(store.complete_file(&fingerprint(1)).is_none());
    std::fs::remove_file(home.path_of(2)).unwrap();
    assert!(store.complete_file(&fingerprint(2)).is_none());
    std::fs::remove_file(home.path_of(3)).unwrap();
    assert_eq!(get_all(&store, 3, 0), Err(Miss::Corrupt));
    assert_eq!((figures.revoked_files.get(), store.usage().extents), (4, 0));
    for number in 0..4 {
        assert_eq!(put_all(&store, number, &object(number, 2 * MIB)), Appended::Stored);
        assert!(get_all(&store, number, 1).is_ok());
    }
}
