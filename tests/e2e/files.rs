//! Large objects: each in a file of its own, complete or partial, and warm after every kind of end.

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

/// Three shards and a few small files.
fn shards() -> Shape {
    Shape { first_sizes: vec![5 << 20, (12 << 20) + 4097, 20 << 20], ..Shape::of(20) }
}

fn epoch(bed: &Bed, mount: &Mount, number: u64) -> Outcome {
    bed.readers(mount)?.epoch(number)?.must_be_right(bed.files())
}

/// Reads an epoch; nothing may come from the origin.
fn warm_epoch(bed: &Bed, mount: &Mount) -> Outcome {
    bed.origin.reset()?;
    epoch(bed, mount, 2)?;
    let counters = bed.origin.counters()?;
    assert_eq!((counters.get, counters.get_bytes), (0, 0), "{counters:?}\n{}", mount.log());
    Ok(())
}

#[test]
fn shards_are_read_from_their_files_after_an_unmount_and_after_a_kill() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&shards(), &Weather::default())?;
    let mount = bed.mount(&[])?;
    epoch(&bed, &mount, 1)?;
    mount.wait_until_stored()?;
    let stats = mount.stats()?;
    assert_eq!((stats.figure("store_files"), stats.figure("store_files_completed")), (3, 3));
    assert!(stats.figure("store_lent_segments") > 0);
    warm_epoch(&bed, &mount)?;
    mount.kill()?;

    let mount = bed.mount(&[])?;
    assert_eq!(mount.stats()?.figure("store_recovered_files"), 3);
    warm_epoch(&bed, &mount)?;
    mount.unmount()?;

    // Turned off, what is there is still served.
    let mount = bed.mount(&["--file-from", "1TiB"])?;
    warm_epoch(&bed, &mount)?;
    let stats = mount.stats()?;
    assert_eq!((stats.figure("store_recovered_files"), stats.figure("store_checksum_failures")), (3, 0));
    mount.unmount()
}

#[test]
fn shards_that_were_stored_before_the_size_was_lowered_get_their_files_without_a_fetch() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&shards(), &Weather::default())?;
    let mount = bed.mount(&["--file-from", "1TiB"])?;
    epoch(&bed, &mount, 1)?;
    mount.wait_until_stored()?;
    assert_eq!(mount.stats()?.figure("store_files"), 0);
    mount.unmount()?;

    let mount = bed.mount(&[])?;
    epochcache_tests::bed::programs::wait_until(
        std::time::Duration::from_secs(30),
        "the shards have files",
        || Ok(mount.stats()?.figure("store_promoted_objects") == 3),
    )?;
    warm_epoch(&bed, &mount)?;
    assert_eq!(mount.stats()?.figure("store_files"), 3);
    mount.unmount()
}

#[test]
fn with_a_size_of_zero_every_object_has_a_file_and_reads_the_same() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::awkward(60), &Weather::default())?;
    let mount = bed.mount(&["--file-from", "0"])?;
    epoch(&bed, &mount, 1)?;
    mount.wait_until_stored()?;
    // One of them is empty, and needs none.
    assert_eq!(mount.stats()?.figure("store_files"), 59);
    warm_epoch(&bed, &mount)?;
    mount.unmount()
}

/// Waits until every shard is complete and can be handed to the kernel.
fn complete(mount: &Mount) -> Outcome {
    mount.wait_until_stored()?;
    epochcache_tests::bed::programs::wait_until(
        std::time::Duration::from_secs(30),
        "the shards are complete",
        || Ok(mount.stats()?.figure("store_files_completed") == 3),
    )
}

#[test]
fn complete_shards_are_read_by_the_kernel_alone_and_taken_back_when_they_are_dropped() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&shards(), &Weather::default())?;
    let mount = bed.mount(&["--serve", "open"])?;
    epoch(&bed, &mount, 1)?;
    complete(&mount)?;
    epoch(&bed, &mount, 2)?;
    let before = mount.stats()?;
    if before.figure("fuse_opened_passthrough") == 0 {
        println!("SKIP: no passthrough here: {}", mount.log());
        return Ok(());
    }
    epoch(&bed, &mount, 3)?;
    let after = mount.stats()?;
    assert_eq!(after.grown(&before, "fuse_opened_passthrough"), 3, "each shard once an epoch");
    let small = bed.files() as u64 - 3;
    assert!(after.grown(&before, "fuse_read") <= 2 * small, "no READ of a shard reached the daemon");

    let said = epochcache_tests::bed::mount::cachectl(&["drop"], mount.path())?;
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    epochcache_tests::bed::programs::wait_until(
        std::time::Duration::from_secs(30),
        "the kernel has let go of the shards",
        || Ok(mount.stats()?.figure("fuse_backing_ids") == 0),
    )?;
    epoch(&bed, &mount, 4)?;
    mount.unmount()
}
