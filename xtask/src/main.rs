//! The project's own commands: `cargo xtask run`, `test`, `bench`, `vm-test`, `doctor`, `ci`.
//!
//! It depends on nothing of ours: it builds the other members and runs what was built.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod checks;
mod command;
mod ebpf;
mod fuzz;
mod paddle;
mod run;
mod suites;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "epochcache's own commands", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build and show the product: without arguments the demo, with arguments `epochcache mount ARGUMENTS`.
    Run(run::Arguments),
    /// Run every test, and say what was skipped and why.
    Test(suites::Arguments),
    /// Run a benchmark: epoch, list, store, ...; `report` writes docs/benchmarks.md.
    Bench(bench::Arguments),
    /// Build the probes' object, or with --check compare the committed one with the source.
    Ebpf(ebpf::Arguments),
    /// Fuzz the decoders of everything that others may have written.
    Fuzz(fuzz::Arguments),
    /// Run the suites on other kernels, in virtual machines with an emulated NVMe device.
    VmTest(vm::Arguments),
    /// Say what this machine lacks, and how to get it.
    Doctor,
    /// Formatting, clippy, documentation, tests: what a change must pass.
    Ci,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Run(arguments) => run::run(&arguments),
        Task::Test(arguments) => suites::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Ebpf(arguments) => ebpf::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::VmTest(arguments) => vm::run(&arguments),
        Task::Doctor => run::doctor(),
        Task::Ci => checks::run().and_then(|()| suites::run(&suites::Arguments::default())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
