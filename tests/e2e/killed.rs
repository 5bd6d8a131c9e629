//! A daemon that is killed while it is read from leaves nothing of its probes in the kernel.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use epochcache_tests::bed::bpf::{held, loaded, until_gone};
use epochcache_tests::bed::count;
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, detach};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

#[test]
fn a_daemon_killed_under_load_leaves_no_program_map_or_link() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(60), &Weather::default())?;
    for _ in 0..count(3, 100) {
        let mount = bed.mount(&[])?;
        let mut tier = String::new();
        wait_until(Duration::from_secs(30), "the probes are loaded", || {
            // The socket may still be the one that the last daemon left.
            let Ok(stats) = mount.stats() else { return Ok(false) };
            let probes = &stats.0["probes"];
            tier = probes["tier"].as_str().unwrap_or_default().to_owned();
            Ok(!probes["why"].as_str().unwrap_or_default().contains("being loaded"))
        })?;
        if tier == "C" {
            println!("SKIP: no probes here");
            return Ok(());
        }
        let ids = held(mount.pid());
        let kinds: HashSet<&str> = ids.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, HashSet::from(["prog", "map", "link"]));
        assert!(ids.is_subset(&loaded()));
        let (path, done) = (mount.path().to_owned(), AtomicBool::new(false));
        thread::scope(|scope| -> Outcome {
            for start in 0..4 {
                let (path, done, files) = (&path, &done, &bed.data_set.manifest.files);
                scope.spawn(move || {
                    for sample in files.iter().cycle().skip(start * 15) {
                        if done.load(Relaxed) {
                            break;
                        }
                        // Fails once the daemon is gone: that is the point.
                        let _ = std::fs::read(path.join(&sample.path));
                    }
                });
            }
            thread::sleep(Duration::from_millis(100));
            let killed = mount.kill();
            done.store(true, Relaxed);
            killed
        })?;
        until_gone(&ids);
        detach(&path);
    }
    Ok(())
}
