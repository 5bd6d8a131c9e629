//! `cachectl stats` beside a running mount.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, cachectl};
use epochcache_tests::bed::s3::Weather;
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
