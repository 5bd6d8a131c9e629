//! Fetching ahead: a shuffled epoch is recognised, and nothing else pulls in a bucket.

use std::time::Duration;

use epochcache_tests::bed::data_set::{Sample, Shape};
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

const AWAY: Weather = Weather {
    delay_ms: 15,
    bytes_per_s: 0,
    fail_share: 0.0,
    truncate_share: 0.0,
    stall_share: 0.0,
    stall_ms: 0,
    seed: 1,
};

fn read<'a>(mount: &Mount, files: impl Iterator<Item = &'a Sample>) -> anyhow::Result<()> {
    for file in files {
        std::fs::read(mount.path().join(&file.path))?;
    }
    Ok(())
}

fn planner(mount: &Mount, key: &str) -> anyhow::Result<String> {
    Ok(mount.stats()?.0["planner"][key].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_cold_epoch_is_fetched_ahead_of_its_readers_each_object_once() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(1_200), &AWAY)?;
    for probes in ["auto", "off"] {
        let command = bed.mount_command().options(&["--probes", probes]);
        let _ = std::fs::remove_dir_all(&command.cache_dir);
        let mount = command.start()?;
        bed.origin.reset()?;
        let mut readers = bed.readers(&mount)?;
        readers.epoch(1)?.must_be_right(bed.files())?;
        let cold = bed.origin.counters()?;
        assert_eq!((cold.get, cold.get_bytes), (1_200, bed.data_set.manifest.total_bytes()), "{cold:?}");
        assert!(cold.gets_in_flight_max > 8 && cold.gets_in_flight_max <= 256, "{cold:?}");
        assert_eq!(planner(&mount, "workload")?, "shuffled epochs");

        readers.epoch(2)?.must_be_right(bed.files())?;
        assert_eq!(bed.origin.counters()?.get, 1_200);
        let stats = mount.stats()?;
        assert!(stats.figure("planner_prefetched") > 200, "{}", stats.figure("planner_prefetched"));
        assert_eq!(stats.figure("planner_prefetch_wasted"), 0);
        mount.unmount()?;
    }
    Ok(())
}

#[test]
fn a_few_files_a_walk_and_a_refusal_fetch_nothing_ahead() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(600), &Weather::default())?;
    let files = &bed.data_set.manifest.files;
    let settled = |mount: &Mount, reads: u64| -> anyhow::Result<()> {
        // Several turns of the planner.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(bed.origin.counters()?.get, reads);
        assert_eq!(mount.stats()?.figure("planner_prefetched"), 0);
        Ok(())
    };
    let mount = bed.mount(&[])?;
    bed.origin.reset()?;
    // Far apart, as a shuffle would have them.
    read(&mount, files.iter().step_by(4))?;
    settled(&mount, 150)?;
    mount.unmount()?;

    let walked = bed.mount_command();
    std::fs::remove_dir_all(&walked.cache_dir)?;
    let mount = walked.start()?;
    bed.origin.reset()?;
    let mut in_order: Vec<&Sample> = files.iter().collect();
    in_order.sort_by(|a, b| a.path.cmp(&b.path));
    read(&mount, in_order.into_iter().take(400))?;
    settled(&mount, 400)?;
    assert_eq!(planner(&mount, "workload")?, "in listing order");
    mount.unmount()?;

    let off = bed.mount_command().options(&["--prefetch", "off"]);
    std::fs::remove_dir_all(&off.cache_dir)?;
    let mount = off.start()?;
    bed.origin.reset()?;
    let shuffled = (0..400).map(|at| &files[at * 7 % 600]);
    read(&mount, shuffled)?;
    settled(&mount, 400)?;
    assert_eq!(planner(&mount, "activity")?, "off");
    Ok(())
}

#[test]
fn a_full_store_is_not_fetched_ahead_for() -> Outcome {
    needs_fuse!();
    // 250 MiB beside a store of 192.
    let shape = Shape { mean_bytes: 170 << 10, sigma: 0.3, ..Shape::of(1_500) };
    let bed = Bed::new(&shape, &AWAY)?;
    let mount = bed.mount_command().cache_size("192MiB").start()?;
    let mut readers = bed.readers(&mount)?;
    readers.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    let full = mount.stats()?;
    assert!(full.figure("cache_not_admitted") > 0, "it was to be too small");

    bed.origin.reset()?;
    readers.epoch(2)?.must_be_right(bed.files())?;
    let stats = mount.stats()?;
    assert_eq!(stats.grown(&full, "planner_prefetched"), 0);
    assert!(bed.origin.counters()?.get < bed.files() as u64, "what is stored is not fetched");
    assert_eq!(stats.figure("planner_prefetch_wasted"), 0);
    Ok(())
}
