//! `report`: docs/benchmarks.md, from the last results of each benchmark under target/bench. What has no new results
//! there stays as it is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::machine;
use crate::plot;
use crate::row::Row;

const HEAD: &str = "\
# Benchmarks

Ours and the reference run interleaved in one run, on the same files, with the same reader; every byte is checked
outside of what is timed. A ratio is the median of the pairs' ratios, with the least and the greatest behind it. Written by
`cargo xtask bench report` from the last run of each benchmark; numbers of different machines do not compare.
";

/// What a benchmark's section begins with.
const ABOUT: [(&str, &str); 1] = [(
    "store",
    "\
The store, through the interface that the daemon uses, against one job of fio's io_uring engine, both with O_DIRECT: reads of the
same length, as many in flight, in the same file or device; for fills, fio's sequential write of as many bytes into a new file of
the same file system, synced at the end on both sides. Throughput counts what the device moves. CPU is user and kernel, of all
threads of the store and of fio's one; `unchecked` is ours less what the checksum takes, which was measured on bytes that
O_DIRECT had just brought. What asks for reads is the answer before: each wakes another thread of the store, as the daemon's FUSE
threads do. `part128k` reads chunks of 1 MiB in parts, against fio's blocks of that length: headers are extra reads there.
`file...` compares a file for each object with segments, by size. `recovery` opens a store of the smallest extents there are.
",
)];

/// Writes the document.
pub fn write() -> anyhow::Result<()> {
    let document = docs().join("benchmarks.md");
    let mut sections = sections(&fs::read_to_string(&document).unwrap_or_default());
    let kept: Vec<_> = fs::read_dir(machine::target().join("bench"))
        .context("no results yet: run `cargo xtask bench NAME` first")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    for path in &kept {
        let lines = fs::read_to_string(path)?;
        let rows = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Row>, _>>();
        let rows = rows.with_context(|| path.display().to_string())?;
        if let Some(first) = rows.first() {
            sections.insert(first.bench.clone(), section(&rows)?);
        }
    }
    let texts: Vec<_> = sections.values().map(String::as_str).collect();
    fs::write(&document, format!("{HEAD}{}", texts.concat()))
        .with_context(|| document.display().to_string())?;
    println!("{} of {} benchmarks are new in docs/benchmarks.md", kept.len(), sections.len());
    Ok(())
}

/// The sections of an earlier document, by name, as [`section`] writes them.
fn sections(document: &str) -> BTreeMap<String, String> {
    let parts = document.split("\n## ").skip(1);
    parts
        .filter_map(|part| {
            let name = part.lines().next()?.to_owned();
            Some((name, format!("\n## {}\n", part.trim_end())))
        })
        .collect()
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn section(rows: &[Row]) -> anyhow::Result<String> {
    let first = rows.first().context("a benchmark has rows")?;
    let mut text = String::new();
    writeln!(text, "\n## {}\n", first.bench)?;
    writeln!(
        text,
        "`cargo xtask bench {}`; kernel {}, commit {}.\n",
        first.bench, first.kernel, first.commit
    )?;
    if let Some((_, about)) = ABOUT.iter().find(|(name, _)| *name == first.bench) {
        writeln!(text, "{about}")?;
    }
    if let Some(svg) = plot::ratios(rows) {
        let name = format!("{}.svg", first.bench);
        fs::create_dir_all(docs().join("benchmarks"))?;
        fs::write(docs().join("benchmarks").join(&name), svg)?;
        writeln!(text, "![ours over the reference](benchmarks/{name})\n")?;
    }
    writeln!(text, "| case | metric | ours | reference | ratio | runs | note |")?;
    writeln!(text, "|---|---|---:|---:|---|---:|---|")?;
    for row in rows {
        let reference = row
            .reference
            .map_or("-".to_owned(), |value| format!("{} ({})", number(value), row.reference_name));
        let ratio = match (row.ratio, row.ratio_min, row.ratio_max) {
            (Some(ratio), Some(min), Some(max)) => format!("{ratio:.3} ({min:.3}-{max:.3})"),
            _ => "-".to_owned(),
        };
        let (ours, unit) = (number(row.ours), &row.unit);
        writeln!(
            text,
            "| {} | {} | {ours} {unit} | {reference} | {ratio} | {} | {} |",
            row.title(),
            row.metric,
            row.runs,
            row.note
        )?;
    }
    Ok(text)
}

/// Three digits or so: more than a benchmark knows.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_without_new_results_stay_as_they_are() {
        let document = format!("{HEAD}\n## epoch\n\n`x`\n\n| a |\n\n## list\n\n`y`\n");
        let found = sections(&document);
        assert_eq!(found.len(), 2);
        let texts: Vec<_> = found.values().map(String::as_str).collect();
        assert_eq!(format!("{HEAD}{}", texts.concat()), document);
    }
}
