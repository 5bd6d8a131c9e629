//! A full store under policies: who goes is gone from the store, and who came is there.

use super::*;
use crate::policy::eviction::{Objective, Pattern, PolicyKind, Rules, SetNo};

const OBJECTS: usize = 240;
const OBJECT_BYTES: usize = 500_000;

/// 120 MB of objects over a store of 64 MiB.
fn rig(policy: PolicyKind) -> Rig {
    let limits = CacheLimits { policy, ..CacheLimits::default() };
    Rig::limited(&[OBJECT_BYTES; OBJECTS], limits, 64 << 20)
}

impl Rig {
    /// Reads them whole, one after the other, each stored or refused before the next. A segment that is being
    /// emptied waits for a sync, and appends for the segment: here nobody waits a second for it.
    fn read_all(&self, objects: std::ops::Range<usize>) {
        for object in objects {
            let (key, len) = (format!("o{object}"), OBJECT_BYTES as u32);
            let read = self.read(self.ino(&key), 0, len).expect("the origin has it");
            assert!(read == self.objects[&key], "wrong bytes");
            self.settle();
            self.cache.store().sync().expect("the directory is good");
        }
    }

    fn stored(&self, objects: std::ops::Range<usize>) -> usize {
        let is_stored = |object: &usize| {
            let object = self.cache.catalog().object(self.ino(&format!("o{object}"))).expect("a file");
            let key = crate::object::ExtentKey { object: object.fingerprint, chunk: 0 };
            self.cache.store().contains(&key).is_some()
        };
        objects.filter(is_stored).count()
    }

    /// The policy's account and the store agree.
    fn agrees(&self) {
        let extents = self.cache.store().usage().extents;
        assert_eq!(self.stored(0..OBJECTS) as u64, extents);
    }
}

#[test]
fn under_lru_a_full_store_has_what_was_read_last() {
    let rig = rig(PolicyKind::Lru);
    rig.read_all(0..OBJECTS);
    assert!(rig.cache.figures().evicted.get() > 50);
    let (early, late) = (rig.stored(0..80), rig.stored(OBJECTS - 80..OBJECTS));
    assert!(early == 0 && late >= 60, "{early} of the first 80, {late} of the last");
    rig.agrees();
    // What is there is hit, and what went comes back.
    rig.read_all(0..OBJECTS);
}

#[test]
fn in_epochs_nothing_goes() {
    let rig = rig(PolicyKind::Epoch);
    rig.read_all(0..OBJECTS);
    let stored = rig.stored(0..OBJECTS);
    rig.read_all(0..OBJECTS);
    assert_eq!((rig.cache.figures().evicted.get(), rig.stored(0..OBJECTS)), (0, stored));
    assert!(rig.cache.figures().not_admitted.get() > 0 && stored > 90, "{stored}");
}

#[test]
fn a_set_that_is_over_gives_its_room_to_another() {
    let rig = rig(PolicyKind::Epoch);
    rig.read_all(0..120);
    let before = rig.stored(120..240);
    let firsts: std::collections::HashSet<Ino> = (0..120).map(|n| rig.ino(&format!("o{n}"))).collect();
    rig.cache.eviction().recognise(Arc::new(move |ino| Pattern::Epoch(SetNo(!firsts.contains(&ino) as u8))));
    rig.cache.eviction().retire(SetNo(0));
    rig.read_all(120..240);
    rig.read_all(120..240);
    let (first, second) = (rig.stored(0..120), rig.stored(120..240));
    assert!(before == 0 && second > 60, "{first} of the first set, {second} of the second");
    rig.agrees();
}

#[test]
fn what_is_stored_from_before_can_go() {
    let rig = rig(PolicyKind::Fifo);
    rig.read_all(0..60);
    // As after a restart: an account that knows nothing.
    (0..60).for_each(|n| rig.cache.eviction().forget(rig.ino(&format!("o{n}"))));
    rig.cache.know_what_is_stored();
    rig.read_all(60..OBJECTS);
    assert_eq!(rig.stored(0..60), 0);
}

#[test]
fn where_requests_are_saved_small_objects_take_the_room_of_large_ones() {
    let sizes: Vec<usize> = (0..400).map(|object| if object < 200 { 400_000 } else { 20_000 }).collect();
    let small_stored = |objective| {
        let rules = Rules { objective, ..Rules::default() };
        let rig = Rig::limited(&sizes, CacheLimits { rules, ..CacheLimits::default() }, 32 << 20);
        for object in (0..400).chain(0..400) {
            let read =
                rig.read(rig.ino(&format!("o{object}")), 0, sizes[object] as u32).expect("the origin has it");
            assert!(read == rig.objects[&format!("o{object}")], "wrong bytes");
            rig.settle();
            rig.cache.store().sync().expect("the directory is good");
        }
        rig.stored(200..400)
    };
    let (of_bytes, of_requests) = (small_stored(Objective::Bytes), small_stored(Objective::Requests));
    assert!(of_bytes < 50 && of_requests > 190, "{of_bytes} and {of_requests} of 200");
}
