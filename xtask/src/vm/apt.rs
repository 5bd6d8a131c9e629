//! apt with a root of its own: the host's lists, status and locks are not touched, and nothing is installed.
//!
//! Packages are downloaded, checked by apt against Debian's keys, and unpacked with `dpkg-deb -x`. Their scripts do not run.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::mirrors::Mirrors;
use super::unavailable;
use crate::command::must;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists that are younger are good enough.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Suites of the main archive and of the security archive that kernels come from.
const KERNEL_SUITES: ([&str; 2], [&str; 2]) =
    (["bookworm-backports", "trixie-backports"], ["bullseye-security", "bookworm-security"]);

/// An apt of our own.
pub struct Apt {
    root: PathBuf,
}

impl Apt {
    /// Makes its directories and gets its lists.
    pub fn new(root: &Path, mirrors: &Mirrors) -> anyhow::Result<Self> {
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            if Command::new(tool).arg("--version").output().is_err() {
                return Err(unavailable(format!(
                    "{tool} is missing: QEMU and kernels are fetched as Debian packages"
                )));
            }
        }
        if !Path::new(KEYRING).exists() {
            return Err(unavailable(format!(
                "{KEYRING} is missing (apt-get install debian-archive-keyring)"
            )));
        }
        for directory in
            ["etc/preferences.d", "etc/sources.list.d", "state/lists/partial", "cache/archives/partial"]
        {
            fs::create_dir_all(root.join(directory))?;
        }
        // What the host has need not be fetched with QEMU; a copy, because apt locks the original's directory.
        fs::copy("/var/lib/dpkg/status", root.join("state/status")).context("/var/lib/dpkg/status")?;
        let apt = Self { root: root.to_path_buf() };
        apt.update(&sources(mirrors, &host_release()))?;
        Ok(apt)
    }

    fn update(&self, sources: &str) -> anyhow::Result<()> {
        let (list, stamp) = (self.root.join("etc/sources.list"), self.root.join("updated"));
        let same = fs::read_to_string(&list).is_ok_and(|old| old == sources);
        let age =
            stamp.metadata().and_then(|stamp| stamp.modified()).map(|at| at.elapsed().unwrap_or_default());
        if same && age.as_ref().is_ok_and(|age| *age < LISTS_AGE_MAX) {
            return Ok(());
        }
        fs::write(&list, sources)?;
        match must(self.command("apt-get").args(["-qq", "--error-on=any", "update"])) {
            Ok(()) => Ok(fs::write(&stamp, "")?),
            Err(error) if same && age.is_ok() => {
                eprintln!("   the old lists are used: {error:#}");
                Ok(())
            }
            Err(error) => Err(unavailable(format!("no package lists: {error:#}"))),
        }
    }

    /// A command of apt on our root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, directory) in [
            ("Dir::Etc", "etc"),
            ("Dir::State", "state"),
            ("Dir::State::status", "state/status"),
            ("Dir::Cache", "cache"),
        ] {
            let mut option = OsString::from(format!("{name}="));
            option.push(self.root.join(directory));
            command.arg("-o").arg(option);
        }
        // apt would fetch as a user who cannot reach our directories; old suites are no longer signed anew.
        for option in
            ["APT::Sandbox::User=root", "Acquire::Check-Valid-Until=false", "Acquire::Languages=none"]
        {
            command.args(["-o", option]);
        }
        command
    }

    /// All package names that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> anyhow::Result<Vec<String>> {
        let said = self.command("apt-cache").args(["pkgnames", prefix]).output().context("apt-cache")?;
        if !said.status.success() {
            bail!("apt-cache pkgnames: {}", String::from_utf8_lossy(&said.stderr));
        }
        Ok(String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect())
    }

    /// Downloads these packages alone and unpacks them into `target`.
    pub fn fetch(&self, packages: &[String], target: &Path) -> anyhow::Result<()> {
        let debs = self.fresh("debs")?;
        let mut download = self.command("apt-get");
        download.arg("-qq").arg("download").args(packages).current_dir(&debs);
        must(&mut download).map_err(|error| unavailable(format!("{}: {error:#}", packages.join(", "))))?;
        unpack_all(&debs, target)?;
        Ok(fs::remove_dir_all(&debs)?)
    }

    /// Downloads `package` of `suite` with what it needs and this machine lacks, and unpacks all into `target`.
    pub fn fetch_with_dependencies(&self, package: &str, suite: &str, target: &Path) -> anyhow::Result<()> {
        let archives = self.fresh("cache/archives")?;
        fs::create_dir_all(archives.join("partial"))?;
        let mut install = self.command("apt-get");
        install.args([
            "-qq",
            "-y",
            "--no-install-recommends",
            "--download-only",
            "-t",
            suite,
            "install",
            package,
        ]);
        install.stdout(std::process::Stdio::null());
        must(&mut install).map_err(|error| unavailable(format!("{package} of {suite}: {error:#}")))?;
        unpack_all(&archives, target)
    }

    /// An empty directory of that name.
    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let directory = self.root.join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }
}

fn unpack_all(debs: &Path, target: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(target)?;
    for deb in fs::read_dir(debs)? {
        let deb = deb?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            must(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(target))?;
        }
    }
    Ok(())
}

/// The code name of the host's release, whose libraries QEMU must fit; of Debian or not.
pub fn host_release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

/// sources.list: the kernels' suites, and the host's own release for what QEMU needs.
fn sources(mirrors: &Mirrors, host: &str) -> String {
    let (main, security) = KERNEL_SUITES;
    let mut suites: Vec<(&str, String)> = Vec::new();
    suites.extend(main.map(|suite| (mirrors.main.as_str(), suite.to_owned())));
    suites.extend(security.map(|suite| (mirrors.security.as_str(), suite.to_owned())));
    if super::qemu::suite_of(host).is_some() {
        suites.push((&mirrors.main, host.to_owned()));
        suites.push((&mirrors.security, format!("{host}-security")));
    }
    suites.sort();
    suites.dedup();
    suites
        .iter()
        .map(|(uri, suite)| format!("deb [arch=amd64 signed-by={KEYRING}] {uri} {suite} main\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_the_kernels_suites_and_the_hosts_own_each_once() {
        let mirrors = Mirrors { main: "http://m.test".into(), security: "http://s.test".into() };
        let text = sources(&mirrors, "bookworm");
        let suites: Vec<_> = text.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        let all =
            ["bookworm", "bookworm-backports", "trixie-backports", "bookworm-security", "bullseye-security"];
        assert_eq!(suites, all);
        assert!(text.contains("http://s.test bullseye-security main\n"));
        assert!(!sources(&mirrors, "jammy").contains("jammy"), "not Debian's");
    }
}
