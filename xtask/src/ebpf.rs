//! `cargo xtask ebpf`: builds the probes' object, and checks the one that is committed.
//!
//! Users need none of this: the object is in the repository and embedded. To build it, `core` for the BPF target must
//! come from the very compiler that compiles it, and the linker must read that compiler's bitcode. Two ways to have both:
//! - Debian's rustc-web with its sources, unpacked below `target/ebpf-toolchain`; nothing is installed on the host.
//! - rustup's nightly [`NIGHTLY`] with rust-src, where it is installed. A later one may be on an LLVM that
//!   [`LINKER`] does not read.
//!
//! The object is the same to the byte wherever it is built with the versions in `ebpf/object/probes.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::command::{cargo, must, root, step, target};

/// Debian's packages: the compiler, its libraries, the sources of `core`, and the LLVM that it uses.
const PACKAGES: [&str; 5] =
    ["rustc-web", "libstd-rust-web-1.96", "libstd-rust-web-dev", "rust-web-src", "libllvm22"];

/// The version of the first four that the committed object was built with.
const DEBIAN_VERSION: &str = "1.96.0+dfsg1-1~deb12u2";

/// The last bpf-linker that brings no demand for a system LLVM: from 0.11 on it wants one installed.
const LINKER: &str = "0.10.4";

/// A nightly on the same LLVM 22.
const NIGHTLY: &str = "nightly-2026-05-20";

/// apt's own user cannot write below `target`; as root apt would complain of that.
const UNSANDBOXED: [&str; 2] = ["-o", "APT::Sandbox::User=root"];

/// What `cargo xtask ebpf` is asked.
#[derive(clap::Args)]
pub struct Arguments {
    /// Change nothing; fail unless the committed object is what the source builds to.
    #[arg(long)]
    check: bool,
}

/// What is written beside the object.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Record {
    sha256: String,
    versions: Versions,
}

/// What the object depends on, apart from the source and Cargo.lock.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Versions {
    rustc: String,
    bpf_linker: String,
}

/// A compiler with its `core`, and a linker that reads its output.
struct Toolchain {
    rustc: PathBuf,
    /// Where the compiler's own libraries are, if it does not find them by itself.
    libraries: Option<PathBuf>,
    home: PathBuf,
}

/// Builds the object and records it, or checks the one that is there.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let toolchain = step("toolchain", Toolchain::obtain)?;
    if arguments.check { toolchain.check() } else { toolchain.make() }
}

/// The check as a part of `ci`: where no toolchain is to be had, it says so and is no failure.
pub fn check_if_possible() -> anyhow::Result<()> {
    match Toolchain::obtain() {
        Ok(toolchain) => toolchain.check(),
        Err(error) => {
            println!("SKIP: the probes' object was not compared with its source: {error:#}");
            Ok(())
        }
    }
}

fn object() -> PathBuf {
    root().join("ebpf/object/probes.o")
}

fn beside() -> PathBuf {
    root().join("ebpf/object/probes.json")
}

/// Compares the committed object with `built`, byte by byte where the versions allow it, else by what it does.
fn check(built: &Path, versions: &Versions) -> anyhow::Result<()> {
    let record: Record = serde_json::from_slice(&fs::read(beside())?).context("ebpf/object/probes.json")?;
    ensure!(
        sha256(&object())? == record.sha256,
        "ebpf/object/probes.o is not the object that probes.json records"
    );
    if record.versions == *versions {
        ensure!(
            fs::read(built)? == fs::read(object())?,
            "ebpf/object/probes.o is not what the source builds to: run `cargo xtask ebpf` and commit the result"
        );
        eprintln!("ebpf/object/probes.o is what the source builds to");
        return Ok(());
    }
    eprintln!(
        "built with {versions:?} instead of {:?}: not comparable byte by byte, so the fresh object is tested",
        record.versions
    );
    let test = ["test", "--package", "epochcache-tests", "--test", "probes", "--", "--nocapture"];
    must(cargo(test).env("PROBES_OBJECT", built).env("PROBES_REQUIRED", "1"))
}

impl Toolchain {
    fn obtain() -> anyhow::Result<Self> {
        let home = target().join("ebpf-toolchain");
        fs::create_dir_all(&home)?;
        let linker = home.join("bin/bpf-linker");
        if !linker.exists() {
            let install = ["install", "--quiet", "--locked", "bpf-linker", "--version", LINKER, "--root"];
            must(cargo(install).arg(&home)).context("building bpf-linker")?;
        }
        if let Some(rustc) = nightly() {
            return Ok(Self { rustc, libraries: None, home });
        }
        let unpacked = home.join("root/usr");
        if !unpacked.join("bin/rustc").exists() {
            unpack_debian(&home).with_context(|| {
                format!("no compiler: have Debian 12 or later, or `rustup toolchain install {NIGHTLY} --profile minimal --component rust-src`")
            })?;
        }
        let libraries = fs::read_dir(unpacked.join("lib"))?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with("-linux-gnu"));
        Ok(Self { rustc: unpacked.join("bin/rustc"), libraries, home })
    }

    /// Builds the object and records it.
    fn make(&self) -> anyhow::Result<()> {
        let built = step("build", || self.build())?;
        fs::copy(&built, object()).context("ebpf/object/probes.o")?;
        let record = Record { sha256: sha256(&object())?, versions: self.versions()? };
        fs::write(beside(), serde_json::to_string_pretty(&record)? + "\n")?;
        eprintln!("ebpf/object/probes.o: {}", record.sha256);
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        let built = step("build", || self.build())?;
        check(&built, &self.versions()?)
    }

    /// Builds; the object's path.
    fn build(&self) -> anyhow::Result<PathBuf> {
        let target = self.home.join("build");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let bin = std::iter::once(self.home.join("bin")).chain(std::env::split_paths(&path));
        let arguments = ["rustc", "--quiet", "--locked", "--release", "--package", "ebpf", "--lib"];
        let mut command = cargo(arguments);
        command
            .args(["--crate-type", "cdylib", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(&target)
            .env("PATH", std::env::join_paths(bin)?)
            .env("RUSTC", &self.rustc)
            // build-std is a nightly feature; Debian's compiler is a stable one.
            .env("RUSTC_BOOTSTRAP", "1")
            .envs(
                [
                    ("OPT_LEVEL", "3"),
                    ("DEBUG", "false"),
                    ("LTO", "fat"),
                    ("CODEGEN_UNITS", "1"),
                    ("PANIC", "abort"),
                ]
                .map(|(name, value)| (format!("CARGO_PROFILE_RELEASE_{name}"), value)),
            );
        // What the caller set for the host would change the object.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        must(self.with_libraries(&mut command))?;
        Ok(target.join("bpfel-unknown-none/release/libebpf.so"))
    }

    fn versions(&self) -> anyhow::Result<Versions> {
        let mut rustc = Command::new(&self.rustc);
        let rustc = output(self.with_libraries(rustc.arg("--version")))?;
        let bpf_linker = output(Command::new(self.home.join("bin/bpf-linker")).arg("--version"))?;
        Ok(Versions { rustc, bpf_linker })
    }

    fn with_libraries<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        match &self.libraries {
            Some(libraries) => command.env("LD_LIBRARY_PATH", libraries),
            None => command,
        }
    }
}

/// rustup's compiler, if the pinned nightly is there with its sources.
fn nightly() -> Option<PathBuf> {
    let rustc = output(Command::new("rustup").args(["which", "--toolchain", NIGHTLY, "rustc"])).ok()?;
    let rustc = PathBuf::from(rustc);
    let sources = rustc.parent()?.parent()?.join("lib/rustlib/src/rust/library/core");
    sources.exists().then_some(rustc)
}

/// Downloads Debian's packages and unpacks them below `home`.
fn unpack_debian(home: &Path) -> anyhow::Result<()> {
    let packages = home.join("debs");
    fs::create_dir_all(&packages)?;
    // First with the host's lists; if those are missing or old, with lists of our own, which needs no root.
    let own = own_lists(home)?;
    let downloaded = download(&packages, &[], true)
        .or_else(|_| {
            must(
                Command::new("apt-get").args(&own).args(UNSANDBOXED).args(["--quiet", "--quiet", "update"]),
            )?;
            download(&packages, &own, true)
        })
        // The archive keeps only its newest versions: take that, and let the check compare by test.
        .or_else(|_| download(&packages, &own, false));
    downloaded.context("downloading Debian's packages")?;
    for package in fs::read_dir(&packages)? {
        let package = package?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            must(Command::new("dpkg-deb").arg("-x").arg(&package).arg(home.join("root")))?;
        }
    }
    if !home.join("root/usr/bin/rustc").exists() {
        bail!("the packages have no rustc");
    }
    Ok(())
}

fn download(into: &Path, options: &[String], pinned: bool) -> anyhow::Result<()> {
    let names = PACKAGES.map(|name| {
        if pinned && name != "libllvm22" { format!("{name}={DEBIAN_VERSION}") } else { name.to_owned() }
    });
    must(
        Command::new("apt-get")
            .current_dir(into)
            .args(options)
            .args(UNSANDBOXED)
            .args(["--quiet", "--quiet", "download"])
            .args(names),
    )
}

/// Options that keep apt's lists and caches below `home`.
fn own_lists(home: &Path) -> anyhow::Result<Vec<String>> {
    let (state, cache) = (home.join("apt/state"), home.join("apt/cache"));
    fs::create_dir_all(state.join("lists/partial"))?;
    fs::create_dir_all(cache.join("archives/partial"))?;
    let option = |name: &str, path: &Path| ["-o".to_owned(), format!("{name}={}", path.display())];
    let status = Path::new("/var/lib/dpkg/status");
    Ok([option("Dir::State", &state), option("Dir::Cache", &cache), option("Dir::State::status", status)]
        .concat())
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let line = output(Command::new("sha256sum").arg(path))?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

/// What `command` prints.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} does not start"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
