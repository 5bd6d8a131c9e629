//! Churn: objects come and go at random while the store is nearly full. What that costs is printed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::*;
use super::rig::{Rig, data_of, format_as};
use crate::store::layout::Layout;

/// Bytes written to the device for each byte of an extent, with so much of the space wanted.
fn churn(wanted_share: f64, seed: u64) -> f64 {
    let layout = Layout { segment_bytes: 256 << 10, segments: 24 };
    let mut rig = Rig::open(format_as(seed, layout), None, seed);
    let mut rng = SmallRng::seed_from_u64(seed);
    let room = u64::from(layout.room_bytes()) * u64::from(layout.segments);
    let wanted_max = (room as f64 * wanted_share) as u64;
    let (mut stored, mut full, mut live) = (0, 0, Vec::new());
    for key in 0..3000 {
        while rig.volume.segments.live_bytes_total() > wanted_max {
            let key = live.swap_remove(rng.random_range(0..live.len()));
            assert!(rig.forget(key));
        }
        for _ in 0..50 {
            match rig.put(key) {
                Appended::Stored => {
                    live.push(key);
                    stored += 1;
                    break;
                }
                Appended::Rejected(_) => {
                    full += 1;
                    rig.advance(100);
                }
            }
        }
        if key % 10 == 0 {
            let key = live[rng.random_range(0..live.len())];
            assert!(rig.get(key, None).unwrap() == data_of(key), "seed {seed}");
        }
    }
    for key in live {
        assert!(rig.get(key, None).unwrap() == data_of(key), "seed {seed}");
    }
    let appended: u64 = rig.figures.appended_bytes.get();
    let amplification = rig.figures.device_write_bytes.get() as f64 / appended as f64;
    let moved = rig.figures.relocated_bytes.get() as f64 / appended as f64;
    println!(
        "{:.0} % wanted: {stored} stored, {full} refusals, {moved:.2} bytes moved and {amplification:.2} written a byte stored",
        wanted_share * 100.0
    );
    assert_eq!(stored, 3000, "there was space for every one of them");
    amplification
}

#[test]
fn churn_finds_dead_space_again_and_its_cost_is_bounded() {
    let seed = 11;
    println!("seed {seed}");
    // The floor is 1.25: headers, and padding to pages of objects of 8 KiB on the average.
    for (wanted_share, amplification_max) in [(0.5, 2.0), (0.7, 3.0), (0.8, 4.5)] {
        let amplification = churn(wanted_share, seed);
        assert!(amplification < amplification_max, "{amplification}");
    }
}
