//! `test --paddle`: PaddlePaddle's own DataLoader over a mount, beside the same over a local copy.
//!
//! PaddlePaddle (CPU) comes from PyPI into a virtual environment under target/, kept for the next time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use crate::command::{built, must, root, step, target};

/// Installs what is missing, and runs `tests/paddle/epochs.py`.
pub fn run() -> anyhow::Result<()> {
    let python = step("paddle: environment", environment)?;
    step("paddle: two epochs", || {
        let mut bed = Command::new(built("paddle-bed", false));
        must(bed.arg(&python).arg(root().join("tests/paddle/epochs.py")))
    })
}

/// The interpreter of an environment that can import paddle.
fn environment() -> anyhow::Result<PathBuf> {
    let home = target().join("paddle");
    let python = home.join("bin/python");
    if !imports(&python) {
        must(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        must(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "paddlepaddle",
            "pillow",
            "setuptools",
        ]))?;
        ensure!(imports(&python), "{} cannot import paddle", python.display());
    }
    Ok(python)
}

fn imports(python: &Path) -> bool {
    python.is_file()
        && Command::new(python)
            .args(["-c", "import paddle, PIL"])
            .output()
            .is_ok_and(|output| output.status.success())
}
