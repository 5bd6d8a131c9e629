//! `cachectl stats --epoch`: the last epochs as a table, and what the last one says about itself.

use std::io::{self, Write};

use cache_daemon::stats::planner::EpochState;

use super::{table, units};

/// Workers that are shown.
const WORKERS_MAX: usize = 8;

/// Prints `epochs`, the oldest first.
pub fn show(out: &mut dyn Write, epochs: &[EpochState]) -> io::Result<()> {
    let Some(last) = epochs.last() else {
        return writeln!(out, "no epoch of 200 files or more has ended yet");
    };
    let mut all = table::plain(&[
        "epoch",
        "set",
        "files",
        "bytes",
        "time",
        "page cache",
        "store",
        "fetched",
        "of bound",
        "waited",
        "ahead",
        "used",
        "wasted",
    ]);
    for epoch in epochs {
        all.add_row(row(epoch));
    }
    table::right_align(&mut all, 2..13);
    table::print(out, &all)?;
    details(out, last)
}

fn row(epoch: &EpochState) -> [String; 13] {
    let bytes = |bytes: u64| units::bytes(bytes as f64);
    let count = |count: u64| units::human(count, "");
    let unknown = || "-".to_owned();
    [
        count(epoch.epoch),
        set(epoch).to_owned(),
        format!("{} of {}", count(epoch.files), count(epoch.of_files)),
        bytes(epoch.bytes),
        seconds(epoch.seconds),
        epoch.page_cache_bytes.map_or_else(unknown, bytes),
        bytes(epoch.store_bytes),
        bytes(epoch.origin_bytes),
        epoch.over_bound.map_or_else(unknown, |over| format!("{over:.2} x")),
        format!("{} ({})", seconds(epoch.waited_s), percent(epoch.waited_share)),
        count(epoch.ahead_files),
        epoch.ahead_accuracy.map_or_else(unknown, percent),
        count(epoch.wasted_files),
    ]
}

/// What is known of one epoch beside its row.
fn details(out: &mut dyn Write, epoch: &EpochState) -> io::Result<()> {
    writeln!(out, "\nepoch {} of {}", epoch.epoch, set(epoch))?;
    if !epoch.advice.is_empty() {
        writeln!(out, "  would have helped most: {}", epoch.advice)?;
    }
    if epoch.workers > 0 {
        writeln!(out, "  {} workers; those that waited longest:", epoch.workers)?;
        let mut workers = table::plain(&["", "pid", "", "files", "read", "waited"]);
        for worker in epoch.per_worker.iter().take(WORKERS_MAX) {
            workers.add_row([
                String::new(),
                worker.pid.to_string(),
                worker.command.clone(),
                units::human(worker.files, ""),
                units::bytes(worker.bytes as f64),
                seconds(worker.waited_s),
            ]);
        }
        table::right_align(&mut workers, 3..6);
        table::print(out, &workers)?;
    }
    if !epoch.slowest.is_empty() {
        writeln!(out, "  the slowest files:")?;
        let mut slowest = table::plain(&["", "waited", "for", "file"]);
        for slow in &epoch.slowest {
            slowest.add_row([String::new(), seconds(slow.waited_s), slow.why.clone(), slow.path.clone()]);
        }
        table::right_align(&mut slowest, 1..2);
        table::print(out, &slowest)?;
    }
    Ok(())
}

fn set(epoch: &EpochState) -> &str {
    if epoch.set.is_empty() { "/" } else { &epoch.set }
}

fn seconds(seconds: f64) -> String {
    units::duration((seconds * 1e6) as u64)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use cache_daemon::stats::planner::{SlowFile, WorkerState};

    use super::*;

    fn shown(epochs: &[EpochState]) -> String {
        let mut out = Vec::new();
        show(&mut out, epochs).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        let squeezed = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        squeezed.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_epoch_is_a_row_and_none_is_a_sentence() {
        assert!(shown(&[]).starts_with("no epoch"));
        let epoch = EpochState {
            epoch: 2,
            set: "train".into(),
            files: 1_990,
            of_files: 2_000,
            origin_bytes: 5 << 20,
            over_bound: Some(1.004),
            waited_s: 12.0,
            waited_share: 0.081,
            ..EpochState::default()
        };
        let text = shown(&[epoch]);
        for part in ["2 train 1 990 of 2 000", "- 0 B 5 MiB 1.00 x 12 s (8 %) 0 - 0", "epoch 2 of train"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("workers") && !text.contains("slowest"), "{text}");
    }

    #[test]
    fn the_last_epoch_says_what_was_slow_and_what_would_have_helped() {
        let slow = |path: &str| SlowFile { path: path.into(), waited_s: 1.25, why: "slow first byte".into() };
        let worker =
            WorkerState { pid: 77, command: "pt_data".into(), files: 9, bytes: 2 << 20, waited_s: 0.5 };
        let last = EpochState {
            epoch: 3,
            workers: 12,
            per_worker: vec![worker],
            slowest: vec![slow("b/x.jpg")],
            advice: "an order: nobody knew".into(),
            page_cache_bytes: Some(1 << 20),
            ..EpochState::default()
        };
        let text = shown(&[EpochState { slowest: vec![slow("a")], ..EpochState::default() }, last]);
        for part in [
            "would have helped most: an order: nobody knew",
            "12 workers",
            "77 pt_data 9 2 MiB 500 ms",
            "1.25 s slow first byte b/x.jpg",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("slow first byte a"), "of the last one only: {text}");
    }
}
