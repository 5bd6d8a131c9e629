//! The work: set up, look, run the suites, and tell the host of each step.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;

use anyhow::Context;

use super::protocol::{Event, Holds, Namespace, Outcome, PLAN, Plan, Suite};
use super::{facts, namespaces, suite, system};

/// The second serial port: events and nothing else.
const EVENTS: &str = "/dev/ttyS1";

/// Tests that want block devices of their own, to be written over, read their paths there, with colons between.
const TEST_DEVICE: &str = "EPOCHCACHE_TEST_DEVICE";

/// Does what the plan says; whether everything passed.
pub fn work() -> anyhow::Result<bool> {
    let mut host = Host(File::options().write(true).open(EVENTS).context(EVENTS)?);
    let passed = match run_plan(&mut host) {
        Ok(passed) => passed,
        Err(error) => {
            host.tell(&Event::Failed { what: format!("{error:#}") })?;
            false
        }
    };
    host.tell(&Event::Finished { passed })?;
    Ok(passed)
}

fn run_plan(host: &mut Host) -> anyhow::Result<bool> {
    let plan: Plan = serde_json::from_slice(&std::fs::read(PLAN).context(PLAN)?)?;
    system::load_modules(&plan.modules)?;
    system::loopback_up()?;
    let raw = attach_all(&plan.namespaces)?;
    host.tell(&Event::Ready { release: read_word("/proc/sys/kernel/osrelease")?, uptime_s: uptime_s()? })?;

    namespaces::write_on(Holds::Ext4, &plan.target_tmp)?;
    host.tell(&Event::Facts(facts::look()?))?;
    let mut passed = match facts::ask_daemon() {
        Ok(daemon) => host.tell(&Event::Daemon(daemon)).map(|()| true)?,
        Err(error) => {
            host.tell(&Event::Failed { what: format!("asking the daemon: {error:#}") }).map(|()| false)?
        }
    };
    namespaces::write_nowhere(&plan.target_tmp);

    for suite in &plan.suites {
        passed &= run_suite(host, &plan, suite, &raw)?;
    }
    Ok(passed)
}

/// All namespaces; the devices of the raw ones, with colons between.
fn attach_all(all: &[Namespace]) -> anyhow::Result<OsString> {
    let mut raw = Vec::new();
    for namespace in all {
        let device = namespaces::attach(namespace)?;
        if namespace.holds == Holds::Raw {
            raw.push(device);
        }
    }
    Ok(std::env::join_paths(raw)?)
}

fn run_suite(host: &mut Host, plan: &Plan, suite: &Suite, raw: &OsStr) -> anyhow::Result<bool> {
    let tests = suite::choose(suite, plan.filter.as_deref())?;
    if tests.is_empty() && plan.filter.is_some() {
        return Ok(true);
    }
    host.tell(&Event::Began { suite: suite.name.clone(), tests: tests.len() })?;
    println!("=== {}: {} tests", suite.name, tests.len());
    let outcome = if tests.is_empty() {
        no_tests(suite)
    } else {
        namespaces::write_on(suite.on, &plan.target_tmp)?;
        let devices = (suite.on == Holds::Raw).then_some((TEST_DEVICE, raw));
        let outcome = suite::run(suite, &tests, devices.as_slice());
        namespaces::write_nowhere(&plan.target_tmp);
        outcome?
    };
    let good = outcome.is_good();
    host.tell(&Event::Ended(outcome))?;
    Ok(good)
}

fn no_tests(suite: &Suite) -> Outcome {
    let broken = Some(format!("{} has no test named {}", suite.executable, suite.only.join(" or ")));
    Outcome { suite: suite.name.clone(), passed: 0, failed: vec![], skipped: vec![], broken, took_s: 0.0 }
}

/// The other end of the second serial port.
struct Host(File);

impl Host {
    fn tell(&mut self, event: &Event) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line).context("writing an event")
    }
}

fn read_word(path: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

fn uptime_s() -> anyhow::Result<f64> {
    Ok(read_word("/proc/uptime")?.parse()?)
}
