//! Each command against a control socket with a stand-in for the daemon behind it.

use std::path::PathBuf;
use std::sync::Arc;

use cache_daemon::config::Limits;
use cache_daemon::control::{
    Answers, CacheDirLock, ControlFigures, Dropped, OrderTold, PushProgress, Refusal, Request, Server,
    VerifyProgress, WarmProgress,
};
use cache_daemon::stats::snapshot::Snapshot;
use clap::Parser;
use serde_json::{Value, json};

use super::*;

/// A daemon with one wrong extent that knows one path.
struct StandIn;

impl Answers for StandIn {
    fn answer(&self, request: Request, item: &mut dyn FnMut(Value) -> bool) -> Result<(), Refusal> {
        match request {
            Request::Stats => {
                let mut snapshot = Snapshot::new(
                    Default::default(),
                    Default::default(),
                    Default::default(),
                    Default::default(),
                );
                snapshot.add(&ControlFigures::default());
                snapshot.degrade("probes", "no CAP_BPF", "blind", "run as root");
                item(json!(snapshot));
            }
            Request::Verify { .. } => {
                let half = VerifyProgress { extents: 1, bytes: 50, total_bytes: 100, ..Default::default() };
                let all = VerifyProgress { extents: 2, bytes: 100, bad_extents: 1, done: true, ..half };
                let _ = item(json!(half)) && item(json!(all));
            }
            Request::Drop { path } if path.as_deref() == Some("train/a.jpg") => {
                item(json!(Dropped { objects: 1, bytes: 2048 }));
            }
            Request::Drop { path } => return Err(Refusal(format!("no such file: {path:?}"))),
            Request::Push { paths } => {
                let total_files = paths.len() as u64;
                let half = PushProgress { total_files, elapsed_ms: 500, ..Default::default() };
                let over_budget_files = u64::from(total_files > 2);
                let pushed_files = total_files - over_budget_files;
                let all = PushProgress { pushed_files, over_budget_files, done: true, ..half.clone() };
                let _ = item(json!(half)) && item(json!(all));
            }
            // A daemon that dies while it is asked.
            Request::Warm { .. } => {
                let half = WarmProgress { files: 2, passed_files: 1, ..WarmProgress::default() };
                let full = WarmProgress { done: true, why: "the store is full".into(), ..half.clone() };
                let _ = item(json!(half)) && item(json!(full));
            }
            Request::Order { path, .. } if path.ends_with("/epoch.txt") => {
                item(json!(OrderTold { files: 3, unknown: 1, ..OrderTold::default() }));
            }
            Request::Order { path, .. } => return Err(Refusal(format!("{path}: no such file"))),
            Request::Ping | Request::Umount | Request::Top | Request::Trace => panic!("on purpose"),
        }
        Ok(())
    }
}

struct Daemon {
    dir: tempfile::TempDir,
    _server: Server,
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let server = CacheDirLock::take(dir.path())
            .and_then(|lock| Server::start(lock, &Limits::on(2), Arc::default(), Arc::new(StandIn)));
        Self { _server: server.expect("the directory is ours"), dir }
    }

    /// Runs `cachectl LINE --cache-dir DIR`.
    fn cachectl(&self, line: &[&str]) -> (Result<Verdict, anyhow::Error>, String) {
        let dir: PathBuf = self.dir.path().into();
        let mut all = vec!["cachectl"];
        all.extend(line);
        all.extend(["--cache-dir", dir.to_str().expect("made of ASCII")]);
        let args = Args::try_parse_from(all).expect("clap takes it");
        let mut out = Vec::new();
        let result = run(args.command, &mut out);
        (result, String::from_utf8(out).expect("text"))
    }
}

#[test]
fn clap_finds_no_fault_with_the_commands() {
    use clap::CommandFactory;
    Args::command().debug_assert();
}

#[test]
fn stats_is_a_table_or_one_object_and_check_finds_what_is_degraded() {
    let daemon = Daemon::new();
    let (verdict, text) = daemon.cachectl(&["stats"]);
    assert!(verdict.expect("it answers") == Verdict::Well && text.contains("CONTROL"), "{text}");
    let (verdict, text) = daemon.cachectl(&["stats", "--json", "--check"]);
    assert!(verdict.expect("it answers") == Verdict::Problems);
    let object: Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(object["figures"]["control_refused"], json!(0));
}

#[test]
fn verify_exits_with_1_when_something_was_wrong() {
    let daemon = Daemon::new();
    let (verdict, text) = daemon.cachectl(&["verify", "--rate", "1GiB"]);
    assert!(verdict.expect("it answers") == Verdict::Problems);
    assert!(text.contains("1 wrong, dropped"), "{text}");
    let (_, text) = daemon.cachectl(&["verify", "--json"]);
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn drop_sends_the_path_in_the_mount_and_shows_a_refusal() {
    let daemon = Daemon::new();
    let (_, text) = daemon.cachectl(&["drop", "train/a.jpg"]);
    assert_eq!(text, "dropped 1 objects, 2 KiB\n");
    let (refused, _) = daemon.cachectl(&["drop", "train/b.jpg"]);
    assert!(refused.is_err_and(|error| error.to_string().contains("no such file")));
}

#[test]
fn push_exits_with_1_when_some_files_found_no_room() {
    let daemon = Daemon::new();
    let (verdict, text) = daemon.cachectl(&["push", "a", "b"]);
    assert!(verdict.expect("it answers") == Verdict::Well && text.contains("2 of 2 files pushed"), "{text}");
    assert!(text.contains("4 files/s"), "{text}");
    let (verdict, text) = daemon.cachectl(&["push", "a", "b", "c"]);
    assert!(verdict.expect("it answers") == Verdict::Problems);
    assert!(text.contains("2 of 3 files") && text.contains("1 found no room"), "{text}");
    let (_, text) = daemon.cachectl(&["push", "a", "--json"]);
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn warm_exits_with_1_when_not_all_is_stored_and_order_says_what_it_understood() {
    let daemon = Daemon::new();
    let (verdict, text) = daemon.cachectl(&["warm", "train"]);
    assert!(
        verdict.expect("it answers") == Verdict::Problems && text.contains("the store is full"),
        "{text}"
    );
    let (_, text) = daemon.cachectl(&["order", "epoch.txt"]);
    assert_eq!(text, "3 files in this order; 1 unknown paths, 0 named twice\n");
    let (refused, _) = daemon.cachectl(&["order", "other.txt"]);
    assert!(refused.is_err_and(|error| error.to_string().contains("no such file")));
}

#[test]
fn a_daemon_that_breaks_off_is_an_error_and_no_hang() {
    let (result, _) = Daemon::new().cachectl(&["umount"]);
    assert!(result.is_err_and(|error| error.to_string().contains("its log says why")));
}

#[test]
fn a_closed_pipe_is_told_from_other_errors() {
    let broken = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
    assert!(is_broken_pipe(&broken) && !is_broken_pipe(&anyhow::anyhow!("other")));
}
