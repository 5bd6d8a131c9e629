//! The index against a HashMap, and under threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::object::Fingerprint;

/// A few fingerprints that fall into few buckets, so that buckets overflow, and a few that do not.
fn key(object: u8, chunk: u8) -> ExtentKey {
    let mut bytes = [0; 16];
    if object >= 8 {
        bytes = Fingerprint::of("o", &object.to_string(), "e", 1).0;
    } else {
        bytes[0] = object;
    }
    ExtentKey { object: Fingerprint(bytes), chunk: u32::from(chunk) }
}

fn addr(seed: u32) -> ExtentAddr {
    ExtentAddr {
        segment: SegmentId::new(seed as u8, seed % 1000),
        generation: Generation(seed),
        offset: seed % 16384 * 4096,
        len: 1 + seed % (1 << 20),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(ExtentKey, ExtentAddr),
    Remove(ExtentKey),
    RemoveIf(ExtentKey, Option<ExtentAddr>),
    SwapIf(ExtentKey, Option<ExtentAddr>, ExtentAddr),
    RetainOdd,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || (0u8..24, 0u8..32).prop_map(|(object, chunk)| key(object, chunk));
    let addr = || any::<u32>().prop_map(addr);
    let op = prop_oneof![
        8 => (key(), addr()).prop_map(|(key, addr)| Op::Insert(key, addr)),
        4 => key().prop_map(Op::Remove),
        2 => (key(), proptest::option::of(addr())).prop_map(|(key, addr)| Op::RemoveIf(key, addr)),
        4 => (key(), proptest::option::of(addr()), addr())
            .prop_map(|(key, from, to)| Op::SwapIf(key, from, to)),
        1 => Just(Op::RetainOdd),
    ];
    proptest::collection::vec(op, 1..1500)
}

/// Applies `op` to both and compares what they answer. `None` as an address stands for the true one.
fn step(index: &Index, oracle: &mut HashMap<ExtentKey, ExtentAddr>, op: Op) {
    match op {
        Op::Insert(key, addr) => assert_eq!(index.insert(key, addr), oracle.insert(key, addr)),
        Op::Remove(key) => assert_eq!(index.remove(&key), oracle.remove(&key)),
        Op::RemoveIf(key, from) => {
            let from = from.or(oracle.get(&key).copied()).unwrap_or(addr(0));
            let expected = oracle.get(&key) == Some(&from);
            assert_eq!(index.remove_if(&key, from), expected);
            if expected {
                oracle.remove(&key);
            }
        }
        Op::SwapIf(key, from, to) => {
            let from = from.or(oracle.get(&key).copied()).unwrap_or(addr(0));
            let expected = oracle.get(&key) == Some(&from);
            assert_eq!(index.swap_if(&key, from, to), expected);
            if expected {
                oracle.insert(key, to);
            }
        }
        Op::RetainOdd => {
            let before = oracle.len();
            oracle.retain(|_, addr| addr.len % 2 == 1);
            assert_eq!(index.retain(&mut |_, addr| addr.len % 2 == 1), before - oracle.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_answers_as_a_hash_map_does(ops in ops()) {
        let index = Index::with_capacity(0);
        let mut oracle = HashMap::new();
        for op in ops {
            step(&index, &mut oracle, op);
            prop_assert_eq!(index.len(), oracle.len());
        }
        prop_assert_eq!(index.self_check(), Ok(()));
        let mut seen = HashMap::new();
        index.for_each(&mut |key, addr| assert_eq!(seen.insert(*key, addr), None));
        prop_assert_eq!(&seen, &oracle);
        for (object, chunk) in (0..24).flat_map(|object| (0..32).map(move |chunk| (object, chunk))) {
            let key = key(object, chunk);
            prop_assert_eq!(index.get(&key), oracle.get(&key).copied());
        }
    }
}

fn uniform(n: u64) -> ExtentKey {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..].copy_from_slice(&(n ^ 0x5555).wrapping_mul(0xd6e8_feb8_6659_fd93).to_le_bytes());
    ExtentKey { object: Fingerprint(bytes), chunk: 0 }
}

#[test]
fn an_extent_costs_64_bytes_at_most_whether_the_number_was_known_or_not() {
    let known = Index::with_capacity(200_000);
    let grown = Index::with_capacity(0);
    for n in 0..200_000 {
        known.insert(uniform(n), addr(n as u32));
        grown.insert(uniform(n), addr(n as u32));
        // The array of tables is what an empty shard costs.
        if n > 100_000 && n % 1000 == 0 {
            assert!(grown.memory_bytes() as u64 <= 64 * n, "{} bytes for {n}", grown.memory_bytes());
        }
    }
    assert!(known.memory_bytes() <= 54 * 200_000, "{} bytes", known.memory_bytes());
    for index in [known, grown] {
        assert_eq!(index.self_check(), Ok(()));
        assert!((0..200_000).all(|n| index.get(&uniform(n)) == Some(addr(n as u32))));
        assert!((200_000..300_000).all(|n| index.get(&uniform(n)).is_none()));
    }
}

/// Fields that all follow from one number and from the key, so that a torn address shows.
fn signed(key: u64, version: u32) -> ExtentAddr {
    let mark = (key as u32).wrapping_mul(0x9e37_79b9) ^ version;
    ExtentAddr { segment: SegmentId(mark), generation: Generation(version), offset: !mark, len: mark ^ 7 }
}

#[test]
fn readers_see_what_was_written_for_their_key_in_order_and_never_miss_what_is_there() {
    const KEPT: u64 = 3000;
    let rounds = 30;
    let index = Index::with_capacity(0);
    for n in 0..KEPT {
        index.insert(uniform(n), signed(n, 0));
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for seed in 0..3u64 {
            let (index, done) = (&index, &done);
            threads.spawn(move || {
                let mut newest = vec![0; KEPT as usize];
                let mut at = seed;
                while !done.load(Ordering::Relaxed) {
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed * 2 + 1);
                    let n = (at >> 33) % KEPT;
                    let found = index.get(&uniform(n)).expect("a kept extent is always there");
                    assert_eq!(found, signed(n, found.generation.0), "torn");
                    assert!(found.generation.0 >= newest[n as usize], "an older address came back");
                    newest[n as usize] = found.generation.0;
                }
            });
        }
        // One writer moves what is kept, the other makes the shards full, grow and empty.
        let mover = threads.spawn(|| {
            for version in 1..rounds {
                for n in 0..KEPT {
                    assert!(index.swap_if(&uniform(n), signed(n, version - 1), signed(n, version)));
                }
            }
        });
        for round in 0..rounds {
            let others = || KEPT + u64::from(round) * 1000..KEPT + 6000 + u64::from(round) * 1000;
            others().for_each(|n| assert_eq!(index.insert(uniform(n), signed(n, 1)), None));
            others().for_each(|n| assert!(index.remove_if(&uniform(n), signed(n, 1))));
        }
        let moved = mover.join();
        done.store(true, Ordering::Relaxed);
        moved.expect("the writer found what it had written");
    });
    assert_eq!(index.len() as u64, KEPT);
    assert_eq!(index.self_check(), Ok(()));
}
