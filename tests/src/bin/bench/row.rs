//! The line that every benchmark prints: one metric of one case.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::pairs::{Pairs, median};

/// One metric of one case. Nothing in it says pass or fail: goals live with whoever reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The benchmark's name.
    pub bench: String,
    /// What was done.
    pub case: String,
    /// Where, if it was done in several places.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub medium: String,
    /// What was measured: throughput, files_per_s, requests_per_file, rss, ...
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Our median.
    pub ours: f64,
    /// The reference's median; none for absolute figures.
    pub reference: Option<f64>,
    /// What the reference is.
    pub reference_name: String,
    /// Median of ours/reference over the pairs.
    pub ratio: Option<f64>,
    /// The least of them.
    pub ratio_min: Option<f64>,
    /// The greatest of them.
    pub ratio_max: Option<f64>,
    /// Pairs, or runs of ours.
    pub runs: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// The commit that was measured, `-dirty` if it was not quite that.
    pub commit: String,
    /// What a reader must know.
    pub note: String,
}

/// Where a benchmark's rows go.
pub struct Results {
    bench: String,
    json: bool,
    medium: String,
    rows: Vec<Row>,
    kernel: String,
    commit: String,
}

impl Results {
    /// Rows of the benchmark `bench`, shown as JSON or as text.
    pub fn new(bench: &str, json: bool) -> anyhow::Result<Self> {
        let (kernel, commit) = (machine::kernel()?, machine::commit());
        let (bench, medium) = (bench.to_owned(), String::new());
        Ok(Self { bench, json, medium, rows: Vec::new(), kernel, commit })
    }

    /// What is added from here on was measured on `medium`.
    pub fn on(&mut self, medium: &str) {
        medium.clone_into(&mut self.medium);
    }

    /// Adds what was measured in pairs.
    pub fn pairs(
        &mut self,
        case: &str,
        metric: &str,
        unit: &str,
        reference_name: &str,
        pairs: &Pairs,
        note: &str,
    ) {
        let mut row = self.row(case, metric, unit, &pairs.ours(), note);
        row.reference = Some(median(&pairs.references()));
        reference_name.clone_into(&mut row.reference_name);
        let ratios = pairs.ratios();
        row.ratio = Some(median(&ratios));
        row.ratio_min = ratios.iter().copied().reduce(f64::min);
        row.ratio_max = ratios.iter().copied().reduce(f64::max);
        self.push(row);
    }

    /// Adds what has no reference.
    pub fn absolute(&mut self, case: &str, metric: &str, unit: &str, ours: &[f64], note: &str) {
        let row = self.row(case, metric, unit, ours, note);
        self.push(row);
    }

    /// Keeps the rows as the benchmark's last results.
    pub fn keep(&self) -> anyhow::Result<()> {
        let path = kept(&self.bench)?;
        let lines = self.rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        fs::write(&path, lines.join("\n") + "\n").with_context(|| path.display().to_string())
    }

    fn row(&self, case: &str, metric: &str, unit: &str, ours: &[f64], note: &str) -> Row {
        Row {
            bench: self.bench.clone(),
            case: case.to_owned(),
            medium: self.medium.clone(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            ours: median(ours),
            reference: None,
            reference_name: String::new(),
            ratio: None,
            ratio_min: None,
            ratio_max: None,
            runs: ours.len(),
            kernel: self.kernel.clone(),
            commit: self.commit.clone(),
            note: note.to_owned(),
        }
    }

    fn push(&mut self, row: Row) {
        if self.json {
            println!("{}", serde_json::to_string(&row).expect("a row has string keys only"));
        } else {
            println!("{}", row.line());
        }
        self.rows.push(row);
    }
}

impl Row {
    /// The case, and where it was done.
    pub fn title(&self) -> String {
        if self.medium.is_empty() { self.case.clone() } else { format!("{} {}", self.medium, self.case) }
    }

    fn line(&self) -> String {
        let ratio = match (self.reference, self.ratio, self.ratio_min, self.ratio_max) {
            (Some(reference), Some(ratio), Some(min), Some(max)) => {
                let digits = digits(reference);
                format!(
                    "  {} {reference:.digits$}  ratio {ratio:.3} ({min:.3}-{max:.3})",
                    self.reference_name
                )
            }
            _ => String::new(),
        };
        let (title, note, digits) = (self.title(), &self.note, digits(self.ours));
        format!("{title:17} {:18} {:10.digits$} {}{ratio}  {note}", self.metric, self.ours, self.unit)
    }
}

/// Decimals of a value in text.
fn digits(value: f64) -> usize {
    if value.abs() < 10.0 { 4 } else { 1 }
}

/// Where the last results of `bench` are kept.
pub fn kept(bench: &str) -> anyhow::Result<PathBuf> {
    let directory = machine::target().join("bench");
    fs::create_dir_all(&directory)?;
    Ok(directory.join(format!("{bench}.jsonl")))
}
