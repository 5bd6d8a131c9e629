//! Where our programs are: beside the one that is running, in cargo's target directory.

use std::path::{Path, PathBuf};

/// The program `name`, built with the same profile as the running one.
///
/// # Panics
/// If it was not built: cargo tells a test only where the programs of its own package are.
pub fn program(name: &str) -> PathBuf {
    let directory = directory();
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build --workspace{}` first (`cargo xtask test` does)",
        path.display(),
        if directory.ends_with("release") { " --release" } else { "" }
    );
    path
}

/// `target/debug` or `target/release`: a test's own program lies in its `deps`.
fn directory() -> PathBuf {
    let running = std::env::current_exe().expect("Linux has /proc/self/exe");
    let directory = running.parent().expect("a program lies in a directory");
    match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().map(Path::to_path_buf),
        _ => None,
    }
    .unwrap_or_else(|| directory.to_path_buf())
}
