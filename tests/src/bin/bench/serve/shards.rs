//! Shards: 8 files of 128 MiB, passed through, and answered by READs where the kernel cannot.

use std::time::Instant;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::s3::Weather;

use super::memory::MemoryDisk;
use super::readers::Readers;
use super::small::{cache_mib, can_push, finish, mib, push};
use super::worker::{self, Work};
use super::{Before, Bench, Case, REFERENCE, Sides};
use crate::pairs::Pairs;

const READ: Case = Case { name: "", work: Work::Sequential, before: Before::Nothing, note: "" };

/// With passthrough.
const PASSED: [Case; 5] = [
    Case { name: "shard_seq_1m", note: "1 MiB, passthrough, local files in the page cache", ..READ },
    Case {
        name: "shard_seq_1m_dropped",
        before: Before::AllPages,
        note: "the same, page cache dropped on both sides",
        ..READ
    },
    Case { name: "shard_rand_128k", work: Work::Random, note: "128 KiB, passthrough", ..READ },
    Case { name: "mmap_seq", work: Work::MappedSequential, note: "passthrough", ..READ },
    Case { name: "mmap_rand", work: Work::MappedRandom, note: "128 KiB, passthrough", ..READ },
];

/// Without: every byte by READ, store on the disk, which ext4 reads too.
const COPIED: [Case; 2] = [
    Case {
        name: "shard_seq_copy_dropped",
        before: Before::AllPages,
        note: "no passthrough, store on the disk; page cache dropped on both sides",
        ..READ
    },
    Case {
        name: "shard_rand_copy_dropped",
        work: Work::Random,
        before: Before::AllPages,
        note: "the same, 128 KiB",
    },
];

/// The same with the store in memory, against ext4's page cache.
const COPIED_IN_MEMORY: [Case; 2] = [
    Case {
        name: "shard_seq_copy",
        before: Before::OurPages,
        note: "no passthrough, store in memory; ext4 from its page cache",
        ..READ
    },
    Case { name: "shard_rand_copy", work: Work::Random, before: Before::OurPages, note: "the same, 128 KiB" },
];

const PUSHED: &str = "shard_seq_push";

/// The names of all cases.
pub const NAMES: [&str; 10] = [
    "shard_seq_1m",
    "shard_seq_1m_dropped",
    "shard_rand_128k",
    "mmap_seq",
    "mmap_rand",
    "shard_seq_copy_dropped",
    "shard_rand_copy_dropped",
    "shard_seq_copy",
    "shard_rand_copy",
    PUSHED,
];

#[cfg(test)]
pub fn all() -> Vec<Case> {
    [&PASSED[..], &COPIED, &COPIED_IN_MEMORY].concat()
}

/// Measures them.
pub fn run(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    if !NAMES.iter().any(|name| bench.wants(name)) {
        return Ok(());
    }
    bench.say("making shards")?;
    let (files, bytes) = (bench.effort.pick(8, 2), bench.effort.pick(128 << 20, 16 << 20));
    let shape = Shape { classes: 1, first_sizes: vec![bytes; files], ..Shape::of(files) };
    let bed = Bed::new(&shape, &Weather::default())?;
    let readers: &[usize] = bench.effort.pick(&[1, 4, 8], &[2]);
    if bench.wants_some(&PASSED) {
        let command = bed.mount_command().cache_size(&mib(cache_mib(&bed))).options(&["--serve", "open"]);
        let mount = bench.filled(&bed, command)?;
        bench.cases(&PASSED, &Sides::of(&bed, &mount), readers)?;
        finish(mount)?;
    }
    if bench.wants_some(&COPIED) {
        let command = bed.mount_command().cache_size(&mib(cache_mib(&bed))).options(&["--serve", "noopen"]);
        let mount = bench.filled(&bed, command)?;
        bench.cases(&COPIED, &Sides::of(&bed, &mount), readers)?;
        finish(mount)?;
    }
    if bench.wants_some(&COPIED_IN_MEMORY) || bench.wants(PUSHED) {
        in_memory(bench, &bed, readers)?;
    }
    Ok(())
}

fn in_memory(bench: &mut Bench<'_>, bed: &Bed, readers: &[usize]) -> anyhow::Result<()> {
    if let Some(reason) = bench.no_mounts.clone() {
        bench.skip("shard_seq_copy", &reason);
        return Ok(());
    }
    let disk = MemoryDisk::make(bed.home(), cache_mib(bed) << 20)?;
    bench.store_on = Some(disk.kind());
    let mut command = bed.mount_command().cache_size(&mib(cache_mib(bed))).options(&["--serve", "noopen"]);
    command.cache_dir = disk.path().join("cache");
    if can_push() {
        command = command.options(&["--page-cache-size", "4GiB"]);
    }
    let mount = bench.filled(bed, command)?;
    let sides = Sides::of(bed, &mount);
    bench.cases(&COPIED_IN_MEMORY, &sides, readers)?;
    bench.store_on = None;
    match can_push() {
        true => pushed_ahead(bench, &sides)?,
        false => bench.skip(PUSHED, "this cachectl has no push"),
    }
    finish(mount)
}

/// One reader, and ahead of it the next shard on its way into the page cache: the window is a shard.
fn pushed_ahead(bench: &mut Bench<'_>, sides: &Sides<'_>) -> anyhow::Result<()> {
    if !bench.wants(PUSHED) {
        return Ok(());
    }
    let mut readers = Readers::start(sides.manifest_path, 1)?;
    let total_mib = (sides.manifest.total_bytes() >> 20) as f64;
    let mut rates = Vec::new();
    let mut requests = Vec::new();
    for round in 0..=bench.effort.pairs() {
        bench.say(&format!("{PUSHED}, round {round}"))?;
        worker::forget_pages(sides.ours, sides.manifest)?;
        let sent = sides.daemon.requests()?;
        let began = Instant::now();
        let shards: Vec<_> =
            sides.manifest.files.iter().map(|sample| sides.ours.join(&sample.path)).collect();
        push(&shards[..1])?;
        for number in 0..shards.len() {
            std::thread::scope(|scope| {
                let next = shards.get(number + 1..number + 2);
                let pushing = next.map(|next| scope.spawn(move || push(next)));
                readers.run(sides.ours, Work::One(number), 0, round == 0)?;
                pushing.map_or(Ok(()), |thread| thread.join().expect("a push does not panic"))
            })?;
        }
        let ours = total_mib / began.elapsed().as_secs_f64();
        let sent = (sides.daemon.requests()? - sent) / total_mib;
        let local = readers.run(&sides.local, Work::Sequential, 0, false)?.mib_per_s();
        if round > 0 {
            rates.push((ours, local));
            requests.push(sent);
        }
    }
    bench.progress.clear();
    bench.results.on("1 reader");
    let note = "each shard pushed while the one before is read, store in memory; ext4 from its page cache";
    let ours = Pairs::of(&rates, |rate| *rate);
    bench.results.pairs(PUSHED, "throughput", "MiB/s", REFERENCE, &ours, note);
    bench.results.absolute(PUSHED, "requests_per_mib", "requests", &requests, "");
    Ok(())
}
