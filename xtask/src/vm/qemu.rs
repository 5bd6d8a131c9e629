//! QEMU: the host's if it is new enough, else Debian's package, unpacked and not installed.
//!
//! Version 10, not the 7.2 of Debian 12: that one crashed 17 of 47 guests with Linux 6.12.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::apt::{Apt, host_release};
use super::{home, unavailable};

const PROGRAM: &str = "qemu-system-x86_64";
const VERSION_MIN: u32 = 10;

/// A QEMU that runs here.
pub struct Qemu {
    program: PathBuf,
    /// Of an unpacked package: its root.
    root: Option<PathBuf>,
    version: String,
}

/// The suite that has a QEMU for a host of this release.
pub fn suite_of(release: &str) -> Option<String> {
    match release {
        "bookworm" => Some("bookworm-backports".to_owned()),
        "trixie" | "forky" | "sid" => Some(release.to_owned()),
        _ => None,
    }
}

impl Qemu {
    /// The host's, the one fetched before, or a fresh one.
    pub fn find_or_fetch(apt: &Apt) -> anyhow::Result<Self> {
        let root = home().join("qemu");
        if let Ok(qemu) = Self::at(PROGRAM.into(), None).or_else(|_| Self::unpacked(&root)) {
            return Ok(qemu);
        }
        let host = host_release();
        let suite = suite_of(&host).ok_or_else(|| {
            unavailable(format!(
                "no {PROGRAM} of version {VERSION_MIN}, and no Debian package of it fits {host:?}"
            ))
        })?;
        let _ = fs::remove_dir_all(&root);
        apt.fetch_with_dependencies("qemu-system-x86", &suite, &root)?;
        Self::unpacked(&root)
            .map_err(|error| unavailable(format!("the QEMU of {suite} does not run here: {error:#}")))
    }

    fn unpacked(root: &Path) -> anyhow::Result<Self> {
        Self::at(root.join("usr/bin").join(PROGRAM), Some(root.to_path_buf()))
    }

    fn at(program: PathBuf, root: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut qemu = Self { program, root, version: String::new() };
        let said = qemu.command().arg("--version").output().context(PROGRAM)?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr).trim());
        let text = String::from_utf8_lossy(&said.stdout);
        qemu.version = text.lines().next().unwrap_or_default().to_owned();
        let major =
            qemu.version.split("version ").nth(1).and_then(|version| version.split('.').next()?.parse().ok());
        ensure!(major >= Some(VERSION_MIN), "{} is too old", qemu.version);
        Ok(qemu)
    }

    /// What it says of itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The program, finding its libraries and firmware.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
            for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        command
    }
}
