//! Nothing stays in the kernel, however the process ends; and what stays in its memory is small.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use cache_daemon::probe::{ProbeOptions, Probes, Tier};

use epochcache_tests::bed::bpf::{held, loaded, until_gone};

use crate::PATIENCE;

/// Set in a child that only holds probes.
const HOLD: &str = "PROBES_HOLD";

/// Not a test: what [`a_killed_process_leaves_no_program_map_or_link`] starts and kills.
#[test]
#[ignore = "the other half of a test"]
fn hold_probes() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let before = anonymous_bytes();
    let began = std::time::Instant::now();
    let probes = Probes::start(ProbeOptions::new(1, 1000));
    let starting = began.elapsed();
    assert!(probes.wait(PATIENCE));
    eprintln!("start returned after {starting:?}, attached after {:?}", began.elapsed());
    // Given back just after the wait ends.
    thread::sleep(Duration::from_millis(200));
    println!("\nholding tier {} {}", probes.report().tier, anonymous_bytes().saturating_sub(before));
    thread::sleep(Duration::from_secs(600));
}

/// Resident anonymous memory of this process, bytes: the kernel's arrays are not in it.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A process that holds probes, and the memory that they cost it, bytes.
fn start_holder() -> Option<(Child, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "leaving::hold_probes", "--ignored", "--nocapture"]).env(HOLD, "1");
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let tier = lines.find_map(|line| line.unwrap().strip_prefix("holding tier ").map(str::to_owned));
    if let Some((tier, kept)) = tier.as_deref().and_then(|line| line.split_once(' '))
        && tier != "C"
    {
        return Some((child, kept.parse().unwrap()));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

#[test]
fn a_killed_process_leaves_no_program_map_or_link() {
    for _ in 0..epochcache_tests::bed::count(10, 100) {
        let Some((mut child, _)) = start_holder() else {
            return eprintln!("SKIPPED: no probes here");
        };
        let ids = held(child.id());
        let kinds: HashSet<&str> = ids.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, HashSet::from(["prog", "map", "link"]));
        assert!(ids.is_subset(&loaded()));
        child.kill().unwrap();
        child.wait().unwrap();
        until_gone(&ids);
    }
}

#[test]
fn loading_keeps_no_memory() {
    let Some((mut child, kept_bytes)) = start_holder() else {
        return eprintln!("SKIPPED: no probes here");
    };
    child.kill().unwrap();
    child.wait().unwrap();
    eprintln!("kept {} KiB", kept_bytes / 1024);
    assert!(kept_bytes < 5 << 20, "{kept_bytes} bytes stay");
}

#[test]
fn dropped_probes_leave_no_program_map_or_link() {
    let before = held(std::process::id());
    let probes = Probes::start(ProbeOptions::new(1, 1000));
    assert!(probes.wait(PATIENCE));
    if probes.report().tier == Tier::C {
        return eprintln!("SKIPPED: no probes here: {}", probes.report().why);
    }
    let ids: HashSet<_> = held(std::process::id()).difference(&before).cloned().collect();
    assert!(ids.len() >= 3, "{ids:?}");
    drop(probes);
    // Other tests of this process may have come and gone meanwhile: theirs go too.
    until_gone(&ids.difference(&held(std::process::id())).cloned().collect());
}
