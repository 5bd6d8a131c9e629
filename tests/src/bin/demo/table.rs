//! What the demo says of its epochs: a line while it runs, a table or JSON at the end.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use epochcache_tests::bed::reader::EpochReport;
use serde_json::json;

/// One epoch through the mount.
pub struct EpochRow {
    /// What the readers saw.
    pub report: EpochReport,
    /// Bytes that the server sent meanwhile, as the server counts them.
    pub origin_bytes: u64,
}

impl EpochRow {
    /// Puts both views together.
    pub fn new(report: EpochReport, origin_bytes: u64) -> Self {
        Self { report, origin_bytes }
    }

    /// Share of the bytes read that did not come from the origin in this epoch.
    fn hit_ratio(&self) -> f64 {
        (1.0 - self.origin_bytes as f64 / self.report.bytes.max(1) as f64).max(0.0)
    }

    /// The progress line.
    pub fn line(&self) -> String {
        format!(
            "epoch {}: {:.1} s, {:.0} files/s, {:.0} MiB/s, hit ratio {:.1} %, {:.1} MiB from the origin",
            self.report.epoch,
            self.report.seconds,
            self.report.files_per_s,
            self.report.mib_per_s,
            self.hit_ratio() * 100.0,
            mib(self.origin_bytes)
        )
    }

    /// The object of `--json`.
    pub fn json(&self, server: &EpochReport, local: &EpochReport) -> anyhow::Result<String> {
        let mut object = serde_json::to_value(&self.report)?;
        object["hit_ratio"] = json!(self.hit_ratio());
        object["origin_bytes"] = json!(self.origin_bytes);
        object["server_files_per_s"] = json!(server.files_per_s);
        object["local_files_per_s"] = json!(local.files_per_s);
        Ok(serde_json::to_string(&object)?)
    }
}

/// The table at the end.
pub fn table(rows: &[EpochRow], server: &EpochReport, local: &EpochReport) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "epoch",
        "files/s",
        "MiB/s",
        "p50 us",
        "p99 us",
        "hit ratio",
        "MiB from origin",
        "wrong bytes",
    ]);
    for row in rows {
        let hit_ratio = format!("{:.1} %", row.hit_ratio() * 100.0);
        let origin = format!("{:.1}", mib(row.origin_bytes));
        table.add_row(cells(&row.report.epoch.to_string(), &row.report, hit_ratio, origin));
    }
    table.add_row(cells("no cache", server, "-".to_owned(), format!("{:.1}", mib(server.bytes))));
    table.add_row(cells("local copy", local, "-".to_owned(), "-".to_owned()));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn cells(name: &str, report: &EpochReport, hit_ratio: String, origin: String) -> [String; 8] {
    [
        name.to_owned(),
        format!("{:.0}", report.files_per_s),
        format!("{:.0}", report.mib_per_s),
        report.p50_us.to_string(),
        report.p99_us.to_string(),
        hit_ratio,
        origin,
        report.wrong_bytes.to_string(),
    ]
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
