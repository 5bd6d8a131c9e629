//! `run` and `doctor`: the product, built for release.

use std::ffi::OsString;
use std::process::Command;

use crate::command::{become_program, built, cargo, must};

/// What to mount.
#[derive(clap::Args)]
pub struct Arguments {
    /// Arguments of `epochcache mount`, or `--keep` and `--json` for the demo.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Builds, then becomes the demo, or `epochcache mount` with the user's arguments.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let only_options = arguments.rest.iter().all(|argument| argument == "--keep" || argument == "--json");
    if only_options {
        build(&["epochcache", "cachectl", "demo", "s3-origin", "reader"])?;
        Err(become_program(Command::new(built("demo", true)).args(&arguments.rest)))
    } else {
        build(&["epochcache", "cachectl"])?;
        Err(become_program(Command::new(built("epochcache", true)).arg("mount").args(&arguments.rest)))
    }
}

/// Builds, then becomes `cachectl doctor`.
pub fn doctor() -> anyhow::Result<()> {
    build(&["epochcache", "cachectl"])?;
    Err(become_program(Command::new(built("cachectl", true)).arg("doctor")))
}

/// A release build of these programs. The first takes minutes, and a silent minute looks like a hang.
fn build(programs: &[&str]) -> anyhow::Result<()> {
    if !built(programs[0], true).exists() {
        eprintln!("Building epochcache for release: 3 to 8 minutes the first time, seconds from then on.");
    }
    let mut command = cargo(["build", "--release", "--workspace"]);
    for program in programs {
        command.args(["--bin", program]);
    }
    must(&mut command)
}
