//! What is measured around a run, and done to the machine between runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Release of the running kernel.
pub fn kernel() -> anyhow::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// The repository's commit, `-dirty` if files differ from it; `unknown` without git.
pub fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Cargo's target directory: this program lies in its `release`.
pub fn target() -> PathBuf {
    let running = std::env::current_exe().expect("Linux has /proc/self/exe");
    running.ancestors().nth(2).map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// What the kernel forgets.
#[derive(Clone, Copy, Debug)]
pub enum Forget {
    /// Clean pages of files.
    Pages,
    /// Those, and dentries and inodes.
    All,
}

/// Makes the kernel forget what it holds of files, of all file systems.
pub fn forget(what: Forget) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "dropping the page cache takes root: run the benchmark with sudo"
    );
    nix::unistd::sync();
    let value = match what {
        Forget::Pages => "1",
        Forget::All => "3",
    };
    fs::write("/proc/sys/vm/drop_caches", value).context("/proc/sys/vm/drop_caches")
}

/// CPU seconds that process `pid` has used, in user and kernel mode.
pub fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    // USER_HZ is 100 on every architecture that Linux runs on today (proc(5), sysconf(_SC_CLK_TCK)).
    Ok(ticks as f64 / 100.0)
}

/// Resident memory of process `pid`, MiB.
pub fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
