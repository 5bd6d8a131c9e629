//! `cachectl stats --epoch`: the last epochs as a table.

use std::io::{self, Write};

use cache_daemon::stats::planner::EpochState;
use comfy_table::CellAlignment;

use super::{table, units};

/// Prints `epochs`, the oldest first.
pub fn show(out: &mut dyn Write, epochs: &[EpochState]) -> io::Result<()> {
    if epochs.is_empty() {
        return writeln!(out, "no epoch of 200 files or more has ended yet");
    }
    let mut all = table::plain(&[
        "epoch",
        "set",
        "files",
        "bytes",
        "time",
        "from origin",
        "at least",
        "from store",
        "waited",
        "ahead",
        "used",
        "wasted",
    ]);
    for epoch in epochs {
        let bytes = |bytes: u64| units::bytes(bytes as f64);
        let count = |count: u64| units::human(count, "");
        let seconds = |seconds: f64| units::duration((seconds * 1e6) as u64);
        all.add_row([
            count(epoch.epoch),
            if epoch.set.is_empty() { "/".to_owned() } else { epoch.set.clone() },
            format!("{} of {}", count(epoch.files), count(epoch.of_files)),
            bytes(epoch.bytes),
            seconds(epoch.seconds),
            bytes(epoch.origin_bytes),
            bytes(epoch.bound_bytes),
            bytes(epoch.store_bytes),
            seconds(epoch.waited_s),
            count(epoch.ahead_files),
            count(epoch.used_files),
            count(epoch.wasted_files),
        ]);
    }
    for column in 2..12 {
        if let Some(column) = all.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table::print(out, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_row_and_none_is_a_sentence() {
        let shown = |epochs: &[EpochState]| {
            let mut out = Vec::new();
            show(&mut out, epochs).expect("a vector takes all");
            String::from_utf8(out).expect("text")
        };
        assert!(shown(&[]).starts_with("no epoch"));
        let epoch = EpochState {
            epoch: 2,
            set: "train".into(),
            files: 1_990,
            of_files: 2_000,
            origin_bytes: 5 << 20,
            ..EpochState::default()
        };
        let text = shown(&[epoch]);
        assert!(
            text.contains("train") && text.contains("1 990 of 2 000") && text.contains("5 MiB"),
            "{text}"
        );
    }
}
