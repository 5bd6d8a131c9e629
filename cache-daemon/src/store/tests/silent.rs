//! Devices that fail or fall silent: who waits is answered, and the volume comes back.

use super::super::*;
use super::rig::{LAYOUT, Rig, data_of, format};
use crate::io::sim::Faults;
use crate::store::health::State;

fn stalls() -> Faults {
    Faults { stall: 1.0, ..Faults::default() }
}

#[test]
fn a_read_of_a_silent_device_is_a_miss_after_its_deadline_and_costs_nothing_later() {
    let mut rig = Rig::open(format(1), None, 1);
    rig.put(1);
    rig.sync().unwrap();
    rig.device.set_faults(stalls());
    // More than there are buffers: the last ones are refused without ever having had one.
    for _ in 0..6 {
        let before = rig.now_ms();
        assert_eq!(rig.get(1, None), Err(Miss::Failed));
        let waited = rig.now_ms() - before;
        assert!((3000..3300).contains(&waited), "{waited} ms");
    }
    rig.device.set_faults(Faults::default());
    rig.device.release_stalled();
    for _ in 0..6 {
        assert!(rig.get(1, None).unwrap() == data_of(1));
    }
    assert_eq!(rig.figures.reads_in_flight.get(), 0);
}

#[test]
fn a_segment_with_a_write_that_never_ended_is_not_used_again_until_it_ends() {
    let mut rig = Rig::open(format(2), None, 2);
    let small: Vec<u64> = (0..100).filter(|key| data_of(*key).len() < 8000).take(2).collect();
    rig.put(small[0]);
    rig.device.set_faults(stalls());
    let before = rig.now_ms();
    assert_eq!(rig.put(small[1]), Appended::Rejected(Rejection::Failed));
    assert!((10_000..10_300).contains(&(rig.now_ms() - before)));
    assert!(rig.keys().is_empty(), "the segment is poisoned with all that was in it");
    rig.device.set_faults(Faults::default());
    let free = |rig: &Rig| rig.volume.free_segments.load(Relaxed);
    rig.advance(1);
    assert_eq!(free(&rig), u64::from(LAYOUT.segments) - 1);
    for key in 0..60 {
        rig.put(key);
        if rig.contains(key) {
            assert!(rig.get(key, None).unwrap() == data_of(key));
        }
    }
    // One is in reserve.
    assert_eq!(free(&rig), 1);
    // Only now the device writes what it was given long ago.
    rig.device.release_stalled();
    rig.advance(1);
    assert_eq!(free(&rig), 2);
    for key in rig.keys() {
        assert!(rig.get(key, None).unwrap() == data_of(key));
    }
}

#[test]
fn a_failed_sync_forgets_what_it_was_for_and_nothing_else() {
    let mut rig = Rig::open(format(3), None, 3);
    (0..30).for_each(|key| _ = rig.put(key));
    rig.sync().unwrap();
    let durable = rig.keys();
    (100..104).for_each(|key| _ = rig.put(key));
    rig.device.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
    let written_segments: Vec<_> =
        (100..104).filter_map(|key| rig.residents.get(&super::key(key))).map(|addr| addr.segment).collect();
    let lost = |rig: &Rig, key: u64| {
        rig.residents.get(&super::key(key)).is_some_and(|addr| written_segments.contains(&addr.segment))
    };
    let expected: Vec<u64> = durable.iter().copied().filter(|key| !lost(&rig, *key)).collect();
    if written_segments.is_empty() {
        return assert!(rig.sync().is_ok(), "nothing was dirty");
    }
    assert!(rig.sync().is_err());
    assert_eq!(rig.keys(), expected);
    rig.device.set_faults(Faults::default());
    assert!(rig.sync().is_ok());
    for key in expected {
        assert!(rig.get(key, None).unwrap() == data_of(key));
    }
}

#[test]
fn a_volume_that_fails_goes_out_and_comes_back_when_it_answers() {
    let mut rig = Rig::open(format(4), None, 4);
    (0..5).for_each(|key| _ = rig.put(key));
    rig.device.set_faults(Faults { read_error: 1.0, ..Faults::default() });
    for _ in 0..10 {
        assert_eq!((rig.volume.state(), rig.get(1, None)), (State::In, Err(Miss::Failed)));
    }
    assert_eq!(rig.volume.state(), State::Out);
    let reads = rig.figures.device_reads.get();
    assert_eq!((rig.get(1, None), rig.put(9)), (Err(Miss::Failed), Appended::Rejected(Rejection::Failed)));
    assert_eq!(rig.figures.device_reads.get(), reads, "a volume that is out is not asked");
    for _ in 0..20 {
        rig.advance(10_000);
        assert_ne!(rig.volume.state(), State::In, "trials fail too");
    }
    rig.device.set_faults(Faults::default());
    rig.advance(60_000);
    rig.advance(1);
    assert_eq!(rig.volume.state(), State::In);
    assert!(rig.get(1, None).unwrap() == data_of(1));
    assert_eq!(rig.figures.volumes_out.get(), 0);
}
