//! `fuzz`: libFuzzer on every decoder, by the stable toolchain.
//!
//! What `cargo fuzz` does, without it: the instrumentation is a pass of LLVM that `-C` flags turn on. No
//! sanitizer, which would take a nightly: the decoders have no unsafe code, and overflow checks and
//! assertions are on.
//!
//! Inputs that reach new code are kept in the target directory, for the next run to begin with. Into the
//! committed corpus they go only if asked for.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, io};

use anyhow::{Context, bail};

use crate::command::{cargo, must, root, step, target};

/// Which decoders, and for how long.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this one: a name in tests/fuzz/fuzz_targets.
    target: Option<String>,
    /// How long each is fuzzed.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// Add the inputs that reach code which the committed corpus does not.
    #[arg(long)]
    keep: bool,
}

const SECONDS: u64 = 60;

/// How many inputs of a target are committed: they are read by people, and run by every test.
const INPUTS_MAX: usize = 40;

/// How long all of them take by default, on 2 cores and built for the first time.
pub const BUDGET: Duration = Duration::from_secs(25 * 60);

impl Default for Arguments {
    fn default() -> Self {
        Self { target: None, seconds: SECONDS, keep: false }
    }
}

/// As `cargo fuzz` builds with `--sanitizer none`.
const INSTRUMENTATION: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Why nothing can be fuzzed here.
pub fn cannot() -> Option<String> {
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let version =
        Command::new(&compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return Some("libFuzzer is built by a C++ compiler (apt-get install g++)".to_owned());
    }
    None
}

/// Builds the fuzzers and runs them one after the other; fails if one finds something.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(reason) = cannot() {
        bail!(reason);
    }
    let targets = chosen(arguments)?;
    let programs = step("build", || build(&targets))?;
    let mut found = Vec::new();
    for name in &targets {
        let fuzzer = Fuzzer::new(name, &programs)?;
        if !fuzzer.fuzz(arguments.seconds)? {
            found.push(name.as_str());
        } else if arguments.keep {
            fuzzer.keep()?;
        }
    }
    if found.is_empty() { Ok(()) } else { bail!("found something: {}", found.join(", ")) }
}

fn chosen(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let dir = fuzz_dir().join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        targets.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    targets.sort();
    match &arguments.target {
        Some(one) if targets.contains(one) => Ok(vec![one.clone()]),
        Some(other) => bail!("there is no fuzzer {other}; there are {}", targets.join(", ")),
        None => Ok(targets),
    }
}

fn fuzz_dir() -> PathBuf {
    root().join("tests/fuzz")
}

/// Where fuzzers are built and work.
fn work_dir() -> PathBuf {
    target().join("fuzz")
}

/// Builds the fuzzers; where they are then.
fn build(targets: &[String]) -> anyhow::Result<PathBuf> {
    // Naming the target, although it is the host, keeps the flags away from build scripts and macros.
    let host = host()?;
    let mut build = cargo(["build", "--target", &host]);
    build.arg("--manifest-path").arg(fuzz_dir().join("Cargo.toml")).arg("--target-dir").arg(work_dir());
    build.args(targets.iter().flat_map(|name| ["--bin", name]));
    must(build.env("RUSTFLAGS", INSTRUMENTATION.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(work_dir().join(host).join("debug"))
}

fn host() -> anyhow::Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// One fuzzer and its directories.
struct Fuzzer<'a> {
    name: &'a str,
    program: PathBuf,
    /// The committed inputs.
    corpus: PathBuf,
    /// Those that it found.
    found: PathBuf,
    artifacts: PathBuf,
}

impl<'a> Fuzzer<'a> {
    fn new(name: &'a str, programs: &Path) -> anyhow::Result<Self> {
        let fuzzer = Self {
            name,
            program: programs.join(name),
            corpus: fuzz_dir().join("corpus").join(name),
            found: work_dir().join("corpus").join(name),
            artifacts: fuzz_dir().join("artifacts").join(name),
        };
        for dir in [&fuzzer.corpus, &fuzzer.found, &fuzzer.artifacts] {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        Ok(fuzzer)
    }

    /// Whether nothing was found. A line says how far it came.
    fn fuzz(&self, seconds: u64) -> anyhow::Result<bool> {
        let mut prefix = OsString::from("-artifact_prefix=");
        prefix.push(self.artifacts.join(""));
        let mut command = Command::new(&self.program);
        command.arg(format!("-max_total_time={seconds}")).arg(prefix);
        // Seconds and MiB that no input may take: an allocation that follows from a length in it shows here.
        command.args(["-timeout=10", "-rss_limit_mb=1024", "-use_value_profile=1", "-print_final_stats=1"]);
        let output = command.args([&self.found, &self.corpus]).output().context(self.name.to_owned())?;
        let log = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            eprintln!("{:18} {}", self.name, progress(&log));
            return Ok(true);
        }
        let from = log.lines().count().saturating_sub(40);
        log.lines().skip(from).for_each(|line| eprintln!("{line}"));
        eprintln!("{}: {}. What it found is in {}", self.name, output.status, self.artifacts.display());
        for artifact in fs::read_dir(&self.artifacts)? {
            eprintln!("    {} {}", self.program.display(), artifact?.path().display());
        }
        eprintln!(
            "Fix it, and move the input into {} with a name that says what it was.",
            self.corpus.display()
        );
        Ok(false)
    }

    /// Copies inputs that reach code which no committed one does: few and small ones.
    fn keep(&self) -> anyhow::Result<()> {
        let committed = inputs(&self.corpus)?;
        let mut command = Command::new(&self.program);
        // Code reached, not how often: that would be hundreds of inputs.
        command.args(["-set_cover_merge=1", "-use_counters=0"]).args([&self.corpus, &self.found]);
        must(command.stderr(Stdio::null()))?;
        let mut new: Vec<_> = inputs(&self.corpus)?.difference(&committed).cloned().collect();
        new.sort_by_key(|input| fs::metadata(input).map_or(u64::MAX, |metadata| metadata.len()));
        let too_many = new.split_off(new.len().min(INPUTS_MAX.saturating_sub(committed.len())));
        for input in too_many {
            fs::remove_file(input)?;
        }
        eprintln!("{:18} {} inputs kept", self.name, new.len());
        Ok(())
    }
}

fn inputs(dir: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?)
}

/// What the last lines of a run say: executions, and what they covered.
fn progress(log: &str) -> String {
    let stat = |name: &str| {
        let line = log.lines().rev().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("?").trim().to_owned()
    };
    let covered = log.lines().rev().find_map(|line| line.split_once(" cov: "));
    let covered = covered.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("?");
    let (runs, rate) = (stat("stat::number_of_executed_units:"), stat("stat::average_exec_per_sec:"));
    format!("{runs} runs, {rate} a second, {covered} branches, {} MiB", stat("stat::peak_rss_mb:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_one_line() {
        let log = "#2\tINITED cov: 12 ft: 13\n#9\tDONE   cov: 99 ft: 120 corp: 5/9b\n\
            stat::number_of_executed_units: 77\nstat::average_exec_per_sec:     7\nstat::peak_rss_mb: 40\n";
        assert_eq!(progress(log), "77 runs, 7 a second, 99 branches, 40 MiB");
        assert_eq!(progress(""), "? runs, ? a second, ? branches, ? MiB");
    }
}
