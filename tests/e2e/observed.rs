//! What the probes see of a real mount, through `cachectl top` and `trace`.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use epochcache_tests::bed::data_set::{Sample, Shape};
use epochcache_tests::bed::mount::{Bed, Mount, cachectl};
use epochcache_tests::bed::programs::{program, wait_until};
use epochcache_tests::bed::reader::{Access, Readers, Reading};
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
    assert_eq!(of_readers.clone().count(), 8, "a row for each worker");
    let sum = |name: &str| of_readers.clone().filter_map(|row| row[name].as_u64()).sum::<u64>();
    if top["waits_by_kernel"] == true {
        let bytes: u64 = bed.data_set.manifest.files.iter().map(|sample| sample.size_bytes).sum();
        // The first epoch asks for everything; whoever makes the kernel drop pages makes later ones ask again.
        assert!((bytes..=3 * bytes).contains(&sum("asked_bytes")) && sum("waited_us") > 0, "{top}");
    }
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
        let event = line.as_object().and_then(|line| line.values().next()).expect("an object of one event");
        let path = event["path"].as_str().expect("a path");
        assert!(bed.data_set.manifest.files.iter().any(|sample| sample.path == path), "{path}");
    }
    Ok(())
}

/// Starts `cachectl trace` and waits until the daemon has it for a client.
fn start_trace(mount: &Mount, options: &[&str]) -> anyhow::Result<Child> {
    let mut trace = Command::new(program("cachectl"));
    trace.arg("trace").args(options).arg(mount.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let trace = trace.spawn()?;
    // Whoever asks for the figures is a client too, and so is, for a moment, whoever asked before.
    let mut seen = 0;
    wait_until(PATIENCE, "the trace is connected", || {
        let is_there = mount.stats()?.figure("control_clients") >= 2;
        seen = if is_there { seen + 1 } else { 0 };
        Ok(seen == 5)
    })?;
    Ok(trace)
}

/// Presses Ctrl-C; what was printed, to standard output and to standard error.
fn interrupt(trace: Child) -> anyhow::Result<(String, String)> {
    // Beginnings and ends come a moment later, and the flag of Ctrl-C is looked at once a second.
    std::thread::sleep(Duration::from_secs(1));
    let pid = nix::unistd::Pid::from_raw(trace.id().try_into()?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let output = trace.wait_with_output()?;
    assert!(output.status.success(), "{output:?}");
    Ok((String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

#[test]
fn trace_tells_what_came_from_the_origin_and_what_was_forgotten_with_or_without_probes() -> Outcome {
    needs_fuse!();
    for probes in ["auto", "off"] {
        let bed = Bed::new(&Shape::of(30), &Weather::default())?;
        let mount = bed.mount(&["--probes", probes])?;
        // Loaded or not to be had: what the trace says of them at its beginning holds to its end.
        if probes == "auto" {
            tier(&mount)?;
        }
        let trace = start_trace(&mount, &[])?;
        bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
        mount.wait_until_stored()?;
        let dropped = cachectl(&["drop"], mount.path())?;
        let (out, err) = interrupt(trace)?;
        let files = bed.data_set.manifest.files.iter().filter(|sample| sample.size_bytes > 0).count();
        let count =
            |event: &str| out.lines().filter(|line| line.split_whitespace().nth(2) == Some(event)).count();
        assert!(count("miss") + count("ahead") >= files, "{out}");
        assert_eq!(count("evict"), files, "{dropped:?} {out}");
        assert!(out.lines().next().is_some_and(|header| header.ends_with("FILE")), "{out}");
        assert!(out.contains(&format!(" {files} evict")) && out.contains("; 0 lost"), "{out}");
        assert!(out.contains("origin: p50"), "{out}");
        assert_eq!(err.contains("not seen: --probes off"), probes == "off", "{err}");
        let is_seen = probes == "auto" && !err.contains("not seen");
        assert_eq!(count("begin+end") + count("begin") >= files, is_seen, "{out}");
    }
    Ok(())
}

/// A process that waits for [`go`], and then reads these files as `cat`.
fn waiting_cat(mount: &Mount, samples: &[Sample]) -> anyhow::Result<Child> {
    let mut cat = Command::new("sh");
    cat.args(["-c", "read go && exec cat \"$@\"", "sh"]);
    cat.args(samples.iter().map(|sample| mount.path().join(&sample.path)));
    Ok(cat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?)
}

/// Lets it read, and waits until it has.
fn go(mut cat: Child) -> Outcome {
    let mut line = cat.stdin.take().expect("it is piped");
    line.write_all(b"go\n")?;
    drop(line);
    assert!(cat.wait()?.success());
    Ok(())
}

/// The bodies of the lines of one kind, of `trace --json`.
fn of_kind(lines: &str, kind: &str) -> anyhow::Result<Vec<Value>> {
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter_map(|mut line| line.get_mut(kind).map(Value::take)).collect())
}

#[test]
fn trace_tells_whose_read_missed_and_a_process_can_be_chosen() -> Outcome {
    needs_fuse!();
    // Time enough to ask who waits.
    let bed = Bed::new(&Shape::of(30), &Weather { delay_ms: 20, ..Weather::default() })?;
    let mount = bed.mount(&["--probes", "off", "--prefetch", "off"])?;
    let (theirs, ours) = bed.data_set.manifest.files.split_at(20);
    let cat = waiting_cat(&mount, theirs)?;
    let pid = cat.id();
    let all = start_trace(&mount, &["--json"])?;
    let chosen = start_trace(&mount, &["--json", "--pid", &pid.to_string()])?;
    // Two of them, and whoever asks for the figures.
    wait_until(PATIENCE, "both are connected", || Ok(mount.stats()?.figure("control_clients") >= 3))?;
    go(cat)?;
    for sample in ours {
        std::fs::read(mount.path().join(&sample.path))?;
    }
    let (all, chosen) = (interrupt(all)?.0, interrupt(chosen)?.0);
    let (all, chosen) = (of_kind(&all, "fetched")?, of_kind(&chosen, "fetched")?);
    let paths = |lines: &[Value], of: u32| {
        let by = lines.iter().filter(|line| line["pid"] == of);
        by.map(|line| line["path"].as_str().unwrap_or_default().to_owned()).collect::<BTreeSet<_>>()
    };
    let of = |samples: &[Sample]| samples.iter().map(|sample| sample.path.clone()).collect::<BTreeSet<_>>();
    assert_eq!(paths(&chosen, pid), of(theirs));
    assert_eq!(chosen.len(), theirs.len(), "nobody else's: {chosen:?}");
    assert_eq!(chosen[0]["command"], "cat", "{chosen:?}");
    assert_eq!((paths(&all, pid), paths(&all, std::process::id())), (of(theirs), of(ours)), "{all:?}");
    mount.unmount()
}

#[test]
fn trace_shows_who_opens_where_opens_are_asked_for() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(20), &Weather::default())?;
    let samples = &bed.data_set.manifest.files;
    for (serve, shown) in [("open", samples.len()), ("noopen", 0)] {
        let mount = bed.mount(&["--probes", "off", "--serve", serve, "--file-from", "0"])?;
        go(waiting_cat(&mount, samples)?)?;
        mount.wait_until_stored()?;
        let before = mount.stats()?;
        let cat = waiting_cat(&mount, samples)?;
        let pid = cat.id();
        let trace = start_trace(&mount, &["--json"])?;
        go(cat)?;
        let lines = interrupt(trace)?.0;
        let opened = of_kind(&lines, "opened")?;
        assert_eq!(opened.len(), shown, "{serve}: {lines}");
        assert!(opened.iter().all(|line| line["pid"] == pid), "{lines}");
        let passed = opened.iter().filter(|line| line["passed_through"] == true).count() as u64;
        assert_eq!(passed, mount.stats()?.grown(&before, "fuse_opened_passthrough"), "{lines}");
        mount.unmount()?;
    }
    Ok(())
}

#[test]
fn trace_shows_opens_and_mappings_that_only_probes_see_and_none_twice() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(20), &Weather::default())?;
    let files = bed.data_set.manifest.files.len();
    for serve in ["open", "noopen"] {
        let mount = bed.mount(&["--serve", serve])?;
        tier(&mount)?;
        let state: Value = serde_json::from_str(&cachectl(&["stats", "--json"], mount.path())?.out)?;
        let attached = state["probes"]["attached"].to_string();
        let (opens, maps) = (attached.contains("file_opened"), attached.contains("file_mapped"));
        if !maps {
            println!("SKIP: nothing attaches that sees mappings: {}", state["probes"]["left_out"]);
        }
        assert!(!opens || serve == "noopen", "the daemon is asked: {attached}");
        let trace = start_trace(&mount, &["--json"])?;
        let by_mapping = Reading { access: Access::Mmap, ..bed.reading(mount.path()) };
        Readers::start(&by_mapping)?.epoch(1)?.must_be_right(files)?;
        let lines = interrupt(trace)?.0;
        let [opened, mapped] = [of_kind(&lines, "opened")?, of_kind(&lines, "mapped")?];
        // The daemon opens what it drops out of the page cache. Readers may be gone, and nameless, by the time they are asked for.
        let of_readers =
            |lines: &[Value]| lines.iter().filter(|line| line["command"] != "epochcache").count();
        let not_empty = bed.data_set.manifest.files.iter().filter(|sample| sample.size_bytes > 0).count();
        // A kernel with preemption may leave runs out, and says how many.
        let missed = mount.stats()?.figure("probe_runs_missed") as usize;
        let all_but = |told: usize, done: usize| told <= done && done - told <= missed;
        if serve == "open" {
            assert_eq!(of_readers(&opened), files, "the daemon tells of each: {lines}");
        } else {
            assert!(all_but(of_readers(&opened), if opens { files } else { 0 }), "{missed} missed: {lines}");
        }
        assert!(all_but(of_readers(&mapped), if maps { not_empty } else { 0 }), "{missed} missed: {lines}");
        mount.unmount()?;
    }
    Ok(())
}

#[test]
fn doctor_says_what_the_page_cache_holds_of_the_files_that_the_kernel_reads_by_itself() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(20), &Weather::default())?;
    let mount = bed.mount(&["--serve", "open", "--file-from", "0"])?;
    let samples = &bed.data_set.manifest.files;
    go(waiting_cat(&mount, samples)?)?;
    mount.wait_until_stored()?;
    go(waiting_cat(&mount, samples)?)?;
    if mount.stats()?.figure("fuse_opened_passthrough") == 0 {
        println!("SKIP: no passthrough here");
        return mount.unmount();
    }
    let said = cachectl(&["doctor", "--json"], mount.path())?;
    let held = said.out.lines().find(|line| line.contains(" of it in the page cache"));
    let held = held.unwrap_or_else(|| panic!("{said:?}"));
    assert!(!held.contains(" 0 B of it"), "{held}");
    mount.unmount()
}

#[test]
fn without_probes_top_shows_the_readers_whose_requests_came() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(40), &Weather::default())?;
    let mount = bed.mount(&["--probes", "off"])?;
    let mut readers = bed.readers(&mount)?;
    readers.epoch(1)?.must_be_right(bed.files())?;
    let said = cachectl(&["top", "--once", "--json"], mount.path())?;
    let top: Value = serde_json::from_str(said.out.trim())?;
    assert_eq!((&top["tier"], &top["waits_by_kernel"]), (&"C".into(), &false.into()), "{top}");
    let rows = top["readers"].as_array().expect("a list");
    let of_readers = || rows.iter().filter(|row| row["command"] == "reader");
    let sum = |name: &str| of_readers().filter_map(|row| row[name].as_u64()).sum::<u64>();
    let bytes: u64 = bed.data_set.manifest.files.iter().map(|sample| sample.size_bytes).sum();
    assert_eq!((sum("asked_bytes"), sum("bytes")), (bytes, bytes), "{top}");
    assert!(sum("waited_us") > 0 && sum("requests") >= of_readers().count() as u64, "{top}");
    let shown = cachectl(&["top", "--once"], mount.path())?;
    assert!(shown.out.contains("is not seen (tier C)"), "{shown:?}");
    Ok(())
}
