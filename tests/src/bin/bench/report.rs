//! `report`: docs/benchmarks.md, from the last results of each benchmark under target/bench.

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

/// Writes the document.
pub fn write() -> anyhow::Result<()> {
    let mut text = HEAD.to_owned();
    let mut kept: Vec<_> = fs::read_dir(machine::target().join("bench"))
        .context("no results yet: run `cargo xtask bench NAME` first")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    kept.sort();
    for path in &kept {
        let lines = fs::read_to_string(path)?;
        let rows = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Row>, _>>();
        section(&mut text, &rows.with_context(|| path.display().to_string())?)?;
    }
    let document = docs().join("benchmarks.md");
    fs::write(&document, text).with_context(|| document.display().to_string())?;
    println!("{} benchmarks in docs/benchmarks.md", kept.len());
    Ok(())
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn section(text: &mut String, rows: &[Row]) -> anyhow::Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    writeln!(text, "\n## {}\n", first.bench)?;
    writeln!(
        text,
        "`cargo xtask bench {}`; kernel {}, commit {}.\n",
        first.bench, first.kernel, first.commit
    )?;
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
            row.case, row.metric, row.runs, row.note
        )?;
    }
    Ok(())
}

/// Three digits or so: more than a benchmark knows.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
