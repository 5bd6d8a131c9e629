//! Fetches ahead over the same rig: what readers see of them, and what becomes of each command.

use std::time::Instant;

use super::*;
use crate::access::FileNo;
use crate::cache::{Done, Prefetcher};
use crate::policy::readahead::{Outcome, Prefetch};

impl Rig {
    fn command(&self, key: &str) -> Prefetch {
        let file = FileNo(self.ino(key).0 as u32);
        Prefetch { file, unit: None, bytes: self.objects[key].len() as u64 }
    }
}

/// Waits until `count` commands are done.
fn done(prefetcher: &Prefetcher, count: usize) -> Vec<Done> {
    let (mut done, began) = (Vec::new(), Instant::now());
    while done.len() < count {
        assert!(began.elapsed() < Duration::from_secs(20), "{} of {count}", done.len());
        done.extend(prefetcher.take_done());
        std::thread::sleep(Duration::from_millis(1));
    }
    done
}

#[test]
fn what_is_fetched_ahead_is_read_from_the_store_and_never_fetched_twice() {
    let rig = Rig::new(&[300, 110 << 10, (9 << 20) + 5]);
    let prefetcher = Prefetcher::new(rig.cache.clone());
    let commands: Vec<_> = ["o0", "o1", "o2"].map(|key| rig.command(key)).to_vec();
    assert!(commands.iter().all(|command| prefetcher.is_absent(command.file)));
    prefetcher.ask(8, &commands);
    assert!(done(&prefetcher, 3).iter().all(|done| done.outcome == Outcome::Fetched));
    rig.settle();
    assert_eq!(rig.gets(), 2 + 3, "units of 4 MiB");
    assert!(commands.iter().all(|command| !prefetcher.is_absent(command.file)));
    for key in ["o0", "o1", "o2"] {
        assert_eq!(rig.read(rig.ino(key), 100, 150).expect("bytes"), &rig.objects[key][100..250]);
    }
    prefetcher.ask(8, &commands);
    assert!(done(&prefetcher, 3).iter().all(|done| done.outcome == Outcome::Needless));
    assert_eq!((rig.gets(), prefetcher.outstanding()), (5, (0, 0)));
}

#[test]
fn a_reader_joins_a_fetch_that_is_under_way() {
    let rig = Rig::new(&[110 << 10]);
    let prefetcher = Prefetcher::new(rig.cache.clone());
    rig.faulty.set(Faults { stall: 1.0, stall_for: Duration::from_millis(200), ..Faults::default() });
    prefetcher.ask(1, &[rig.command("o0")]);
    assert!(!prefetcher.is_absent(rig.command("o0").file), "it is on its way");
    assert_eq!(rig.read(rig.ino("o0"), 0, 4096).expect("bytes"), &rig.objects["o0"][..4096]);
    assert_eq!((rig.gets(), rig.cache.figures().joined.get()), (1, 1));
    assert_eq!(done(&prefetcher, 1)[0].outcome, Outcome::Fetched);
}

#[test]
fn the_depth_is_kept_and_every_command_is_answered() {
    let rig = Rig::new(&[4096; 60]);
    let prefetcher = Prefetcher::new(rig.cache.clone());
    rig.faulty.set(Faults { stall: 1.0, stall_for: Duration::from_millis(5), ..Faults::default() });
    let commands: Vec<_> = (0..60).map(|n| rig.command(&format!("o{n}"))).collect();
    prefetcher.ask(7, &commands);
    let mut most = 0;
    while prefetcher.outstanding().0 > 0 {
        most = most.max(rig.cache.figures().fills_in_flight.get());
    }
    assert!((2..=7).contains(&most), "{most}");
    assert_eq!(done(&prefetcher, 60).len(), 60);
}

#[test]
fn a_failed_fetch_ahead_is_no_readers_error() {
    let rig = Rig::new(&[4096]);
    let prefetcher = Prefetcher::new(rig.cache.clone());
    rig.faulty.set(Faults { fail: 1.0, ..Faults::default() });
    prefetcher.ask(4, &[rig.command("o0")]);
    assert_eq!(done(&prefetcher, 1)[0].outcome, Outcome::Failed);
    assert_eq!(rig.cache.figures().failed.get(), 0);
    rig.faulty.set(Faults::default());
    assert!(rig.read(rig.ino("o0"), 0, 4096).is_ok());
}

#[test]
fn memory_is_left_for_readers_and_the_end_is_not_held_up() {
    // Sixteen prefetches of 1 MiB would take all of the memory for fills.
    let rig = Rig::limited(
        &[1 << 20; 20],
        CacheLimits { fill_bytes_max: 8 << 20, ..CacheLimits::default() },
        64 << 20,
    );
    let prefetcher = Prefetcher::new(rig.cache.clone());
    rig.faulty.set(Faults { stall: 1.0, stall_for: Duration::from_secs(3600), ..Faults::default() });
    let commands: Vec<_> = (0..16).map(|n| rig.command(&format!("o{n}"))).collect();
    prefetcher.ask(16, &commands);
    while rig.gets() < 6 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(prefetcher.in_flight(), 6, "three quarters of eight");
    rig.faulty.set(Faults::default());
    assert!(rig.read(rig.ino("o19"), 0, 4096).is_ok());
    prefetcher.stop();
    rig.cache.stop_fetching();
    rig.settle();
    assert_eq!(prefetcher.in_flight(), 0);
}
