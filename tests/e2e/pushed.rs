//! Files that `cachectl push` put into the page cache: their readers send the daemon nothing.

use epochcache_tests::bed::data_set::{DataSet, Shape};
use epochcache_tests::bed::mount::{Bed, Mount, PATIENCE, cachectl};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::reader::{Readers, permutation};
use epochcache_tests::bed::s3::Weather;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::Value;

use crate::{Outcome, needs_fuse};

/// The last line of `cachectl push --json PATH`, and its exit code.
fn push(path: &std::path::Path) -> anyhow::Result<(Value, Option<i32>)> {
    let said = cachectl(&["push", "--json"], path)?;
    let last = said.out.lines().last().unwrap_or_default();
    let progress = serde_json::from_str(last).map_err(|error| anyhow::anyhow!("{error}: {said:?}"))?;
    Ok((progress, said.status.code()))
}

/// Does it until nobody on this machine has dropped all page caches in between: another program's tests may.
pub(crate) fn undisturbed<T>(mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let drops = || -> anyhow::Result<_> {
        let stat = std::fs::read_to_string("/proc/vmstat")?;
        Ok(stat.lines().find(|line| line.starts_with("drop_pagecache")).map(str::to_owned))
    };
    for _ in 0..20 {
        let (before, outcome) = (drops()?, attempt()?);
        if drops()? == before {
            return Ok(outcome);
        }
    }
    anyhow::bail!("page caches are dropped on this machine without end")
}

fn fuse_requests(before: &epochcache_tests::bed::stats::Stats, mount: &Mount) -> anyhow::Result<u64> {
    let after = mount.stats()?;
    let kinds = ["fuse_lookup", "fuse_getattr", "fuse_read", "fuse_readdirplus", "fuse_release"];
    Ok(kinds.iter().map(|kind| after.grown(before, kind)).sum())
}

#[test]
fn a_pushed_data_set_is_read_without_a_request_and_pushing_it_fetches_what_is_not_stored() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::awkward(300), &Weather::default())?;
    // Nobody has listed or read anything yet.
    let mount = bed.mount(&["--serve", "noopen", "--page-cache-size", "200MiB"])?;
    bed.origin.reset()?;
    let (progress, code) = push(mount.path())?;
    assert_eq!((progress["done"].as_bool(), code), (Some(true), Some(0)), "{progress}");
    let (files, bytes) = (bed.files() as u64, bed.data_set.manifest.total_bytes());
    assert_eq!(
        (progress["pushed_files"].as_u64(), progress["total_files"].as_u64()),
        (Some(files), Some(files))
    );
    assert_eq!(progress["pushed_bytes"].as_u64(), Some(bytes));
    assert_eq!(bed.origin.counters()?.get_bytes, bytes, "each byte once");

    let before = mount.stats()?;
    assert!(before.figure("fuse_lookup") < files, "names were made known by listings");
    assert_eq!(before.figure("fuse_push_stored_bytes"), bytes);
    let requests = undisturbed(|| {
        push(mount.path())?;
        let before = mount.stats()?;
        bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
        fuse_requests(&before, &mount)
    })?;
    assert_eq!(requests, 0, "not one for {files} files");

    // From the store now, and again over pages that are there.
    bed.origin.reset()?;
    mount.wait_until_stored()?;
    let (progress, code) = push(mount.path())?;
    assert_eq!((progress["pushed_files"].as_u64(), code), (Some(files), Some(0)), "{progress}");
    assert_eq!(bed.origin.counters()?.get, 0);
    assert_eq!(progress["held_bytes"], before.figure("fuse_push_held_bytes"), "no page counts twice");
    mount.unmount()
}

#[test]
fn a_budget_that_is_too_small_is_kept_and_what_found_no_room_is_told() -> Outcome {
    needs_fuse!();
    const BUDGET: u64 = 16 << 20;
    let bed = Bed::new(&Shape::of(300), &Weather::default())?;
    let mount = bed.mount(&["--serve", "noopen", "--page-cache-size", "16MiB"])?;
    let (progress, code) = push(mount.path())?;
    assert_eq!((progress["done"].as_bool(), code), (Some(true), Some(1)), "{progress}");
    let count = |name: &str| progress[name].as_u64().unwrap_or_default();
    assert_eq!(count("pushed_files") + count("over_budget_files"), 300, "{progress}");
    assert!(count("over_budget_files") > 50, "{progress}");
    let held = mount.stats()?.figure("fuse_push_held_bytes");
    assert!((BUDGET - BUDGET / 20..=BUDGET).contains(&held), "{held} of {BUDGET}");
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;

    // The kernel takes it all back, as under memory pressure: there is room again.
    forget_pages(&bed, &mount)?;
    let (again, _) = push(mount.path())?;
    assert_eq!(again["pushed_files"], progress["pushed_files"], "{again}");
    let held = mount.stats()?.figure("fuse_push_held_bytes");
    assert!((BUDGET - BUDGET / 20..=BUDGET).contains(&held), "{held} of {BUDGET}");
    mount.unmount()
}

fn forget_pages(bed: &Bed, mount: &Mount) -> Outcome {
    for sample in &bed.data_set.manifest.files {
        let file = std::fs::File::open(mount.path().join(&sample.path))?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_pushed_is_refused_or_counted_and_never_hangs() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(40), &Weather::default())?;
    let mount = bed.mount(&["--page-cache-size", "0"])?;
    let said = cachectl(&["push"], mount.path())?;
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(said.err.contains("--page-cache-size is 0"), "{said:?}");
    mount.unmount()?;

    // Gone at the origin, and the mount does not know yet.
    let mount = bed.mount(&["--immutable"])?;
    let gone = &bed.data_set.manifest.files[7];
    bed.origin.delete(DataSet::BUCKET, &DataSet::key(gone))?;
    let (progress, code) = push(mount.path())?;
    assert_eq!((progress["failed_files"].as_u64(), code), (Some(1), Some(1)), "{progress}");
    assert_eq!(progress["pushed_files"], 39, "{progress}");
    let said = cachectl(&["push"], &mount.path().join("no/such"))?;
    assert!(said.status.code() == Some(2) && said.err.contains("no such file"), "{said:?}");

    // More than any machine has: cut, and told.
    mount.unmount()?;
    let mount = bed.mount(&["--page-cache-size", "900TiB"])?;
    let said = cachectl(&["stats", "--json"], mount.path())?;
    let stats: Value = serde_json::from_str(&said.out)?;
    let degraded = stats["degraded"].to_string();
    assert!(degraded.contains("page cache budget") && degraded.contains("were asked for"), "{degraded}");
    mount.unmount()
}

#[test]
fn a_push_that_is_given_up_leaves_a_daemon_that_serves_and_unmounts() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(200), &Weather { delay_ms: 1_000, ..Weather::default() })?;
    let mount = bed.mount(&[])?;
    let cachectl = epochcache_tests::bed::programs::program("cachectl");
    let start = || {
        let mut command = std::process::Command::new(&cachectl);
        command.args(["push", "--json"]).arg(mount.path());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()
    };
    let mut child = start()?;
    wait_until(PATIENCE, "the push begins", || Ok(mount.stats()?.figure("fuse_push_stored") > 3))?;
    child.kill()?;
    child.wait()?;
    let file = &bed.data_set.manifest.files[190];
    assert_eq!(file.wrong_bytes(&std::fs::read(mount.path().join(&file.path))?), 0);

    // And one that is under way when the mount goes.
    let before = mount.stats()?;
    let mut child = start()?;
    wait_until(
        PATIENCE,
        "another push begins",
        || Ok(mount.stats()?.grown(&before, "fuse_push_stored") > 3),
    )?;
    mount.unmount()?;
    assert!(!child.wait()?.success());
    Ok(())
}

#[test]
fn in_open_mode_large_objects_are_read_ahead_on_their_local_files_and_small_ones_pushed() -> Outcome {
    needs_fuse!();
    let shape = Shape { first_sizes: vec![5 << 20, (12 << 20) + 4097], ..Shape::of(20) };
    let bed = Bed::new(&shape, &Weather::default())?;
    let mount = bed.mount(&["--serve", "open"])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    wait_until(PATIENCE, "the large ones are complete", || {
        Ok(mount.stats()?.figure("store_files_completed") == 2)
    })?;
    let (progress, code) = push(mount.path())?;
    assert_eq!(code, Some(0), "{progress}");
    let backed = progress["backed_files"].as_u64();
    if mount.log().contains("passthrough") && backed == Some(0) {
        println!("SKIP: no passthrough here: {}", mount.log());
        return Ok(());
    }
    assert_eq!((backed, progress["pushed_files"].as_u64()), (Some(2), Some(18)), "{progress}");
    let reads = undisturbed(|| {
        push(mount.path())?;
        let before = mount.stats()?;
        bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
        Ok(mount.stats()?.grown(&before, "fuse_read"))
    })?;
    assert_eq!(reads, 0);
    mount.unmount()
}

#[test]
fn a_push_is_no_reading_to_whoever_plans() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(40), &Weather::default())?;
    // Without probes, requests are all that is known of readers.
    let mount = bed.mount(&["--probes", "off", "--serve", "noopen"])?;
    let (progress, _) = push(mount.path())?;
    assert_eq!(progress["pushed_files"], 40, "{progress}");
    forget_pages(&bed, &mount)?;
    let sample = &bed.data_set.manifest.files[5];
    assert_eq!(sample.wrong_bytes(&std::fs::read(mount.path().join(&sample.path))?), 0);
    wait_until(PATIENCE, "the one reading is known", || Ok(mount.stats()?.figure("planner_touches") > 0))?;
    let touches = mount.stats()?.figure("planner_touches");
    assert!(touches <= 4, "{touches} beginnings and ends of one reading");
    mount.unmount()
}

#[test]
fn of_an_order_that_is_followed_what_comes_next_is_pushed_and_what_was_read_is_dropped() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(2_000), &Weather::default())?;
    let options = ["--serve", "noopen", "--page-cache-size", "32MiB"];
    let mount = bed.mount(&options)?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    mount.unmount()?;

    // Another mount: nothing is in the page cache.
    let mount = bed.mount(&options)?;
    let files = &bed.data_set.manifest.files;
    let order: String = permutation(files.len(), 1, 2).map(|at| format!("{}\n", files[at].path)).collect();
    std::fs::write(mount.path().join(".epochcache/order"), order)?;
    wait_until(PATIENCE, "the order is taken", || Ok(mount.stats()?.figure("planner_orders_told") == 1))?;
    let mut readers = Readers::start(&bed.reading(mount.path()).paced(400.0))?;
    let epoch = readers.begin(2)?;
    let mut held_max = 0;
    while mount.stats()?.figure("planner_push_used") < 1_000 && !mount.log().contains("epoch has ended") {
        held_max = mount.stats()?.figure("fuse_push_held_bytes").max(held_max);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    epoch.end()?.must_be_right(bed.files())?;
    let stats = mount.stats()?;
    let figure = |name: &str| stats.figure(name);
    assert!(held_max <= 32 << 20, "{held_max}");
    assert_eq!((figure("planner_orders_wrong"), figure("cache_misses")), (0, 0));
    assert!(figure("planner_push_used") >= 1_000 && figure("planner_push_dropped") >= 500, "{}", mount.log());
    assert!(figure("fuse_read") < 1_000, "{} READs", figure("fuse_read"));
    Ok(())
}
