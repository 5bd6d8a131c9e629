//! What is not ours is not counted.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use cache_daemon::probe::Heat;

use crate::{Mounted, assert_counted, events, missed};

#[test]
fn another_mount_and_another_file_system_are_not_counted() {
    let sizes = [50_000; 20];
    let (Some(ours), Some(theirs)) = (Mounted::new(&sizes), Mounted::new(&sizes)) else { return };
    let (Some(probes), Some(probes_of_theirs)) = (ours.watch(), theirs.watch()) else { return };
    let disk = tempfile::NamedTempFile::new().unwrap();
    fs::write(disk.path(), vec![1; 50_000]).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                theirs.samples.iter().for_each(|sample| drop(fs::read(&sample.path).unwrap()));
                fs::read(disk.path()).unwrap();
                fs::read("/proc/self/stat").unwrap();
                if done.load(Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            ours.samples.iter().take(10).for_each(|sample| drop(fs::read(&sample.path).unwrap()));
        }
        done.store(true, Relaxed);
    });
    let missed = missed(&probes);
    for (n, sample) in ours.samples.iter().enumerate() {
        let heat = probes.heat(sample.ino);
        let times = if n < 10 { 20 } else { 0 };
        assert_counted(heat.bytes, times * 50_000, missed, 50_000);
        assert_counted(heat.begins.into(), times, missed, 1);
    }
    assert_eq!(probes.heat(fuse_frontend::source::Ino(u64::MAX)), Heat::default());
    let figures = probes.figures();
    assert_counted(figures.read_bytes.get(), 200 * 50_000, missed, 50_000);
    assert_counted(figures.readings.get(), 200, missed, 1);
    assert_eq!(probes.readers().len(), 1);
    let expected: Vec<u64> = ours.samples.iter().take(10).map(|sample| sample.ino.0).collect();
    let begun: Vec<u64> =
        events(&probes).into_iter().filter(|event| event.begins).map(|event| event.ino.0).collect();
    assert!(missed > 0 || begun == expected.repeat(20), "{begun:?}");
    assert!(theirs.samples.iter().all(|sample| probes_of_theirs.heat(sample.ino).begins > 0));
}
