//! One suite: a test executable, run for chosen tests, its output shown and understood.
//!
//! The tests are listed first and then named one by one: that allows several conditions on a name, which libtest's own
//! filters do not, and a suite that has no tests at all is seen to have none.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::protocol::{Outcome, PROGRAMS, Suite};
use crate::bed::programs::wait_within;

/// The tests of `suite` that are to be run.
pub fn choose(suite: &Suite, filter: Option<&str>) -> anyhow::Result<Vec<String>> {
    let listed = Command::new(executable(suite)).args(["--list", "--format", "terse"]).output()?;
    ensure!(listed.status.success(), "listing tests: {}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8_lossy(&listed.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.filter(|name| is_wanted(suite, filter, name)).map(str::to_owned).collect())
}

fn is_wanted(suite: &Suite, filter: Option<&str>, name: &str) -> bool {
    let only = suite.only.is_empty() || suite.only.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let skipped = suite.skip.iter().any(|skip| name.starts_with(&skip.test));
    let filtered = filter.is_none_or(|filter| name.contains(filter) || suite.name.contains(filter));
    only && filtered && !skipped
}

/// Runs `tests`, one after the other: an emulated machine is slow, and what is printed stays in order.
pub fn run(suite: &Suite, tests: &[String], environment: &[(&str, &OsStr)]) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    // One pipe for both streams: they must stay in order, and neither may fill up unread.
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(executable(suite));
    command.args(["--test-threads=1", "--nocapture", "--exact"]).args(tests);
    command
        .envs(environment.iter().copied())
        .envs(suite.environment.iter().cloned())
        .env("RUST_BACKTRACE", "1");
    // Failures of property tests are kept beside the source, which is not here.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1").process_group(0);
    let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command holds copies of the pipe's writing end, which would keep it open for ever.
    drop(command);
    let group = Pid::from_raw(child.id().cast_signed());
    let mut said = Said::default();
    let hung = !said.read_within(Duration::from_secs(suite.limit_s), reader);
    if hung {
        show_blocked();
    }
    let ended = wait_within(Duration::from_secs(if hung { 0 } else { 30 }), &mut child)?;
    // Also after a good end: what a test left running must not meet the next suite.
    let _ = killpg(group, Signal::SIGKILL);
    let status = ended.map_or_else(|| child.wait(), Ok).context("waiting for the tests")?;
    let broken =
        if hung { Some(format!("hung: not over after {} s", suite.limit_s)) } else { said.broken(status) };
    let known = suite.skip.iter().map(|skip| skip.why.clone());
    Ok(Outcome {
        suite: suite.name.clone(),
        passed: said.passed,
        failed: said.failed.into_iter().collect(),
        skipped: said.skipped.into_iter().chain(known).collect(),
        broken,
        took_s: began.elapsed().as_secs_f64(),
    })
}

fn executable(suite: &Suite) -> std::path::PathBuf {
    Path::new(PROGRAMS).join("deps").join(&suite.executable)
}

/// Has the kernel print what every blocked task waits for: the only witness of a hang.
fn show_blocked() {
    let _ = std::fs::write("/proc/sysrq-trigger", "w");
}

/// What libtest printed, as far as it matters.
#[derive(Default)]
struct Said {
    passed: usize,
    failed: BTreeSet<String>,
    skipped: Vec<String>,
    /// libtest's own last line was there.
    over: bool,
    in_failures: bool,
}

impl Said {
    /// Shows and understands all lines; false if they do not end within `limit`.
    fn read_within(&mut self, limit: Duration, reader: std::io::PipeReader) -> bool {
        let (lines, received) = mpsc::sync_channel(1024);
        // Ends with the pipe, or with the channel: nobody waits for it, a daemon that escaped may hold the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + limit;
        while !self.over {
            match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    println!("{line}");
                    self.line(&line);
                }
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
        true
    }

    fn line(&mut self, line: &str) {
        let reason = ["SKIP: ", "SKIPPED: ", "skipped: "].iter().find_map(|mark| line.split_once(mark));
        if let Some((_, reason)) = reason {
            self.skipped.push(reason.trim().to_owned());
        } else if line == "failures:" {
            // Printed twice: before what the tests said, which may contain anything, and before their names.
            self.in_failures = true;
            self.failed.clear();
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let words: Vec<_> = result.split_whitespace().collect();
            let before =
                |word: &str| words.iter().position(|w| w.starts_with(word)).and_then(|at| words.get(at - 1));
            self.passed = before("passed").and_then(|count| count.parse().ok()).unwrap_or(0);
            self.over = true;
        } else if self.in_failures
            && let Some(name) = line.strip_prefix("    ")
            && !name.is_empty()
            && !name.contains(char::is_whitespace)
        {
            self.failed.insert(name.to_owned());
        }
    }

    /// Why the suite as a whole is no good, if it is not for single tests.
    fn broken(&self, status: ExitStatus) -> Option<String> {
        if !self.over {
            return Some(format!("crashed: {status} before libtest's last line"));
        }
        (!status.success() && self.failed.is_empty())
            .then(|| format!("{status}, but no test is said to have failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::protocol::{Holds, Skip};

    fn suite(only: &[&str], skip: &[&str]) -> Suite {
        let skip = skip.iter().map(|test| Skip { test: (*test).to_owned(), why: "cannot".to_owned() });
        Suite {
            name: "store on ext4".to_owned(),
            executable: "store".to_owned(),
            on: Holds::Ext4,
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            skip: skip.collect(),
            environment: vec![],
            limit_s: 1,
        }
    }

    #[test]
    fn a_test_is_run_if_all_conditions_on_its_name_hold() {
        let suite = suite(&["store::"], &["store::slow"]);
        assert!(is_wanted(&suite, None, "store::tests::full"));
        assert!(!is_wanted(&suite, None, "catalog::store::tests"));
        assert!(!is_wanted(&suite, None, "store::slow::one"));
        assert!(is_wanted(&suite, Some("full"), "store::tests::full"));
        assert!(!is_wanted(&suite, Some("empty"), "store::tests::full"));
        assert!(is_wanted(&suite, Some("ext4"), "store::tests::full"));
    }

    #[test]
    fn what_libtest_says_is_understood() {
        let mut said = Said::default();
        let text = "running 3 tests\ntest a ... ok\ntest b ... SKIP: no python3\nok\ntest c::d ... FAILED\n\nfailures:\n\n\
                    ---- c::d stdout ----\n    deep line\n    word\n\nfailures:\n    c::d\n\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.02s";
        text.lines().for_each(|line| said.line(line));
        assert_eq!((said.passed, said.over), (2, true));
        assert_eq!(Vec::from_iter(said.failed), ["c::d"]);
        assert_eq!(said.skipped, ["no python3"]);
    }

    #[test]
    fn an_end_without_a_result_is_a_crash() {
        use std::os::unix::process::ExitStatusExt;
        let mut said = Said::default();
        said.line("test a ... ok");
        assert!(said.broken(ExitStatus::from_raw(6)).is_some_and(|why| why.starts_with("crashed")));
        said.line("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(said.broken(ExitStatus::from_raw(0)), None);
    }
}
