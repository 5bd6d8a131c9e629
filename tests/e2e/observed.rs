//! What the probes see of a real mount, through `cachectl top` and `trace`.

use std::process::{Command, Stdio};
use std::time::Duration;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount, cachectl};
use epochcache_tests::bed::programs::{program, wait_until};
use epochcache_tests::bed::s3::Weather;
use serde_json::Value;

use crate::{Outcome, needs_fuse};

const PATIENCE: Duration = Duration::from_secs(20);

/// The tier, once the probes are loaded; a reason to skip where there are none.
fn tier(mount: &Mount) -> anyhow::Result<Option<String>> {
    let mut state = Value::Null;
    wait_until(PATIENCE, "the probes are loaded", || {
        state = serde_json::from_str(&cachectl(&["stats", "--json"], mount.path())?.out)?;
        Ok(!state["probes"]["why"].as_str().unwrap_or_default().contains("being loaded"))
    })?;
    let tier = state["probes"]["tier"].as_str().unwrap_or_default();
    if tier == "C" {
        println!("SKIP: no probes here: {}", state["probes"]["why"]);
        return Ok(None);
    }
    Ok(Some(tier.to_owned()))
}

#[test]
fn top_shows_every_reader_with_the_files_that_it_read_from_the_page_cache() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(80), &Weather::default())?;
    let mount = bed.mount(&[])?;
    if tier(&mount)?.is_none() {
        return Ok(());
    }
    let mut readers = bed.readers(&mount)?;
    for epoch in 1..=3 {
        readers.epoch(epoch)?.must_be_right(bed.files())?;
    }
    let said = cachectl(&["top", "--once", "--json"], mount.path())?;
    let top: Value = serde_json::from_str(said.out.trim())?;
    let rows = top["readers"].as_array().expect("a list");
    let of_readers = rows.iter().filter(|row| row["command"] == "reader");
    let files: u64 = of_readers.clone().filter_map(|row| row["files"].as_u64()).sum();
    let not_empty = bed.data_set.manifest.files.iter().filter(|sample| sample.size_bytes > 0).count() as u64;
    assert_eq!(files, 3 * not_empty, "each file once an epoch, cached or not: {top}");
    assert_eq!(of_readers.count(), 8, "a row for each worker");
    Ok(())
}

#[test]
fn trace_streams_a_line_for_each_file_and_ends_by_itself() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(40), &Weather::default())?;
    let mount = bed.mount(&[])?;
    if tier(&mount)?.is_none() {
        return Ok(());
    }
    let mut readers = bed.readers(&mount)?;
    readers.epoch(1)?.must_be_right(bed.files())?;
    let mut trace = Command::new(program("cachectl"));
    trace.args(["trace", "--json", "--lines", "20"]).arg(mount.path()).stdout(Stdio::piped());
    let trace = trace.spawn()?;
    // It may need a moment to be connected; epochs go on until it has its lines.
    let output = std::thread::scope(|scope| -> anyhow::Result<_> {
        let ended = scope.spawn(|| trace.wait_with_output());
        let mut epoch = 2;
        while !ended.is_finished() {
            readers.epoch(epoch)?.must_be_right(bed.files())?;
            epoch += 1;
        }
        Ok(ended.join().expect("it does not panic")?)
    })?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(lines.len() >= 20, "{text}");
    for line in &lines {
        let path = line["reading"]["path"].as_str().expect("a path");
        assert!(bed.data_set.manifest.files.iter().any(|sample| sample.path == path), "{path}");
    }
    Ok(())
}

#[test]
fn probes_can_be_turned_off() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(10), &Weather::default())?;
    let mount = bed.mount(&["--probes", "off"])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    let said = cachectl(&["trace"], mount.path())?;
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(said.err.contains("--probes off"), "{said:?}");
    Ok(())
}
