//! Our programs and test executables, linked statically: the guest has no libraries.
//!
//! The gnu target with `+crt-static` is enough, no musl. Profile and target directory are their own, so that nothing that
//! is built for the host is built again for this, or the other way round.
//!
//! The quick run takes what `cargo xtask test` has built anyway, with the host's libraries beside it: nothing to wait for, but
//! slower code.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::home;
use crate::command::{cargo, root, target};

/// With `--target`, cargo does not apply RUSTFLAGS to build scripts and procedural macros, which cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What is built, always together: the features of dependencies are those of all packages named at once, and other sets
/// of packages would build them again.
const PACKAGES: [&str; 6] = ["-p", "cache-daemon", "-p", "epochcache-tests", "-p", "fuse-frontend"];
const PROGRAMS: [&str; 5] = ["epochcache", "cachectl", "s3-origin", "reader", "guest-init"];
const TESTS: [&str; 3] = ["e2e", "mounted", "probes"];

/// Built programs.
pub struct Programs {
    /// Programs by name.
    pub programs: Vec<Built>,
    /// Test executables, by the name of the test or, of unit tests, of the library.
    pub tests: Vec<Built>,
    /// What cargo tells integration tests as CARGO_TARGET_TMPDIR: its path is compiled into them.
    pub target_tmp: PathBuf,
    /// The commit that they are built from.
    pub commit: String,
}

/// One executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Without cargo's hash.
    pub name: String,
    /// Where it lies on the host.
    pub path: PathBuf,
}

impl Programs {
    /// Builds all of them.
    pub fn build() -> anyhow::Result<Self> {
        if !home().join("build").exists() {
            eprintln!("   the first time this takes 5 to 15 minutes on two cores");
        }
        let artifacts = build_all(cargo_static)?;
        Ok(Self::of(artifacts, home().join("build").join(TARGET).join("tmp")))
    }

    /// What is built for the host, without its line tables: they are most of it.
    pub fn of_the_host() -> anyhow::Result<Self> {
        let mut built = Self::of(build_all(cargo_for_host)?, target().join("tmp"));
        let directory = home().join("host");
        fs::create_dir_all(&directory)?;
        for program in built.programs.iter_mut().chain(&mut built.tests) {
            let stripped = directory.join(&program.name);
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(&program.path);
            // Without binutils they are larger, that is all.
            if strip.status().is_ok_and(|status| status.success()) {
                program.path = stripped;
            }
        }
        Ok(built)
    }

    fn of(artifacts: Vec<(bool, Built)>, target_tmp: PathBuf) -> Self {
        let (tests, programs): (Vec<_>, Vec<_>) = artifacts.into_iter().partition(|(is_test, _)| *is_test);
        let strip = |all: Vec<(bool, Built)>| all.into_iter().map(|(_, built)| built);
        let programs = strip(programs).filter(|built| PROGRAMS.contains(&built.name.as_str())).collect();
        Self { programs, tests: strip(tests).collect(), target_tmp, commit: commit() }
    }
}

/// Asked when they are built: a run takes long enough for the next commit.
fn commit() -> String {
    let said = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root()).output();
    let text = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

/// Builds programs and tests; `cargo` is a command of cargo's that says what it makes.
fn build_all(cargo: fn(&str) -> Command) -> anyhow::Result<Vec<(bool, Built)>> {
    let mut build = cargo("build");
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    for test in TESTS {
        build.args(["--test", test]);
    }
    let mut artifacts = run(build)?;
    let mut unit_tests = cargo("test");
    unit_tests.args(["--no-run", "--lib"]);
    artifacts.extend(run(unit_tests)?);
    Ok(artifacts)
}

/// As `cargo xtask test` builds: the whole workspace, so that features, and with them what is built, are the same.
fn cargo_for_host(what: &str) -> Command {
    cargo([what, "--quiet", "--workspace", "--message-format", "json-render-diagnostics"])
}

fn cargo_static(what: &str) -> Command {
    let mut command = cargo([what, "--profile", "vm", "--target", TARGET]);
    command.args(["--message-format", "json-render-diagnostics"]).args(PACKAGES);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_TARGET_DIR", home().join("build"));
    command
}

/// The executables that `command` makes, and whether each is of tests. Cargo's progress goes to standard error.
fn run(mut command: Command) -> anyhow::Result<Vec<(bool, Built)>> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo")?;
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut built = Vec::new();
    for line in lines {
        built.extend(executable(&line?));
    }
    ensure!(child.wait()?.success(), "the static build failed");
    Ok(built)
}

/// A message of cargo, as far as it matters.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Target,
    profile: Profile,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn executable(line: &str) -> Option<(bool, Built)> {
    let message: Message = serde_json::from_str(line).ok()?;
    Some((message.profile.test, Built { name: message.target.name, path: message.executable? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let library = r#"{"reason":"compiler-artifact","target":{"name":"a"},"profile":{"test":false},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        let test = r#"{"reason":"compiler-artifact","target":{"name":"e2e"},"profile":{"test":true},"executable":"/x/e2e-1"}"#;
        assert_eq!(executable(test), Some((true, Built { name: "e2e".into(), path: "/x/e2e-1".into() })));
    }
}
