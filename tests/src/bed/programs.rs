//! Where our programs are, and where tests may write: in cargo's target directory.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// The program `name`, built with the same profile as the running one.
///
/// # Panics
/// If it was not built: cargo tells a test only where the programs of its own package are.
pub fn program(name: &str) -> PathBuf {
    let directory = profile_directory();
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build --workspace{}` first (`cargo xtask test` does)",
        path.display(),
        if directory.ends_with("release") { " --release" } else { "" }
    );
    path
}

/// A directory for one test, removed when dropped: on a disk, because a cache on tmpfs is refused.
pub fn scratch() -> anyhow::Result<TempDir> {
    let home = profile_directory().parent().context("the target directory")?.join("tmp");
    std::fs::create_dir_all(&home)?;
    tempfile::Builder::new().prefix("bed-").tempdir_in(&home).with_context(|| home.display().to_string())
}

/// `target/debug` or `target/release`: a test's own program lies in its `deps`.
fn profile_directory() -> PathBuf {
    let running = std::env::current_exe().expect("Linux has /proc/self/exe");
    let directory = running.parent().expect("a program lies in a directory");
    match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().map(Path::to_path_buf),
        _ => None,
    }
    .unwrap_or_else(|| directory.to_path_buf())
}

/// What a program said when it was over.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Runs `command` to its end, at most for `limit`: a test must fail, not hang.
pub fn run_within(limit: Duration, command: &mut Command) -> anyhow::Result<Said> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let collect = |mut stream: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = collect(Box::new(child.stdout.take().expect("it is piped")));
    let err = collect(Box::new(child.stderr.take().expect("it is piped")));
    let Some(status) = wait_within(limit, child)? else {
        let _ = child.kill();
        let _ = child.wait();
        bail!("{name} did not end within {limit:?}");
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().expect("reading text does not panic");
    Ok(Said { status, out: text(out), err: text(err) })
}

/// Waits for the end of `child`, at most for `limit`.
pub fn wait_within(limit: Duration, child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() > limit {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks `done` again and again until it says so, at most for `limit`.
pub fn wait_until(
    limit: Duration,
    what: &str,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !done()? {
        anyhow::ensure!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
