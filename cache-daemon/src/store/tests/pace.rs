//! Fills hold back: under a cap on their bandwidth, and while somebody reads.

use super::super::*;
use super::rig::{Rig, data_of, format, format_as};
use crate::io::sim::Faults;
use crate::store::layout::Layout;

const MIB: u64 = 1 << 20;

#[test]
fn fills_keep_to_their_bandwidth() {
    let layout = Layout { segment_bytes: 1 << 20, segments: 12 };
    let mut rig = Rig::open_with(format_as(1, layout), None, 1, |limits| limits.bytes_per_s = Some(MIB));
    let answers: Vec<_> = (0..60).map(|key| rig.append(key)).collect();
    let stored = answers.iter().filter(|answer| rig.wait_for(answer) == Appended::Stored).count();
    assert_eq!(stored, 60);
    let written = rig.figures.device_write_bytes.get();
    // The first batch is free, and it takes 100 ms to notice that time has passed.
    let least_ms = written.saturating_sub(MIB) * 1000 / MIB;
    let took_ms = rig.now_ms();
    assert!(
        written > MIB / 2 && took_ms >= least_ms && took_ms < least_ms + 2000,
        "{written} in {took_ms} ms"
    );
}

#[test]
fn fills_yield_to_reads() {
    let mut rig = Rig::open_with(format(2), None, 2, |limits| {
        limits.depth = 3;
        limits.depth_under_reads = 1;
    });
    let small: Vec<u64> = (0..400).filter(|key| data_of(*key).len() < 8000).take(20).collect();
    rig.put(small[0]);
    rig.sync().unwrap();
    let in_flight = |rig: &mut Rig, keys: &[u64]| {
        rig.device.set_faults(Faults { stall: 1.0, ..Faults::default() });
        let answers: Vec<_> = keys
            .iter()
            .map(|key| {
                let answer = rig.append(*key);
                rig.work();
                answer
            })
            .collect();
        let writes = rig.figures.writes_in_flight.get();
        rig.device.set_faults(Faults::default());
        rig.device.release_stalled();
        answers.iter().for_each(|answer| assert_eq!(rig.wait_for(answer), Appended::Stored));
        writes
    };
    assert_eq!(in_flight(&mut rig, &small[1..5]), 3);
    rig.volume.reads_in_flight.fetch_add(1, Relaxed);
    assert_eq!(in_flight(&mut rig, &small[5..9]), 1);
    rig.volume.reads_in_flight.fetch_sub(1, Relaxed);
    assert_eq!(in_flight(&mut rig, &small[9..13]), 3);
}
