//! What probes cost each read. Printed, never asserted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use cache_daemon::probe::Probes;

use crate::{Mounted, drop_pages};

/// ns per read: the median over rounds that alternate between with and without probes.
#[test]
#[ignore = "a measurement: cargo test --release -p epochcache-tests --test probes cost -- --ignored --nocapture"]
fn cost_of_cached_reads() {
    let Some(mounted) = Mounted::new(&[16 << 20]) else { return };
    let sample = &mounted.samples[0];
    let file = File::open(&sample.path).unwrap();
    std::fs::read(&sample.path).unwrap();
    for (name, len, count) in [("pread4k", 4096, 50_000_u64), ("pread128k", 131_072, 4_000)] {
        let mut buffer = vec![0; len];
        let mut round = || {
            let began = busy_ns();
            for n in 0..count {
                let at = (n * 7919 * len as u64) % (sample.size - len as u64) / len as u64 * len as u64;
                file.read_exact_at(&mut buffer, at).unwrap();
            }
            (busy_ns() - began) as f64 / count as f64
        };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..15 {
            without.push(round());
            let Some(probes) = mounted.watch() else { return };
            with.push(round());
            drop(probes);
            // The kernel takes the programs away a grace period later.
            std::thread::sleep(Duration::from_millis(50));
        }
        let (without, with) = (median(without), median(with));
        println!("{name}: {without:.0} ns without, {with:.0} ns with: {:.3}", with / without);
    }
    let Some(probes) = mounted.watch() else { return };
    let _measuring = Probes::measure().unwrap();
    for n in 0..200_000 {
        file.read_exact_at(&mut [0; 4096], n % 4096 * 4096).unwrap();
    }
    for cost in probes.costs().iter().filter(|cost| cost.runs > 0) {
        println!(
            "{}: {} runs, {} ns each",
            cost.program,
            cost.runs,
            cost.time.as_nanos() / u128::from(cost.runs)
        );
    }
    drop_pages(&file);
}

/// What this thread has run so far, ns: other load on the machine does not show.
fn busy_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time`.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
