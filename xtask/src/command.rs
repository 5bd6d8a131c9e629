//! Running other programs: cargo, and what it built.

use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a member of the workspace")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    // xtask itself runs from there: `target/debug/xtask`.
    let running = env::current_exe().ok();
    let directory = running.as_deref().and_then(Path::parent).and_then(Path::parent);
    directory.map_or_else(|| root().join("target"), Path::to_path_buf)
}

/// A program that the workspace builds.
pub fn built(name: &str, release: bool) -> PathBuf {
    target().join(if release { "release" } else { "debug" }).join(name)
}

/// Cargo, as it was called for us, in the root of the workspace.
pub fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// Runs `command` to its end; fails if it does.
pub fn must(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{name} does not start"))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!("{name} {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Becomes `command`; returns only if that fails.
pub fn become_program(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(command.get_program().to_string_lossy().into_owned())
}

/// Runs one step of several, with a line before and its time after.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("== {name}");
    let began = Instant::now();
    let done = work().with_context(|| name.to_owned())?;
    eprintln!("== {name}: {:.0} s", began.elapsed().as_secs_f64());
    Ok(done)
}
