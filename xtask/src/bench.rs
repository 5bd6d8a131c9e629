//! `bench`: the benchmarks, which are a program of the tests' package.

use std::path::PathBuf;
use std::process::Command;

use crate::command::{become_program, built, cargo, must};

/// Which benchmark, and how.
#[derive(clap::Args)]
pub struct Arguments {
    /// The benchmark's name; `report` writes docs/benchmarks.md from the last results.
    name: String,
    /// Print an object a line.
    #[arg(long)]
    json: bool,
    /// Two pairs instead of five: checks that the benchmark works.
    #[arg(long)]
    quick: bool,
    /// store, serve: only cases whose names begin with one of these, separated by commas.
    #[arg(long)]
    cases: Option<String>,
    /// store: only these of ext4, xfs, raw.
    #[arg(long)]
    media: Option<String>,
    /// store: a directory on the disk to be measured, instead of target/.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Builds everything for release, and becomes the benchmark.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    must(&mut cargo(["build", "--release", "--workspace", "--bins"]))?;
    Err(become_program(Command::new(built("bench", true)).args(arguments.for_bench())))
}

impl Arguments {
    /// As the benchmark's program takes them.
    fn for_bench(&self) -> Vec<String> {
        let mut all = vec![self.name.clone()];
        let flags = [("--json", self.json), ("--quick", self.quick)];
        all.extend(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned()));
        let dir = self.dir.as_ref().map(|dir| dir.display().to_string());
        for (option, value) in [("--cases", &self.cases), ("--media", &self.media), ("--dir", &dir)] {
            all.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        all
    }
}
