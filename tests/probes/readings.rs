//! Beginnings and ends of readings: each is reported once, and in each thread's order.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::{Mounted, assert_counted, events, is_disturbed, missed, tid};

#[test]
fn an_epoch_shuffle_by_many_threads_is_reported_in_each_threads_order() {
    let mut random = StdRng::seed_from_u64(5);
    let sizes: Vec<u64> = (0..600).map(|_| random.random_range(1..200_000)).collect();
    let Some(mounted) = Mounted::new(&sizes) else { return };
    let Some(probes) = mounted.watch() else { return };
    // Twice: from the source, and from the page cache.
    for epoch in 0..2 {
        probes.set_epoch(epoch + 7);
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.shuffle(&mut random);
        let parts: Vec<Vec<usize>> = order.chunks(sizes.len().div_ceil(8)).map(<[usize]>::to_vec).collect();
        let read = |part: &Vec<usize>| {
            part.iter().for_each(|n| drop(fs::read(&mounted.samples[*n].path).unwrap()));
            tid()
        };
        let threads: Vec<u32> = thread::scope(|scope| {
            let running: Vec<_> = parts.iter().map(|part| scope.spawn(move || read(part))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut seen: HashMap<u32, Vec<u64>> = HashMap::new();
        let mut ends = 0;
        for event in events(&probes) {
            assert_eq!(event.tgid, std::process::id());
            ends += u64::from(event.ends);
            if event.begins {
                seen.entry(event.tid).or_default().push(event.ino.0);
            }
        }
        let missed = missed(&probes);
        eprintln!("epoch {epoch}: {missed} runs left out so far");
        // Each file's end is reached once.
        assert_counted(ends, sizes.len() as u64, missed, 1);
        for (part, tid) in parts.iter().zip(&threads) {
            let done: Vec<u64> = part.iter().map(|n| mounted.samples[*n].ino.0).collect();
            let seen = seen.remove(tid).unwrap_or_default();
            assert_counted(seen.len() as u64, done.len() as u64, missed, 1);
            assert!(is_part(&seen, &done), "epoch {epoch}: {seen:?} of {done:?}");
        }
        assert!(seen.is_empty(), "somebody else read: {seen:?}");
        for sample in &mounted.samples {
            let heat = probes.heat(sample.ino);
            assert_counted(heat.begins.into(), (epoch + 1).into(), missed, 1);
            assert!(heat.begins < epoch + 1 || heat.epoch == epoch + 7, "{heat:?}");
        }
    }
    assert_eq!(probes.figures().events_dropped.get(), 0);
}

/// Whether `part` is `whole` with some left out.
fn is_part(part: &[u64], whole: &[u64]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|wanted| rest.any(|found| found == wanted))
}

#[test]
fn a_thread_that_comes_back_to_a_file_goes_on_with_it() {
    let Some(mounted) = Mounted::new(&[1 << 20, 1 << 20]) else { return };
    let Some(probes) = mounted.watch() else { return };
    let files: Vec<File> = mounted.samples.iter().map(|sample| File::open(&sample.path).unwrap()).collect();
    for part in 0..8 {
        for file in &files {
            file.read_exact_at(&mut vec![0; 1 << 17], part << 17).unwrap();
        }
    }
    if is_disturbed(&probes) {
        return;
    }
    let seen = events(&probes);
    let begun: Vec<u64> = seen.iter().filter(|event| event.begins).map(|event| event.ino.0).collect();
    let ended: Vec<u64> = seen.iter().filter(|event| event.ends).map(|event| event.ino.0).collect();
    let both: Vec<u64> = mounted.samples.iter().map(|sample| sample.ino.0).collect();
    assert_eq!((begun, ended), (both.clone(), both));
}

#[test]
fn a_pause_ends_a_reading() {
    let Some(mounted) = Mounted::new(&[1 << 20]) else { return };
    let Some(probes) = mounted.watch_with(|options| options.pause = Duration::from_millis(50)) else {
        return;
    };
    let file = File::open(&mounted.samples[0].path).unwrap();
    for part in 0..3 {
        thread::sleep(Duration::from_millis(100));
        file.read_exact_at(&mut vec![0; 4096], part * 8192 + 4096).unwrap();
    }
    assert!(is_disturbed(&probes) || events(&probes).iter().filter(|event| event.begins).count() == 3);
}

#[test]
fn a_full_ring_is_counted_and_loses_nothing_else() {
    let sizes = vec![100; 500];
    let Some(mounted) = Mounted::new(&sizes) else { return };
    let Some(probes) = mounted.watch_with(|options| options.ring_bytes = 4096) else { return };
    for sample in &mounted.samples {
        fs::read(&sample.path).unwrap();
    }
    let figures = probes.figures();
    let taken = events(&probes).len() as u64;
    assert!(figures.events_dropped.get() > 0);
    let missed = missed(&probes);
    assert_counted(figures.events_dropped.get() + taken, 500, missed, 1);
    assert_counted(figures.readings.get(), 500, missed, 1);
    assert_counted(figures.read_bytes.get(), 50_000, missed, 100);
    let counted = mounted.samples.iter().map(|sample| probes.heat(sample.ino).bytes).sum::<u64>();
    assert_eq!(counted, figures.read_bytes.get());
}

#[test]
fn readers_are_told_apart_by_process() {
    let Some(mounted) = Mounted::new(&[10_000, 20_000, 30_000]) else { return };
    let paths: Vec<_> = mounted.samples.iter().map(|sample| sample.path.clone()).collect();
    // Cached, because tier B's bytes are exact only then.
    paths.iter().for_each(|path| drop(fs::read(path).unwrap()));
    let Some(probes) = mounted.watch() else { return };
    let mut cat = std::process::Command::new("cat");
    let child = cat.args(&paths).stdout(std::process::Stdio::null()).spawn().unwrap();
    let pid = child.id();
    child.wait_with_output().unwrap();
    fs::read(&paths[0]).unwrap();
    if is_disturbed(&probes) {
        return;
    }
    let rows = probes.readers();
    let row = |tgid| rows.iter().find(|row| row.tgid == tgid).unwrap_or_else(|| panic!("{tgid} in {rows:?}"));
    let (cat, ours) = (row(pid), row(std::process::id()));
    assert_eq!((cat.command.as_str(), cat.files, cat.bytes, cat.threads), ("cat", 3, 60_000, 1));
    assert_eq!((ours.files, ours.bytes), (1, 10_000));
    assert_eq!(cat.cgroup, ours.cgroup);
    assert_eq!(rows[0].tgid, std::process::id(), "the last to read comes first");
}

#[test]
#[ignore = "takes 400 MiB of the kernel's memory"]
fn ten_million_inodes_fit() {
    let Some(mounted) = Mounted::new(&[5000]) else { return };
    let began = std::time::Instant::now();
    let Some(probes) = mounted.watch_with(|options| options.inodes = 10_000_000) else { return };
    fs::read(&mounted.samples[0].path).unwrap();
    assert_eq!(probes.heat(mounted.samples[0].ino).begins, 1);
    let report = probes.report();
    eprintln!("{} MiB of maps, attached after {:?}", report.map_bytes >> 20, began.elapsed());
}
