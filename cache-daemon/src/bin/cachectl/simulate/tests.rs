//! The command, from its line to its table.

use cache_daemon::simulate::recording::Recorder;
use clap::Parser;
use serde_json::Value;

use super::*;
use crate::{Args as Cachectl, run};

fn simulate(line: &str) -> (Result<Verdict>, String) {
    let all = ["cachectl", "simulate"].into_iter().chain(line.split_whitespace());
    let args = Cachectl::try_parse_from(all).expect("clap takes it");
    let mut out = Vec::new();
    let verdict = run(args.command, &mut out);
    (verdict, String::from_utf8(out).expect("text"))
}

fn outcome(line: &str) -> Value {
    let (verdict, text) = simulate(line);
    assert_eq!(verdict.expect("it runs"), Verdict::Well);
    serde_json::from_str(&text).expect("one object")
}

#[test]
fn the_table_has_a_line_for_each_policy_and_cache() {
    let (verdict, text) = simulate(
        "--files 2000 --sizes fixed:110K --shuffle --cache 25%,50% --policies epoch,lru --rate 1000",
    );
    assert_eq!(verdict.expect("it runs"), Verdict::Well);
    assert_eq!(text.lines().count(), 6, "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("2 000 files, 215 MiB, 5 epochs in random order"), "{text}");
    assert!(
        lines[4].contains("50.0 %") && lines[4].contains("0.500") && lines[4].contains("1.000"),
        "{text}"
    );
}

#[test]
fn json_counts_what_the_table_rounds() {
    let object = outcome("--files 1000 --sizes fixed:1000 --shuffle --cache 300000 --policies none --json");
    let case = &object["cases"][0];
    assert_eq!(case["counts"]["uses"], 4000);
    assert_eq!(case["counts"]["fetched_bytes"], 2_800_000);
    assert_eq!(case["bound_bytes"], 2_800_000);
    assert_eq!((case["hit_ratio"].as_f64(), object["epochs_counted"].as_u64()), (Some(0.3), Some(4)));
}

#[test]
fn curves_are_written_beside_the_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let plot = dir.path().join("curves.svg");
    let line = format!("--files 500 --shuffle --policies epoch,lru,belady --plot {}", plot.display());
    simulate(&line).0.expect("it runs");
    let svg = std::fs::read_to_string(&plot).expect("it was written");
    assert_eq!(svg.matches("<polyline").count(), 3);
}

#[test]
fn a_recorded_trace_is_played_and_its_future_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trace");
    let mut recorder = Recorder::new(std::fs::File::create(&path).expect("created")).expect("written");
    for read in 0..3000u64 {
        let file = format!("train/{}", read * 7 % 300);
        recorder.record(read * 1000, 1, file.as_bytes(), 100).expect("written");
    }
    recorder.flush().expect("written");
    let object = outcome(&format!("{} --cache 50% --json", path.display()));
    assert_eq!(object["uses"], 3000);
    let ratio = |policy: &str| {
        let cases = object["cases"].as_array().expect("cases");
        cases.iter().find(|case| case["policy"] == policy).expect("it ran")["hit_ratio"].as_f64()
    };
    // The same order again and again: LRU hits nothing, not replacing hits half, and Belady too.
    assert_eq!((ratio("lru"), ratio("none"), ratio("belady")), (Some(0.0), Some(0.5), Some(0.5)));
}

#[test]
fn what_is_no_trace_is_refused_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trace");
    std::fs::write(&path, "hello").expect("written");
    let error = simulate(&path.display().to_string()).0.expect_err("it is none");
    assert!(format!("{error:#}").ends_with("this is no recorded trace"), "{error:#}");
    let error = simulate("--files 3 --ranks 4").0.expect_err("a rank has nothing");
    assert!(error.to_string().contains("there are 3 files"), "{error:#}");
    for wrong in
        ["--cache 101%", "--cache much", "--policies best", "--sizes 3", "--files 0", "--bandwidth 0"]
    {
        let all = ["cachectl", "simulate"].into_iter().chain(wrong.split_whitespace());
        assert!(Cachectl::try_parse_from(all).is_err(), "{wrong}");
    }
}
