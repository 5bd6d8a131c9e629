//! `test`: the suites, their time beside their budget, and what was skipped.
//!
//! A test that cannot run here prints a line `SKIP: reason` and passes. The lines are collected, whichever
//! runner is there, and shown at the end: nothing passes silently.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, bail};

use crate::command::{cargo, must, step, target};
use crate::{fuzz, paddle, vm};

/// Which tests.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// The long counts too.
    #[arg(long)]
    all: bool,
    /// PaddlePaddle's DataLoader on a mount too (installs it under target/).
    #[arg(long)]
    paddle: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

impl Arguments {
    /// Tells the tests whether the long counts are wanted.
    fn long<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if self.all { command.env("EPOCHCACHE_TEST_ALL", "1") } else { command }
    }
}

/// Tests that belong together.
struct Suite {
    name: &'static str,
    /// What chooses them, for cargo and nextest alike.
    targets: &'static [&'static str],
    /// On 2 cores, built already.
    budget: Duration,
}

const SUITES: &[Suite] = &[
    Suite { name: "unit", targets: &["--workspace", "--lib", "--bins"], budget: Duration::from_secs(5 * 60) },
    Suite {
        name: "integration",
        targets: &["--workspace", "--test", "*"],
        budget: Duration::from_secs(15 * 60),
    },
];

/// Builds everything, runs every suite, and tells what was skipped.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Tests start programs of other packages, which cargo builds only if asked.
    step("build", || must(&mut cargo(["build", "--quiet", "--workspace", "--all-targets"])))?;
    let runner = Runner::find();
    let mut outcomes = Vec::new();
    for suite in SUITES {
        outcomes.push(suite.run(runner, arguments)?);
    }
    if arguments.all && arguments.filter.is_none() {
        outcomes.push(fuzz_outcome());
    }
    if arguments.filter.is_none() {
        outcomes.push(kernels_outcome(arguments.all));
    }
    if arguments.paddle {
        outcomes.push(paddle_outcome()?);
    }
    report(&outcomes)
}

#[derive(Clone, Copy, PartialEq)]
enum Runner {
    Nextest,
    Cargo,
}

impl Runner {
    fn find() -> Self {
        let version = cargo(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if version.is_ok_and(|status| status.success()) { Self::Nextest } else { Self::Cargo }
    }
}

/// Reasons for skipping, and how many tests gave each.
type Skipped = BTreeMap<String, usize>;

/// How a suite went.
struct Outcome {
    name: &'static str,
    passed: bool,
    took: Duration,
    budget: Duration,
    skipped: Skipped,
}

impl Suite {
    fn run(&self, runner: Runner, arguments: &Arguments) -> anyhow::Result<Outcome> {
        eprintln!("== {}", self.name);
        let began = Instant::now();
        let (passed, skipped) = match runner {
            Runner::Nextest => self.nextest(arguments)?,
            Runner::Cargo => self.cargo_test(arguments)?,
        };
        Ok(Outcome { name: self.name, passed, took: began.elapsed(), budget: self.budget, skipped })
    }

    /// Nextest keeps what passing tests print in its JUnit report (.config/nextest.toml).
    fn nextest(&self, arguments: &Arguments) -> anyhow::Result<(bool, Skipped)> {
        let profile = if env::var_os("CI").is_some() { "ci" } else { "default" };
        let report = target().join("nextest").join(profile).join("junit.xml");
        let _ = fs::remove_file(&report);
        let mut command = cargo(["nextest", "run", "--cargo-quiet", "--no-tests", "pass", "--no-fail-fast"]);
        command.args(["--profile", profile]).args(self.targets).args(&arguments.filter);
        let passed = arguments.long(&mut command).status().context("cargo nextest")?.success();
        let mut skipped = Skipped::new();
        for line in fs::read_to_string(&report).unwrap_or_default().lines() {
            note_skip(&unescaped(line), &mut skipped);
        }
        Ok((passed, skipped))
    }

    fn cargo_test(&self, arguments: &Arguments) -> anyhow::Result<(bool, Skipped)> {
        let mut command = cargo(["test", "--quiet", "--no-fail-fast"]);
        command.args(self.targets).arg("--").arg("--nocapture").args(&arguments.filter);
        let mut child = arguments.long(&mut command).stdout(Stdio::piped()).spawn().context("cargo test")?;
        let mut skipped = Skipped::new();
        for line in BufReader::new(child.stdout.take().expect("it is piped")).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if !note_skip(&line, &mut skipped) {
                println!("{line}");
            }
        }
        Ok((child.wait()?.success(), skipped))
    }
}

/// Counts the reason in `line`, if there is one.
fn note_skip(line: &str, skipped: &mut Skipped) -> bool {
    let reason = line.split_once("SKIP: ").map(|(_, reason)| reason.trim());
    if let Some(reason) = reason {
        *skipped.entry(reason.to_owned()).or_insert(0) += 1;
    }
    reason.is_some()
}

/// A line of XML as the test printed it.
fn unescaped(line: &str) -> String {
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    entities.iter().fold(line.to_owned(), |line, (entity, text)| line.replace(entity, text))
}

fn fuzz_outcome() -> Outcome {
    eprintln!("== fuzz");
    let began = Instant::now();
    let (passed, skipped) = match fuzz::cannot() {
        Some(reason) => (true, Skipped::from([(reason, 1)])),
        None => {
            let done = fuzz::run(&fuzz::Arguments::default());
            (done.inspect_err(|error| eprintln!("fuzz: {error:#}")).is_ok(), Skipped::new())
        }
    };
    Outcome { name: "fuzz", passed, took: began.elapsed(), budget: fuzz::BUDGET, skipped }
}

fn kernels_outcome(all: bool) -> Outcome {
    eprintln!("== kernels");
    let began = Instant::now();
    let done = vm::run_and_tell_skipped(&vm::Arguments::of_test(all));
    let passed = done.inspect_err(|error| eprintln!("kernels: {error:#}"));
    let skipped = passed.as_ref().map(|reasons| reasons.iter().map(|reason| (reason.clone(), 1)).collect());
    let budget = Duration::from_secs(if all { 8 * 3600 } else { 10 * 60 });
    Outcome {
        name: "kernels",
        passed: passed.is_ok(),
        took: began.elapsed(),
        budget,
        skipped: skipped.unwrap_or_default(),
    }
}

fn paddle_outcome() -> anyhow::Result<Outcome> {
    let began = Instant::now();
    paddle::run()?;
    let budget = Duration::from_secs(15 * 60);
    Ok(Outcome { name: "paddle", passed: true, took: began.elapsed(), budget, skipped: Skipped::new() })
}

fn report(outcomes: &[Outcome]) -> anyhow::Result<()> {
    eprintln!();
    for outcome in outcomes {
        let verdict = if outcome.passed { "passed" } else { "FAILED" };
        let over = if outcome.took > outcome.budget { "  over budget" } else { "" };
        eprintln!(
            "{:12} {verdict}  {:4.0} s of {:4.0} s{over}",
            outcome.name,
            outcome.took.as_secs_f64(),
            outcome.budget.as_secs_f64()
        );
    }
    let mut skipped = outcomes.iter().flat_map(|outcome| &outcome.skipped).peekable();
    if skipped.peek().is_none() {
        eprintln!("nothing was skipped");
    }
    for (reason, tests) in skipped {
        eprintln!("skipped: {tests} x {reason}");
    }
    match outcomes.iter().find(|outcome| !outcome.passed) {
        Some(failed) => bail!("{} tests failed", failed.name),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_other_lines_left_alone() {
        let mut skipped = Skipped::new();
        let lines = ["test a ... SKIP: no fuse", "    SKIP: no fuse", "SKIP: 5 &lt; 6", "test a ... ok"];
        let noted = lines.map(|line| note_skip(&unescaped(line), &mut skipped));
        assert_eq!(noted, [true, true, true, false]);
        assert_eq!(skipped, Skipped::from([("no fuse".to_owned(), 2), ("5 < 6".to_owned(), 1)]));
    }
}
