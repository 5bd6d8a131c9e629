//! `cargo xtask bench NAME`: benchmarks, ours and a reference interleaved in one run.
//!
//! `row` is the line of JSON that every benchmark prints, `pairs` the interleaving, `machine` what is
//! measured around a run, `report` the tables of docs/benchmarks.md. Each other file is a benchmark.

use anyhow::bail;
use clap::Parser;

mod epoch;
mod list;
mod machine;
mod pairs;
mod planner;
mod plot;
mod probes;
mod report;
mod row;
mod serve;
mod store;

use row::Results;

/// Runs one benchmark; `report` writes docs/benchmarks.md from the last results.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// epoch, list, planner, probes, serve, store, or report.
    name: String,
    /// Print an object a line.
    #[arg(long)]
    json: bool,
    /// Two pairs and less data: checks that the benchmark works, never a number.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    store: store::Options,
}

/// How much is run.
#[derive(Clone, Copy)]
pub struct Effort {
    /// For CI: shows that the benchmark works.
    pub quick: bool,
}

impl Effort {
    /// Pairs of runs.
    pub fn pairs(self) -> usize {
        if self.quick { 2 } else { 5 }
    }

    /// One of two amounts.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.name == serve::WORKER {
        return serve::work();
    }
    let effort = Effort { quick: arguments.quick };
    let mut results = Results::new(&arguments.name, arguments.json)?;
    match arguments.name.as_str() {
        "epoch" => epoch::run(effort, &mut results)?,
        "list" => list::run(effort, &mut results)?,
        "planner" => planner::run(effort, &arguments.store.cases, &mut results)?,
        "probes" => probes::run(effort, &mut results)?,
        "serve" => serve::run(&arguments.store.cases, effort, &mut results)?,
        "store" => store::run(&arguments.store, effort, &mut results)?,
        "report" => return report::write(),
        unknown => {
            bail!("no benchmark is called {unknown}: epoch, list, planner, probes, serve, store, or report")
        }
    }
    // A quick run, or a part of one, must not replace numbers that somebody waited for.
    if effort.quick || !arguments.store.is_everything() { Ok(()) } else { results.keep() }
}
