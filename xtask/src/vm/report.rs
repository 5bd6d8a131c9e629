//! What is shown: progress, a table, and docs/kernels.md.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::boot::Ended;
use super::home;
use super::kernels::Wanted;
use super::protocol::{Daemon, Event, Facts, LargeFiles, Outcome};
use crate::command::root;

/// How one kernel did.
pub struct Row {
    kernel: String,
    result: Result<Ran, String>,
}

/// A kernel that was booted.
#[derive(Serialize, Deserialize)]
struct Ran {
    release: String,
    /// Of the source that was tested.
    commit: String,
    took: Duration,
    /// Seconds until the guest was set up.
    boot_s: Option<f64>,
    facts: Option<Facts>,
    daemon: Option<Daemon>,
    outcomes: Vec<Outcome>,
    problems: Vec<String>,
}

impl Row {
    /// Of a kernel that ran: its release, and the commit of our programs.
    pub fn new(wanted: &Wanted, build: (&str, &str), ended: Ended, problems: Vec<String>) -> Self {
        let (release, commit) = build;
        let mut ran = Ran {
            release: release.to_owned(),
            commit: commit.to_owned(),
            took: ended.took,
            boot_s: None,
            facts: None,
            daemon: None,
            outcomes: Vec::new(),
            problems,
        };
        for event in ended.events {
            match event {
                Event::Ready { uptime_s, .. } => ran.boot_s = Some(uptime_s),
                Event::Facts(facts) => ran.facts = Some(facts),
                Event::Daemon(daemon) => ran.daemon = Some(daemon),
                Event::Ended(outcome) => ran.outcomes.push(outcome),
                Event::Began { .. } | Event::Failed { .. } | Event::Finished { .. } => {}
            }
        }
        Self { kernel: wanted.to_string(), result: Ok(ran) }
    }

    /// Of a kernel that could not be had.
    pub fn skipped(wanted: &Wanted, why: String) -> Self {
        Self { kernel: wanted.to_string(), result: Err(why) }
    }

    /// Whether it ran and is not as it must be.
    pub fn failed(&self) -> bool {
        self.result.as_ref().is_ok_and(|ran| !ran.problems.is_empty())
    }
}

/// A line for an event as it comes.
pub fn progress(event: &Event) {
    match event {
        Event::Ready { release, uptime_s } => eprintln!("   {release} is up after {uptime_s:.0} s"),
        Event::Began { suite, tests } => eprintln!("   {suite}: {tests} tests"),
        Event::Ended(outcome) => eprintln!("   {}", line(outcome)),
        Event::Failed { what } => eprintln!("   FAILED: {what}"),
        Event::Facts(_) | Event::Daemon(_) | Event::Finished { .. } => {}
    }
}

fn line(outcome: &Outcome) -> String {
    let Outcome { suite, passed, failed, skipped, broken, took_s } = outcome;
    let verdict = if outcome.is_good() { "passed" } else { "FAILED" };
    let mut line = format!("{suite:14} {verdict}  {passed:3} passed");
    let _ = write!(line, ", {} failed, {} skipped, {took_s:.0} s", failed.len(), skipped.len());
    if let Some(why) = broken {
        let _ = write!(line, ": {why}");
    }
    line
}

/// All rows, for a person.
pub fn show(rows: &[Row]) {
    println!();
    for row in rows {
        match &row.result {
            Err(why) => println!("{:14} SKIPPED  {why}", row.kernel),
            Ok(ran) => show_one(&row.kernel, ran),
        }
    }
}

fn show_one(kernel: &str, ran: &Ran) {
    let verdict = if ran.problems.is_empty() { "passed" } else { "FAILED" };
    let boot = ran.boot_s.map_or_else(|| "not up".to_owned(), |boot_s| format!("up after {boot_s:.0} s"));
    println!("{kernel:14} {verdict}  {} ({boot}, {:.0} s in all)", ran.release, ran.took.as_secs_f64());
    for outcome in &ran.outcomes {
        println!("  {}", line(outcome));
    }
    let mut reasons: Vec<_> = ran.outcomes.iter().flat_map(|outcome| &outcome.skipped).collect();
    reasons.sort();
    reasons.dedup();
    for reason in reasons {
        println!("  skipped: {reason}");
    }
    for problem in &ran.problems {
        println!("  PROBLEM: {problem}");
    }
}

/// Keeps what came of whole runs, so that the document can be made of runs at different times.
pub fn keep(row: &Row) -> anyhow::Result<()> {
    let Ok(ran) = &row.result else { return Ok(()) };
    fs::create_dir_all(results())?;
    Ok(fs::write(results().join(&row.kernel), serde_json::to_vec_pretty(ran)?)?)
}

fn results() -> PathBuf {
    home().join("results")
}

/// Writes docs/kernels.md from the last whole run of each of these kernels.
pub fn write_docs(kernels: &[Wanted]) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for kernel in kernels.iter().map(Wanted::to_string) {
        let text = fs::read(results().join(&kernel));
        let text = text.with_context(|| format!("docs/kernels.md is not written: {kernel} was never run"))?;
        all.push((kernel, serde_json::from_slice(&text)?));
    }
    let path = root().join("docs/kernels.md");
    fs::write(&path, document(&all))?;
    eprintln!("{} is written", path.display());
    Ok(())
}

const HEAD: &str = "# Kernels

Written by `cargo xtask vm-test --write-docs`; do not edit. What each kernel offers was asked of the kernel itself, in a
virtual machine with an emulated NVMe controller, and the suites ran there. Debian's kernels; other distributions build
theirs with the same features unless they say otherwise. How it is done: [decision 14](decisions/0014-vm-test.md).

";

const COSTS: &str = "
## What it costs where it is off

| off | then |
|---|---|
| no-open, no-opendir (before 5.1) | every file costs an OPEN and a RELEASE; not met on any kernel above |
| max-pages (before 4.20) | READs are of 128 KiB at most, eight times as many for a large file |
| passthrough (before 6.9) | large files are copied through the daemon, at about a fifth of the disk's own speed |
| over-io-uring (before 6.14, or `fuse.enable_uring=0`) | two system calls a FUSE request; the daemon does not use it yet |
| request-timeout (before 6.15) | a daemon that hangs holds its readers until it is killed |
| COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN (before 5.19, 6.0, 6.1) | a few more interrupts and locks for each read of the store |
| BTF of the kernel | no probes: reads that the page cache answers are not seen |
| BTF of modules (before 5.11) | where FUSE is a module, no fentry probe on its functions |

## What differs for users

- The error of a READ reaches a program that reads through the page cache as it was answered up to 6.18, but on 7.3 always as EIO:
  of a file that was replaced at the origin while it was open, ESTALE becomes EIO.

## What was not run

- **5.15 and 6.8, the kernels of Ubuntu 22.04**, are in no Debian archive. They are bracketed: 5.15 lies between 5.10 and 6.1,
  6.8 between 6.1 and 6.12. What both neighbours have is very likely there. Nothing more is claimed.
- Real devices: an emulated NVMe controller shows no timing, no durability through power loss, no polled queues.
- Speed: the processor is emulated too. Numbers are in `docs/benchmarks.md`, from real machines.
";

fn document(all: &[(String, Ran)]) -> String {
    let facts = |of: fn(&Facts) -> String| move |ran: &Ran| ran.facts.as_ref().map_or("?".to_owned(), of);
    let daemon = |of: fn(&Daemon) -> String| move |ran: &Ran| ran.daemon.as_ref().map_or("?".to_owned(), of);

    let mut table = Table { all, text: HEAD.to_owned() };
    table.head();
    table.row("build", |ran| ran.release.clone());
    table.row("epochcache's commit", |ran| ran.commit.clone());
    table.row("FUSE protocol", facts(|facts| format!("{}.{}", facts.fuse_protocol.0, facts.fuse_protocol.1)));
    for flag in ["no-open", "no-opendir", "max-pages", "passthrough", "over-io-uring", "request-timeout"] {
        table.row(&format!("FUSE {flag}"), |ran| has(ran, |facts| &facts.fuse_flags, flag));
    }
    for flag in ["SQPOLL", "IOPOLL", "COOP_TASKRUN", "SINGLE_ISSUER", "DEFER_TASKRUN"] {
        table.row(&format!("io_uring {flag}"), |ran| has(ran, |facts| &facts.uring_flags, flag));
    }
    table.row("BTF of the kernel", facts(|facts| on(facts.btf)));
    table.row("BTF of modules", facts(|facts| on(facts.module_btf)));
    table.row("the daemon serves", daemon(|daemon| daemon.serve.clone()));
    table.row("the store's engine", daemon(|daemon| daemon.engine.clone()));
    table.row("whole large files are read", daemon(|daemon| large_files(&daemon.large_files)));
    table.row("tier of the probes", daemon(|daemon| daemon.probe_tier.clone()));
    table.row("reads are seen at", daemon(|daemon| hook(&daemon.probe_programs).to_owned()));
    table.row("tests passed", |ran| count(ran, |outcome| outcome.passed));
    table.row("tests failed", |ran| count(ran, |outcome| outcome.failed.len()));
    table.row("skipped in part or whole", |ran| count(ran, |outcome| outcome.skipped.len()));
    table.row("verdict", |ran| if ran.problems.is_empty() { "passed" } else { "**failed**" }.to_owned());
    let mut text = table.text;

    for (kernel, ran) in all.iter().filter(|(_, ran)| !ran.problems.is_empty()) {
        let _ = writeln!(text, "\n{kernel} failed:\n");
        for problem in &ran.problems {
            let _ = writeln!(text, "- {problem}");
        }
    }
    text.push_str(COSTS);
    text
}

/// A table of Markdown with a column for each kernel.
struct Table<'a> {
    all: &'a [(String, Ran)],
    text: String,
}

impl Table<'_> {
    fn head(&mut self) {
        let kernels: Vec<_> = self.all.iter().map(|(kernel, _)| kernel.as_str()).collect();
        let _ = writeln!(self.text, "| | {} |\n|---|{}", kernels.join(" | "), "---|".repeat(kernels.len()));
    }

    fn row(&mut self, name: &str, cell: impl Fn(&Ran) -> String) {
        let cells: Vec<_> = self.all.iter().map(|(_, ran)| cell(ran)).collect();
        let _ = writeln!(self.text, "| {name} | {} |", cells.join(" | "));
    }
}

fn large_files(read: &LargeFiles) -> String {
    let LargeFiles { files, passthrough, daemon_reads } = read;
    match (passthrough, daemon_reads) {
        (passthrough, 0) if passthrough == files => "by the kernel alone, 0 READs".to_owned(),
        (0, reads) => format!("through the daemon, {reads} READs of 37 MiB"),
        (passthrough, reads) => format!("{passthrough} of {files} by the kernel, {reads} READs"),
    }
}

/// The hook of the first program, which is the one that sees reads.
fn hook(programs: &[String]) -> &str {
    let first = programs.first().and_then(|program| program.split_once('('));
    first.map_or("nothing", |(_, hook)| hook.trim_end_matches(')'))
}

fn has(ran: &Ran, list: fn(&Facts) -> &Vec<String>, flag: &str) -> String {
    let there = ran.facts.as_ref().map(|facts| list(facts).iter().any(|have| have == flag));
    there.map_or("?".to_owned(), on)
}

fn count(ran: &Ran, of: fn(&Outcome) -> usize) -> String {
    ran.outcomes.iter().map(of).sum::<usize>().to_string()
}

fn on(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}
