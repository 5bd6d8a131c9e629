//! `test`: the suites, their time beside their budget, and what was skipped.
//!
//! A test that cannot run here prints `SKIP: reason` and passes; the lines are collected from the
//! output of both runners and shown at the end, so that nothing passes silently.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::command::{cargo, must, step};
use crate::paddle;

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

/// How a suite went.
struct Outcome {
    name: &'static str,
    passed: bool,
    took: Duration,
    budget: Duration,
    /// Reasons, and how many tests gave each.
    skipped: BTreeMap<String, usize>,
}

impl Suite {
    fn run(&self, runner: Runner, arguments: &Arguments) -> anyhow::Result<Outcome> {
        eprintln!("== {}", self.name);
        let began = Instant::now();
        let mut command = self.command(runner, arguments);
        if arguments.all {
            command.env("EPOCHCACHE_TEST_ALL", "1");
        }
        let (passed, skipped) = run_collecting(&mut command)?;
        Ok(Outcome { name: self.name, passed, took: began.elapsed(), budget: self.budget, skipped })
    }

    fn command(&self, runner: Runner, arguments: &Arguments) -> Command {
        let mut command = match runner {
            // Output of passing tests is wanted for its SKIP lines; the final status is enough of the rest.
            Runner::Nextest => {
                cargo(["nextest", "run", "--cargo-quiet", "--no-tests", "pass", "--no-fail-fast"])
            }
            Runner::Cargo => cargo(["test", "--quiet", "--no-fail-fast"]),
        };
        command.args(self.targets);
        if runner == Runner::Nextest {
            command.args(["--success-output", "immediate", "--status-level", "fail"]);
            command.args(["--final-status-level", "flaky"]);
            if std::env::var_os("CI").is_some() {
                command.args(["--profile", "ci"]);
            }
            command.args(&arguments.filter);
        } else {
            command.arg("--").arg("--nocapture").args(&arguments.filter);
        }
        command
    }
}

/// Runs `command`, shows its output less what passing tests say, and collects the reasons for skipping.
fn run_collecting(command: &mut Command) -> anyhow::Result<(bool, BTreeMap<String, usize>)> {
    // One pipe for both streams: they must stay in order, and neither may fill up unread.
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| command.get_program().to_string_lossy().into_owned())?;
    // The command holds copies of the pipe's writing end, which would keep it open for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut skipped = BTreeMap::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        match line.split_once("SKIP: ") {
            Some((_, reason)) => *skipped.entry(reason.trim().to_owned()).or_insert(0) += 1,
            None => eprintln!("{line}"),
        }
    }
    Ok((child.wait()?.success(), skipped))
}

fn paddle_outcome() -> anyhow::Result<Outcome> {
    let began = Instant::now();
    paddle::run()?;
    let budget = Duration::from_secs(15 * 60);
    Ok(Outcome { name: "paddle", passed: true, took: began.elapsed(), budget, skipped: BTreeMap::new() })
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
