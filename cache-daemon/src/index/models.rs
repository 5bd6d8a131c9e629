//! The lock-free part under every interleaving that the memory model allows (loom).
//!
//! These are the shard, the search and the bucket as they are, over loom's atomics and small tables:
//! run by plain `cargo test`. Memory given back is modelled as a store of zero to every word, a bucket's
//! header first: the kernel replaces the page that holds all of them, so no reader that sees one word
//! gone can then see the old header.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

use super::addr::{ExtentAddr, Generation, SegmentId};
use super::bucket::{Bucket, Key, SLOTS, Word};
use super::shard::Shard;
use super::table::Table;
use crate::object::{ExtentKey, Fingerprint};

/// An atomic of loom's, and the newest value for the one thread that writes.
///
/// The writer's loads (it knows what it stored last) must not be loom's: loom remembers one last access
/// of each atomic, so a load by the writer before its store hides that a reader was there, and the
/// other order is never tried. Found by breaking the code: with them, no mutation failed.
struct Modelled64 {
    atomic: AtomicU64,
    newest: std::sync::atomic::AtomicU64,
}

loom::thread_local! {
    static WRITES: Cell<bool> = Cell::new(false);
}

impl Modelled64 {
    fn zero() -> Self {
        Self { atomic: AtomicU64::new(0), newest: std::sync::atomic::AtomicU64::new(0) }
    }
}

impl Word for Modelled64 {
    fn load(&self, order: Ordering) -> u64 {
        if WRITES.with(Cell::get) { self.newest.load(Ordering::Relaxed) } else { self.atomic.load(order) }
    }

    fn store(&self, value: u64, order: Ordering) {
        self.newest.store(value, Ordering::Relaxed);
        self.atomic.store(value, order);
    }

    fn fence(order: Ordering) {
        fence(order);
    }
}

struct Modelled(Vec<Bucket<Modelled64>>);

impl Deref for Modelled {
    type Target = [Bucket<Modelled64>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Table for Modelled {
    type Word = Modelled64;

    fn zeroed(buckets: usize) -> Self {
        Self((0..buckets).map(|_| Bucket::of(Modelled64::zero)).collect())
    }

    fn release(&self) {
        // All keys live in the first.
        self.0[0].erase();
    }
}

/// A key whose home is the first bucket of any small table, and whose tag is `n` modulo 256.
fn key(n: u64) -> Key {
    // The hash is the low word times an odd number: dividing by it chooses the hash.
    let inverse =
        (0..6).fold(1u64, |x, _| x.wrapping_mul(2u64.wrapping_sub(x.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    let low = (n << 32 | n).wrapping_mul(inverse);
    Key::new(&ExtentKey { object: Fingerprint(u128::from(low).to_le_bytes()), chunk: 0 })
}

/// Addresses whose every field is `version`, so that a torn one shows.
fn addr(version: u32) -> ExtentAddr {
    let (segment, generation) = (SegmentId(version), Generation(version));
    ExtentAddr { segment, generation, offset: version, len: version }
}

fn shard(extents: u64) -> Arc<Shard<Modelled>> {
    let shard = Shard::with_capacity(0, Modelled64::zero());
    (0..extents).for_each(|n| put(&shard, n, addr(1)));
    Arc::new(shard)
}

fn put(shard: &Shard<Modelled>, n: u64, addr: ExtentAddr) {
    write(shard, n, Some(addr));
}

fn forget(shard: &Shard<Modelled>, n: u64) {
    write(shard, n, None);
}

fn write(shard: &Shard<Modelled>, n: u64, addr: Option<ExtentAddr>) {
    WRITES.with(|writes| writes.set(true));
    assert!(shard.update(&key(n), |_| true, addr).is_ok());
    WRITES.with(|writes| writes.set(false));
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // One preemption, and all that relaxed loads may return: seconds. Taking out either fence, either
    // second look, the Release of the header, or `moved` (or calling it late) fails a model at this bound.
    // LOOM_MAX_PREEMPTIONS=2 looks further and takes long.
    builder.preemption_bound = builder.preemption_bound.or(Some(1));
    builder.max_branches = 100_000;
    builder.check(model);
}

fn version_read(shard: &Shard<Modelled>, n: u64) -> Option<u32> {
    shard.get(&key(n)).map(|found| {
        assert_eq!(found, addr(found.len), "torn");
        found.len
    })
}

#[test]
fn replacing_is_atomic_and_slots_are_reused_safely() {
    check(|| {
        let shard = shard(1);
        let writer = thread::spawn({
            let shard = shard.clone();
            // Three versions in turn use two slots: the third overwrites the words of the first.
            move || (2..=3).for_each(|version| put(&shard, 0, addr(version)))
        });
        version_read(&shard, 0).expect("it is always there");
        writer.join().expect("the writer does not panic");
        assert_eq!(version_read(&shard, 0), Some(3));
    });
}

#[test]
fn another_key_in_the_same_slot_with_the_same_tag_is_not_taken_for_it() {
    check(|| {
        let shard = shard(1);
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                forget(&shard, 0);
                put(&shard, 256, addr(7));
            }
        });
        assert!(matches!(version_read(&shard, 0), None | Some(1)));
        writer.join().expect("the writer does not panic");
        assert_eq!((version_read(&shard, 0), version_read(&shard, 256)), (None, Some(7)));
    });
}

#[test]
fn an_extent_that_moves_between_buckets_is_never_missed() {
    check(|| {
        // The first bucket is full, so replacing 0 puts it into the second. Replacing it again puts it
        // back: a reader that had looked there already then comes too late to the second.
        let shard = shard(SLOTS as u64);
        put(&shard, 0, addr(2));
        let writer = thread::spawn({
            let shard = shard.clone();
            move || put(&shard, 0, addr(3))
        });
        version_read(&shard, 0).expect("it is always there");
        writer.join().expect("the writer does not panic");
        assert_eq!(version_read(&shard, 0), Some(3));
        assert_eq!(shard.self_check(), Ok(()));
    });
}

#[test]
fn an_extent_is_never_missed_while_the_table_grows_and_the_old_one_is_erased() {
    check(|| {
        let shard = shard(1);
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                WRITES.with(|writes| writes.set(true));
                shard.grow();
            }
        });
        assert_eq!(version_read(&shard, 0), Some(1));
        writer.join().expect("the writer does not panic");
        assert_eq!(version_read(&shard, 0), Some(1));
    });
}
