//! Whether a guest succeeded.
//!
//! All of these, and nothing less: QEMU's exit status is the one that only our init makes, the last event says that all
//! passed, no suite and no fact is missing or wrong, and the kernel complained of nothing.

use super::boot::Ended;
use super::facts::Expected;
use super::protocol::Event;

/// isa-debug-exit makes `code << 1 | 1`. A guest that panics ends with 0, one that hangs is killed.
const GOOD: i32 = 1;

/// What the kernel prints when something is wrong with it, or with the emulated device.
const COMPLAINTS: [&str; 12] = [
    "BUG: ",
    "WARNING: ",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "INFO: task ",
    "rcu: INFO: ",
    "Call Trace:",
    "I/O error",
    "EXT4-fs error",
    "Corruption",
    "Out of memory: ",
];

/// What is wrong, one sentence each; nothing if the guest succeeded.
pub fn judge(ended: &Ended, expected: &Option<Expected>) -> Vec<String> {
    let mut problems = Vec::new();
    if ended.hung {
        problems.push(format!("hung: killed after {} s", ended.took.as_secs()));
    } else if ended.status != Some(GOOD) {
        let status = ended.status.map_or("a signal".to_owned(), |status| format!("status {status}"));
        problems.push(format!("QEMU ended with {status}, not {GOOD}"));
    }
    if !matches!(ended.events.last(), Some(Event::Finished { passed: true })) {
        problems.push("the last event is not that everything passed".to_owned());
    }
    for event in &ended.events {
        problems.extend(event_problems(event, expected.as_ref()));
    }
    for (kind, there) in [
        ("facts", ended.events.iter().any(|event| matches!(event, Event::Facts(_)))),
        ("word of the daemon", ended.events.iter().any(|event| matches!(event, Event::Daemon(_)))),
    ] {
        if !there {
            problems.push(format!("no {kind}"));
        }
    }
    problems.extend(unfinished(&ended.events).map(|suite| format!("{suite}: began and did not end")));
    problems.extend(complaints(&ended.console).map(|line| format!("kernel: {line}")));
    problems
}

fn event_problems(event: &Event, expected: Option<&Expected>) -> Vec<String> {
    match event {
        Event::Facts(facts) => expected.map(|expected| expected.differences(facts)).unwrap_or_default(),
        Event::Daemon(daemon) => {
            expected.map(|expected| expected.daemon_differences(daemon)).unwrap_or_default()
        }
        Event::Failed { what } => vec![what.clone()],
        Event::Ended(outcome) => {
            let failed = outcome.failed.iter().map(|test| format!("{}: {test} failed", outcome.suite));
            let broken = outcome.broken.iter().map(|why| format!("{}: {why}", outcome.suite));
            let untrue = expected.iter().flat_map(|expected| expected.untrue(&outcome.skipped));
            let untrue = untrue.map(|why| format!("{}: skipped though it is there: {why}", outcome.suite));
            failed.chain(broken).chain(untrue).collect()
        }
        Event::Ready { .. } | Event::Began { .. } | Event::Finished { .. } => Vec::new(),
    }
}

/// Suites that began and did not end.
fn unfinished(events: &[Event]) -> impl Iterator<Item = &str> {
    let ended = |suite: &str| events.iter().any(|event| matches!(event, Event::Ended(o) if o.suite == suite));
    events.iter().filter_map(move |event| match event {
        Event::Began { suite, .. } if !ended(suite) => Some(suite.as_str()),
        _ => None,
    })
}

/// Lines of the kernel that complain; what programs print is theirs. The first of each kind is enough.
fn complaints(console: &str) -> impl Iterator<Item = &str> {
    let lines = || console.lines().filter_map(kernel_line);
    COMPLAINTS.iter().filter_map(move |complaint| lines().find(|line| line.contains(complaint)))
}

/// The kernel's part of a line: after `[    1.234567] `, which may stand behind a program's half line.
fn kernel_line(line: &str) -> Option<&str> {
    line.match_indices("] ").find_map(|(at, _)| {
        let stamp = line[..at].rsplit_once('[')?.1.trim_start();
        let (seconds, micros) = stamp.split_once('.')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(seconds) && micros.len() == 6 && digits(micros)).then(|| line[at + 2..].trim_end())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::vm::protocol::{Daemon, Facts, LargeFiles, Outcome};

    fn good() -> Ended {
        let facts = Facts {
            fuse_protocol: (7, 99),
            fuse_flags: vec![],
            uring_flags: vec![],
            uring: true,
            btf: true,
            module_btf: true,
        };
        let daemon = Daemon {
            serve: "noopen".into(),
            engine: "io_uring".into(),
            probe_tier: "A".into(),
            probe_programs: vec![],
            large_files: LargeFiles { files: 3, passthrough: 3, daemon_reads: 0 },
            read_ahead_kb: Some(1024),
            off: vec![],
        };
        let outcome = Outcome {
            suite: "e2e".into(),
            passed: 3,
            failed: vec![],
            skipped: vec![],
            broken: None,
            took_s: 1.0,
        };
        let events = vec![
            Event::Facts(facts),
            Event::Daemon(daemon),
            Event::Began { suite: "e2e".into(), tests: 3 },
            Event::Ended(outcome),
            Event::Finished { passed: true },
        ];
        let console = "[    0.100000] Linux\ntest a ... WARNING: I am a test\n".to_owned();
        Ended { status: Some(1), hung: false, events, console, took: Duration::ZERO }
    }

    #[track_caller]
    fn assert_problem(change: impl FnOnce(&mut Ended), words: &str) {
        let mut ended = good();
        change(&mut ended);
        let problems = judge(&ended, &None);
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
    }

    #[test]
    fn only_all_signs_together_are_success() {
        assert_eq!(judge(&good(), &None), [""; 0]);
        assert_problem(|ended| ended.status = Some(0), "status 0");
        assert_problem(|ended| ended.status = None, "a signal");
        assert_problem(|ended| ended.hung = true, "hung");
        assert_problem(|ended| drop(ended.events.pop()), "last event");
        assert_problem(|ended| drop(ended.events.remove(3)), "e2e: began and did not end");
        assert_problem(|ended| drop(ended.events.remove(0)), "no facts");
        assert_problem(
            |ended| ended.console.push_str("test b ... [   12.345678] BUG: unable\n"),
            "kernel: BUG",
        );
        assert_problem(
            |ended| {
                let Event::Ended(outcome) = &mut ended.events[3] else { panic!() };
                outcome.failed.push("c::d".into());
            },
            "e2e: c::d failed",
        );
    }

    #[test]
    fn a_kernel_that_lacks_what_it_must_have_fails() {
        let problems = judge(&good(), &crate::vm::facts::expected("6.12"));
        assert!(
            problems.iter().any(|problem| problem.contains("FUSE's protocol is (7, 99)")),
            "{problems:?}"
        );
    }
}
