//! Debian's kernels: which package is which, fetched once.
//!
//! A mirror holds several builds of a kernel and drops old ones, so a kernel is named by the beginning of its version and
//! the newest build is taken.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::apt::Apt;
use super::{Flavour, home, unavailable};

/// A kernel to be tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `6.12`.
    pub version: String,
    /// How it was configured.
    pub flavour: Flavour,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version)?;
        f.write_str(match self.flavour {
            Flavour::Cloud => " (cloud)",
            Flavour::Generic => " (generic)",
        })
    }
}

/// A kernel that lies in target/vm/kernels.
#[derive(Debug)]
pub struct Fetched {
    /// `uname -r`.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// `.../lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// The packages of a kernel.
#[derive(Debug, PartialEq, Eq)]
struct Build {
    release: String,
    packages: Vec<String>,
}

/// Fetches the newest build of `wanted` among the packages `names`, unless it is there.
pub fn fetch(apt: &Apt, names: &[String], wanted: &Wanted) -> anyhow::Result<Fetched> {
    let build =
        newest(names, wanted).ok_or_else(|| unavailable("no package of it on this mirror (any more)"))?;
    let directory = home().join("kernels").join(&build.release);
    if !directory.is_dir() {
        // Renamed when complete, so that an interrupted fetch leaves no half of a kernel.
        let partial = directory.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        apt.fetch(&build.packages, &partial)?;
        fs::rename(&partial, &directory)?;
    }
    find(&directory, &build.release)
}

fn find(directory: &Path, release: &str) -> anyhow::Result<Fetched> {
    let first = |candidates: [PathBuf; 2], what: &str| {
        let found = candidates.into_iter().find(|path| path.exists());
        found.with_context(|| format!("{} has no {what}", directory.display()))
    };
    let modules =
        [directory.join("usr/lib/modules").join(release), directory.join("lib/modules").join(release)];
    let modules = first(modules, "modules")?;
    // From 7.x on Debian's image lies beside its modules.
    let image = [modules.join("vmlinuz"), directory.join(format!("boot/vmlinuz-{release}"))];
    Ok(Fetched { release: release.to_owned(), image: first(image, "image")?, modules })
}

fn newest(names: &[String], wanted: &Wanted) -> Option<Build> {
    let builds = names.iter().filter_map(|name| Some((release(name, wanted)?, name)));
    // Of the signed and the unsigned package of one build, the shorter name: what machines boot.
    let (release, image) =
        builds.max_by_key(|(release, name)| (numbers(release), std::cmp::Reverse(name.len())))?;
    let parts = ["binary", "modules", "base"].map(|part| format!("linux-{part}-{release}"));
    let in_parts = parts.iter().all(|part| names.contains(part));
    Some(Build { packages: if in_parts { parts.to_vec() } else { vec![image.clone()] }, release })
}

/// The release that the package `name` holds, if it is a build of `wanted`.
fn release(name: &str, wanted: &Wanted) -> Option<String> {
    let release = name.strip_prefix("linux-image-")?;
    let release = release.strip_suffix("-unsigned").unwrap_or(release);
    let build = match wanted.flavour {
        Flavour::Cloud => release.strip_suffix("-cloud-amd64")?,
        Flavour::Generic => release.strip_suffix("-amd64")?,
    };
    let rest = build.strip_prefix(&wanted.version)?.strip_prefix('.')?;
    let other = rest.split('-').any(|part| part.starts_with(char::is_alphabetic));
    (!other).then(|| release.to_owned())
}

/// The numbers in a version: enough to order the builds of one kernel.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 21] = [
        "linux-image-5.10.0-46-cloud-amd64",
        "linux-image-5.10.0-46-cloud-amd64-unsigned",
        "linux-image-5.10.0-9-cloud-amd64",
        "linux-image-6.1-cloud-amd64",
        "linux-image-6.1.0-0.deb11.52-cloud-amd64",
        "linux-image-6.1.0-56-amd64-unsigned",
        "linux-image-6.1.0-56-cloud-amd64-unsigned",
        "linux-image-6.1.0-56-rt-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-6.12.95+deb12-cloud-amd64",
        "linux-image-6.12-amd64-signed-template",
        "linux-image-6.12.117+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64-unsigned",
        "linux-image-7.3.4+deb13-amd64",
        "linux-base-7.3.4+deb13-amd64",
        "linux-binary-7.3.4+deb13-amd64",
        "linux-modules-7.3.4+deb13-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-base-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-modules-7.3.4+deb13-cloud-amd64",
    ];

    fn packages(version: &str, flavour: Flavour) -> Vec<String> {
        let wanted = Wanted { version: version.to_owned(), flavour };
        newest(&NAMES.map(str::to_owned), &wanted).map(|build| build.packages).unwrap_or_default()
    }

    #[test]
    fn the_newest_build_is_taken_signed_if_it_is() {
        assert_eq!(packages("5.10", Flavour::Cloud), ["linux-image-5.10.0-46-cloud-amd64"]);
        assert_eq!(packages("6.12", Flavour::Cloud), ["linux-image-6.12.117+deb12-cloud-amd64"]);
        assert_eq!(packages("6.1", Flavour::Cloud), ["linux-image-6.1.0-56-cloud-amd64-unsigned"]);
    }

    #[test]
    fn other_flavours_and_versions_are_not_taken() {
        assert_eq!(packages("6.1", Flavour::Generic), ["linux-image-6.1.0-56-amd64-unsigned"]);
        assert!(packages("5.15", Flavour::Cloud).is_empty());
        assert_eq!(packages("6.12", Flavour::Generic), ["linux-image-6.12.117+deb12-amd64"]);
        assert!(packages("5.10", Flavour::Generic).is_empty(), "only the cloud's is there");
    }

    #[test]
    fn a_kernel_in_parts_is_fetched_in_parts() {
        let parts = ["binary", "modules", "base"].map(|part| format!("linux-{part}-7.3.4+deb13-cloud-amd64"));
        assert_eq!(packages("7.3", Flavour::Cloud), parts);
        let parts = ["binary", "modules", "base"].map(|part| format!("linux-{part}-7.3.4+deb13-amd64"));
        assert_eq!(packages("7.3", Flavour::Generic), parts);
    }
}
