//! `cachectl stats` beside a running mount.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount, PATIENCE, cachectl};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::s3::{Counters, Weather};
use epochcache_tests::bed::stats::FUSE_REQUESTS;

use crate::{Outcome, needs_fuse};

#[test]
fn stats_tell_what_the_server_saw() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(100), &Weather::default())?;
    let mount = bed.mount(&["--serve", "noopen"])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(100)?;
    mount.wait_until_stored()?;

    let (stats, counters) = (mount.stats()?, bed.origin.counters()?);
    assert_eq!(stats.figure("origin_gets"), counters.get);
    assert_eq!(stats.figure("origin_bytes"), counters.get_bytes);
    assert_eq!(stats.figure("origin_lists"), counters.list);
    assert_eq!(stats.figure("origin_heads"), 0);
    assert_eq!(stats.pid()?, mount.pid());
    assert_eq!(stats.serve(), "noopen");
    assert!(FUSE_REQUESTS.iter().all(|name| stats.0["figures"].get(name).is_some()), "{}", stats.0);
    assert!(stats.figure("fuse_read") >= 100);

    let table = cachectl(&["stats"], mount.path())?;
    assert!(table.status.success() && table.out.lines().count() > 20, "{}{}", table.out, table.err);
    Ok(())
}

/// Reads file `number` in `weather`, which clears up when `enough` has happened.
fn read_in(
    bed: &Bed,
    mount: &Mount,
    number: usize,
    weather: &Weather,
    enough: impl Fn(&Counters) -> bool,
) -> anyhow::Result<()> {
    let sample = &bed.data_set.manifest.files[number];
    bed.origin.set_weather(weather)?;
    let read = std::thread::scope(|scope| -> anyhow::Result<Vec<u8>> {
        let reading = scope.spawn(|| std::fs::read(mount.path().join(&sample.path)));
        wait_until(PATIENCE, "the weather has had its effect", || Ok(enough(&bed.origin.counters()?)))?;
        bed.origin.set_weather(&Weather::default())?;
        Ok(reading.join().expect("it does not panic")?)
    })?;
    assert_eq!(sample.wrong_bytes(&read), 0);
    Ok(())
}

#[test]
fn an_epoch_that_has_ended_names_its_slowest_files_and_what_held_them_up() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(600), &Weather::default())?;
    let mount = bed.mount(&["--origin-requests", "16"])?;
    let fine = Weather::default();
    let weathers = [
        ("slow first byte", Weather { delay_ms: 2_000, ..fine.clone() }),
        ("slow body", Weather { stall_share: 1.0, stall_ms: 2_000, ..fine.clone() }),
        ("throttled by the origin", Weather { fail_share: 1.0, ..fine.clone() }),
        ("retried", Weather { truncate_share: 1.0, ..fine }),
    ];
    for (number, (_, weather)) in weathers.iter().enumerate() {
        bed.origin.reset()?;
        // Five failures are a second and a half of pauses, half of it at least.
        read_in(&bed, &mount, number, weather, |counters| {
            let is_slow = weather.delay_ms > 0 || weather.stall_share > 0.0;
            is_slow && counters.get + counters.gets_in_flight > 0
                || counters.injected_503 + counters.injected_truncated >= 5
        })?;
    }
    let mut readers = bed.readers(&mount)?;
    for epoch in 1..=2 {
        readers.epoch(epoch)?.must_be_right(bed.files())?;
    }
    let mut stats = mount.stats()?;
    wait_until(PATIENCE, "the end of the epoch is noticed", || {
        stats = mount.stats()?;
        Ok(stats.0["planner"]["epochs"][0].is_object())
    })?;
    let epoch = &stats.0["planner"]["epochs"][0];
    let slowest = epoch["slowest"].as_array().expect("a list");
    assert!(slowest.len() <= 10, "{epoch}");
    for (number, (why, _)) in weathers.iter().enumerate() {
        let path = bed.data_set.manifest.files[number].path.as_str();
        let slow = slowest.iter().find(|slow| slow["path"] == path);
        assert_eq!(slow.map(|slow| slow["why"].as_str()), Some(Some(*why)), "{path}: {epoch}");
    }
    let sees_hits = stats.0["probes"]["tier"] != "C";
    assert_eq!(epoch["page_cache_bytes"].is_u64(), sees_hits, "{epoch}");
    assert!(epoch["workers"].as_u64().is_some_and(|workers| workers >= 8), "{epoch}");
    assert!(epoch["over_bound"].as_f64().is_some_and(|over| (0.99..=1.01).contains(&over)), "{epoch}");
    let shown = cachectl(&["stats", "--epoch"], mount.path())?;
    let path = &bed.data_set.manifest.files[0].path;
    for part in ["would have helped most: ", "slow first byte", path] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    assert!(mount.log().lines().any(|line| line.contains("an epoch has ended") && line.contains("helps=")));
    Ok(())
}

/// What would have helped each of the first `epochs`, after one more.
fn advice(bed: &Bed, mount: &Mount, epochs: u64) -> anyhow::Result<Vec<String>> {
    let mut readers = bed.readers(mount)?;
    for epoch in 1..=epochs + 1 {
        readers.epoch(epoch)?.must_be_right(bed.files())?;
    }
    let mut advice = Vec::new();
    wait_until(PATIENCE, "the ends of the epochs are noticed", || {
        let stats = mount.stats()?;
        let ended = stats.0["planner"]["epochs"].as_array().expect("a list");
        advice = ended.iter().map(|epoch| epoch["advice"].as_str().unwrap_or_default().to_owned()).collect();
        Ok(advice.len() as u64 >= epochs)
    })?;
    Ok(advice)
}

#[test]
fn what_would_have_helped_an_epoch_is_what_it_was_short_of() -> Outcome {
    needs_fuse!();
    let shape = Shape { mean_bytes: 20 << 10, sigma: 0.3, ..Shape::of(800) };
    let away = Weather { delay_ms: 15, ..Weather::default() };
    let bed = Bed::new(&shape, &away)?;
    let options: [(&Weather, &[&str], &str); 4] = [
        (&away, &["--prefetch", "told"], "an order: "),
        (&away, &["--prefetch", "told", "--origin-requests", "2"], "a raised --origin-requests: "),
        (&Weather { bytes_per_s: 5 << 20, ..away.clone() }, &[], "more bandwidth: "),
        (&Weather { fail_share: 0.2, ..away.clone() }, &[], "more bandwidth: the origin refused"),
    ];
    for (weather, options, short_of) in options {
        bed.origin.set_weather(weather)?;
        let command = bed.mount_command().options(options);
        let _ = std::fs::remove_dir_all(&command.cache_dir);
        let mount = command.start()?;
        let advice = advice(&bed, &mount, 2)?;
        assert!(advice[0].starts_with(short_of), "{options:?}: {advice:?}");
        assert!(advice[1].starts_with("nothing: "), "all of it was stored: {advice:?}");
        mount.unmount()?;
    }
    Ok(())
}

#[test]
fn an_epoch_of_a_set_that_does_not_fit_is_short_of_cache() -> Outcome {
    needs_fuse!();
    // 250 MiB beside a store of 192, and no page cache.
    let shape = Shape { mean_bytes: 170 << 10, sigma: 0.3, ..Shape::of(1_500) };
    let bed = Bed::new(&shape, &Weather { delay_ms: 15, ..Weather::default() })?;
    let options = ["--prefetch", "told", "--io-mode", "direct_io"];
    let mount = bed.mount_command().cache_size("192MiB").options(&options).start()?;
    let advice = advice(&bed, &mount, 2)?;
    assert!(advice[0].starts_with("an order: "), "all of it had to be fetched once: {advice:?}");
    assert!(advice[1].starts_with("more cache: the store is full"), "{advice:?}");
    Ok(())
}

#[test]
fn the_control_socket_is_the_daemons_users_alone() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(5), &Weather::default())?;
    let mount = bed.mount(&[])?;
    let sockets: Vec<_> = std::fs::read_dir(mount.cache_dir())?
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(|metadata| metadata.file_type().is_socket())
        .map(|metadata| metadata.mode() & 0o777)
        .collect();
    assert_eq!(sockets, [0o600]);
    Ok(())
}
