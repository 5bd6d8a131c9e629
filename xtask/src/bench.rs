//! `bench`: the benchmarks, which are a program of the tests' package.

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
}

/// Builds everything for release, and becomes the benchmark.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    must(&mut cargo(["build", "--release", "--workspace", "--bins"]))?;
    let mut bench = Command::new(built("bench", true));
    bench.arg(&arguments.name);
    bench.args(arguments.json.then_some("--json")).args(arguments.quick.then_some("--quick"));
    Err(become_program(&mut bench))
}
