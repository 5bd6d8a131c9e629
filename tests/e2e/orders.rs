//! Orders told by training scripts: followed, refused, and never in a listing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use epochcache_tests::bed::data_set::{Sample, Shape};
use epochcache_tests::bed::mount::{Bed, Mount, PATIENCE, cachectl};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::reader::{Readers, Reading, permutation};
use epochcache_tests::bed::s3::{Kind, Weather};

use crate::{Outcome, needs_fuse};

/// The files in an order of their own, and its text.
fn order(bed: &Bed, seed: usize) -> (Vec<&Sample>, String) {
    let files = &bed.data_set.manifest.files;
    // 7 has no divisor in common with the numbers of files here.
    let ordered: Vec<&Sample> = (0..files.len()).map(|at| &files[(at * 7 + seed) % files.len()]).collect();
    let text = ordered.iter().map(|file| format!("{}\n", file.path)).collect();
    (ordered, text)
}

fn fetched_ahead(mount: &Mount, files: u64) -> anyhow::Result<()> {
    let what = format!("{files} files are fetched ahead");
    wait_until(PATIENCE, &what, || Ok(mount.stats()?.figure("planner_prefetched") >= files))
}

#[test]
fn an_order_left_in_the_control_directory_is_fetched_in_its_order_before_anything_is_read() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(600), &Weather { delay_ms: 5, ..Weather::default() })?;
    let mount = bed.mount(&["--prefetch", "told", "--origin-requests", "16"])?;
    let names: Vec<_> =
        fs::read_dir(mount.path())?.map(|entry| entry.map(|entry| entry.file_name())).collect();
    assert!(names.iter().flatten().all(|name| name != ".epochcache"), "it is found, never listed");

    bed.origin.reset()?;
    let (ordered, text) = order(&bed, 3);
    let directory = mount.path().join(".epochcache");
    fs::write(directory.join("order-rank0"), text)?;
    fetched_ahead(&mount, 600)?;
    assert!(!directory.join("order-rank0").exists(), "it was taken");
    let log = bed.origin.log()?;
    let gets: Vec<&str> =
        log.iter().filter(|logged| logged.kind == Kind::Get).map(|logged| logged.target.as_str()).collect();
    assert_eq!(gets.len(), 600);
    for (at, target) in gets.iter().enumerate() {
        let path = target.split('?').next().unwrap_or_default();
        let place = ordered.iter().position(|file| path.ends_with(&file.path)).expect("it is in the order");
        assert!(place.abs_diff(at) <= 32, "{path} is number {place} and came as number {at}");
    }
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    assert_eq!(bed.origin.counters()?.get, 600);
    Ok(())
}

#[test]
fn orders_that_cannot_be_are_refused_with_a_line_in_the_log_and_the_mount_goes_on() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(50), &Weather::default())?;
    let mount = bed.mount(&[])?;
    let directory = fs::canonicalize(mount.path().join(".epochcache"))?;
    let write = |name: &str, text: &str| fs::write(directory.join(name), text);
    write("order-nonsense", "no/such/file\n../../etc/passwd\n/\n\n")?;
    write("order-bytes", "\u{0}\u{1}\n")?;
    nix::unistd::mkfifo(&directory.join("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    fs::rename(directory.join("pipe"), directory.join("order-pipe"))?;
    std::os::unix::fs::symlink("/etc/passwd", directory.join("link"))?;
    fs::rename(directory.join("link"), directory.join("order-link"))?;
    write("other-name", "not an order\n")?;
    wait_until(PATIENCE, "four orders are refused", || {
        Ok(mount.log().matches("an order was refused").count() == 4)
    })?;
    assert!(Path::new(&directory).join("other-name").exists(), "it is somebody else's");

    let bad = bed.home().join("bad.txt");
    fs::write(&bad, "x\n")?;
    let said = cachectl(&["order", &bad.to_string_lossy(), "--mount"], mount.path())?;
    assert!(said.status.code() == Some(2) && said.err.contains("0 of its 1 paths"), "{said:?}");
    let good = bed.home().join("good.txt");
    fs::write(&good, order(&bed, 0).1)?;
    let said = cachectl(&["order", &good.to_string_lossy(), "--mount"], mount.path())?;
    assert!(said.status.success() && said.out.starts_with("50 files"), "{said:?}");
    fetched_ahead(&mount, 50)?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())
}

#[test]
fn an_order_for_an_epoch_that_is_past_is_refused_wherever_it_is_told() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(50), &Weather::default())?;
    let mount = bed.mount(&["--prefetch", "told"])?;
    let directory = fs::canonicalize(mount.path().join(".epochcache"))?;
    let text = order(&bed, 3).1;
    fs::write(directory.join("order-rank0"), format!("# epoch 7\n{text}"))?;
    fetched_ahead(&mount, 50)?;
    fs::write(directory.join("order-rank0"), format!("# epoch 6\n{text}"))?;
    wait_until(PATIENCE, "the order is refused", || Ok(mount.log().contains("an order was refused")))?;
    assert!(mount.log().contains("it is for epoch 6, and `order-rank0` is at epoch 7"), "{}", mount.log());
    assert!(!directory.join("order-rank0").exists(), "it was taken all the same");

    let file = bed.home().join("order.txt");
    fs::write(&file, text)?;
    let tell = |epoch: &str| {
        cachectl(&["order", &file.to_string_lossy(), "--epoch", epoch, "--mount"], mount.path())
    };
    let told = tell("3")?;
    assert!(told.status.success() && told.out.ends_with("; for epoch 3\n"), "{told:?}");
    let past = tell("2")?;
    assert!(past.status.code() == Some(2), "{past:?}");
    assert!(past.err.contains("it is for epoch 2, and `cachectl` is at epoch 3"), "{past:?}");
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())
}

#[test]
fn an_order_for_a_later_epoch_waits_until_the_one_before_was_read() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(400), &Weather::default())?;
    let mount = bed.mount(&["--prefetch", "told"])?;
    let (ordered, text) = order(&bed, 3);
    let lines: Vec<&str> = text.lines().collect();
    let file = bed.home().join("order.txt");
    let tell = |epoch: &str, lines: &[&str]| -> anyhow::Result<String> {
        fs::write(&file, lines.join("\n"))?;
        let arguments = ["order", &file.to_string_lossy(), "--epoch", epoch, "--mount"];
        Ok(cachectl(&arguments, mount.path())?.out)
    };
    let told = tell("4", &lines[..200])?;
    assert!(told.ends_with("; for epoch 4\n"), "{told}");
    fetched_ahead(&mount, 200)?;
    let told = tell("5", &lines[200..])?;
    assert!(told.ends_with("; it waits for epoch 5 to begin\n"), "{told}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(mount.stats()?.figure("planner_prefetched"), 200);

    for sample in &ordered[..200] {
        assert_eq!(sample.wrong_bytes(&fs::read(mount.path().join(&sample.path))?), 0);
    }
    fetched_ahead(&mount, 400)?;
    assert_eq!(mount.stats()?.figure("planner_orders_told"), 2);
    assert_eq!(bed.origin.counters()?.get, 400);
    Ok(())
}

#[test]
fn an_order_that_the_readers_follow_is_followed_to_its_end() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(2_000), &Weather { delay_ms: 5, ..Weather::default() })?;
    let mount = bed.mount(&["--prefetch", "told"])?;
    let files = &bed.data_set.manifest.files;
    // More than is believed before the first readings bear it out.
    let text: String = permutation(files.len(), 1, 1).map(|at| format!("{}\n", files[at].path)).collect();
    fs::write(mount.path().join(".epochcache/order"), text)?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    std::thread::sleep(Duration::from_secs(1));
    let stats = mount.stats()?;
    assert_eq!(stats.figure("planner_orders_wrong"), 0);
    assert!(stats.figure("planner_prefetched") > 1_200, "{}", stats.figure("planner_prefetched"));
    assert_eq!(bed.origin.counters()?.get, 2_000);
    Ok(())
}

#[test]
fn an_order_that_the_readers_do_not_follow_is_dropped() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(1_000), &Weather { delay_ms: 5, ..Weather::default() })?;
    let mount = bed.mount(&["--prefetch", "told"])?;
    let (_, text) = order(&bed, 3);
    fs::write(mount.path().join(".epochcache/order"), text)?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    std::thread::sleep(Duration::from_secs(1));
    let stats = mount.stats()?;
    assert_eq!((stats.figure("planner_orders_told"), stats.figure("planner_orders_wrong")), (1, 1));
    Ok(())
}

#[test]
fn the_order_of_an_earlier_run_is_recalled_after_a_restart_and_fetched_in_that_order() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(3_000), &Weather { delay_ms: 10, ..Weather::default() })?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    assert_eq!(mount.stats()?.figure("planner_orders_recalled"), 0);
    mount.unmount()?;

    let mount = bed.mount(&[])?;
    let dropped = cachectl(&["drop"], mount.path())?;
    assert!(dropped.status.success(), "{dropped:?}");
    bed.origin.reset()?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    let stats = mount.stats()?;
    let figures = ["orders_kept", "orders_recalled", "orders_wrong"]
        .map(|name| stats.figure(&format!("planner_{name}")));
    assert_eq!(figures, [1, 1, 0], "{}", mount.log());

    let files = &bed.data_set.manifest.files;
    let order: Vec<&str> = permutation(files.len(), 1, 1).map(|at| files[at].path.as_str()).collect();
    let log = bed.origin.log()?;
    let gets: Vec<&str> =
        log.iter().filter(|logged| logged.kind == Kind::Get).map(|logged| logged.target.as_str()).collect();
    assert_eq!(gets.len(), files.len(), "each once");
    // Before it was recognised, files came in any order.
    let late = gets.iter().enumerate().skip(1_500);
    let in_order = late.filter(|(at, target)| {
        let path = target.split('?').next().unwrap_or_default();
        let place = order.iter().position(|file| path.ends_with(file)).expect("it is one of the files");
        place.abs_diff(*at) < 600
    });
    let in_order = in_order.count();
    assert!(in_order > 1_200, "{in_order} of 1500");
    Ok(())
}

#[test]
fn orders_told_for_the_next_epochs_are_followed_each_in_its_turn() -> Outcome {
    needs_fuse!();
    // So many that the last twentieth of an epoch would be enough to refute the order of the next one.
    let bed = Bed::new(&Shape { mean_bytes: 8 << 10, ..Shape::of(3_000) }, &Weather::default())?;
    let mount = bed.mount(&["--prefetch", "told"])?;
    let files = &bed.data_set.manifest.files;
    for epoch in 1..=4 {
        let order = permutation(files.len(), 1, epoch).map(|at| format!("{}\n", files[at].path));
        let text = format!("# epoch {epoch}\n{}", order.collect::<String>());
        let order = mount.path().join(".epochcache/order-rank0");
        fs::write(&order, text)?;
        wait_until(PATIENCE, "an order is taken", || Ok(!order.exists()))?;
    }
    // So that every reading is seen, with probes or without; and so many a second that the planner is not an eighth of an epoch
    // late, however busy the machine is.
    let reading = Reading { forgets: true, ..bed.reading(mount.path()) }.paced(750.0);
    let mut readers = Readers::start(&reading)?;
    for epoch in 1..=4 {
        readers.epoch(epoch)?.must_be_right(bed.files())?;
        // A script validates, or saves.
        std::thread::sleep(Duration::from_millis(500));
    }
    let stats = mount.stats()?;
    let (told, wrong) = (stats.figure("planner_orders_told"), stats.figure("planner_orders_wrong"));
    assert_eq!((told, wrong), (4, 0), "{}\n{}", stats.0["planner"], mount.log());
    Ok(())
}
