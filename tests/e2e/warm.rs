//! `cachectl warm`, and what is fetched ahead within large objects.

use std::io::Read;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, cachectl};
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

#[test]
fn a_warmed_path_is_read_without_the_origin_and_warming_again_fetches_nothing() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(400), &Weather { delay_ms: 5, ..Weather::default() })?;
    let mount = bed.mount(&["--prefetch", "off"])?;
    let class = bed.data_set.manifest.files[0].path.split('/').next().expect("a class").to_owned();
    let in_class = bed.data_set.manifest.files.iter().filter(|file| file.path.starts_with(&class)).count();
    bed.origin.reset()?;
    let said = cachectl(&["warm"], &mount.path().join(&class))?;
    assert!(said.status.success(), "{said:?}");
    assert_eq!(bed.origin.counters()?.get, in_class as u64);

    let said = cachectl(&["warm", "--json"], mount.path())?;
    assert!(said.status.success(), "{said:?}");
    let last: serde_json::Value = serde_json::from_str(said.out.lines().last().unwrap_or_default())?;
    assert_eq!((last["passed_files"].as_u64(), last["done"].as_bool()), (Some(400), Some(true)), "{last}");
    assert_eq!(bed.origin.counters()?.get, 400);
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    let said = cachectl(&["warm"], mount.path())?;
    assert!(said.status.success() && said.out.contains("0 B fetched"), "{said:?}");
    assert_eq!(bed.origin.counters()?.get, 400);

    let missing = cachectl(&["warm"], &mount.path().join("no-such-class"))?;
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    Ok(())
}

#[test]
fn a_warm_that_does_not_fit_says_so_and_fetches_no_more_than_fits() -> Outcome {
    needs_fuse!();
    let shape = Shape { mean_bytes: 400 << 10, sigma: 0.2, ..Shape::of(800) };
    let bed = Bed::new(&shape, &Weather::default())?;
    let mount = bed.mount_command().cache_size("192MiB").start()?;
    bed.origin.reset()?;
    let said = cachectl(&["warm"], mount.path())?;
    assert!(said.status.code() == Some(1) && said.out.contains("the store is full"), "{said:?}");
    assert!(bed.origin.counters()?.get_bytes <= 192 << 20);
    Ok(())
}

#[test]
fn a_large_object_that_is_read_in_sequence_is_fetched_ahead_unit_by_unit_each_once() -> Outcome {
    needs_fuse!();
    let shape = Shape { files: 2, classes: 1, mean_bytes: 80 << 20, sigma: 0.0, ..Shape::default() };
    let bed = Bed::new(&shape, &Weather { delay_ms: 50, ..Weather::default() })?;
    for serve in ["noopen", "open"] {
        let command = bed.mount_command().options(&["--serve", serve]);
        let _ = std::fs::remove_dir_all(&command.cache_dir);
        let mount = command.start()?;
        bed.origin.reset()?;
        let sample = &bed.data_set.manifest.files[0];
        let mut bytes = Vec::new();
        std::fs::File::open(mount.path().join(&sample.path))?.read_to_end(&mut bytes)?;
        assert_eq!(sample.wrong_bytes(&bytes), 0);
        let counters = bed.origin.counters()?;
        assert_eq!((counters.get, counters.get_bytes), (20, 80 << 20), "{counters:?}");
        assert!(mount.stats()?.figure("planner_prefetched") >= 5);
        mount.unmount()?;
    }
    Ok(())
}
