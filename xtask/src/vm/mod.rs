//! `vm-test`: the suites on other kernels, with an emulated NVMe device. The whole story: docs/decisions/0014-vm-test.md.
//!
//! Kernels and QEMU come as Debian packages into target/vm (`apt`, `kernels`, `qemu`); our programs are built static
//! (`programs`) and travel with the modules they need in an initramfs (`cpio`, `modules`, `initramfs`); `boot` runs the
//! machine, `verdict` judges what came out of it against `facts`, and `report` shows it and writes docs/kernels.md.
//! The inside of the machine is `tests/src/guest`.
//!
//! Nothing is installed on the host. What cannot be had (QEMU, a kernel) is skipped, loudly; what was run and is not
//! as it must be fails.

mod apt;
mod boot;
mod cpio;
mod disks;
mod facts;
mod initramfs;
mod kernels;
mod mirrors;
mod modules;
mod programs;
#[path = "../../../tests/src/guest/protocol.rs"]
mod protocol;
mod qemu;
mod report;
mod suites;
mod tools;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;

use crate::command::{step, target};
use apt::Apt;
use boot::Machine;
use kernels::{Fetched, Wanted};
use programs::Programs;
use qemu::Qemu;
use report::Row;

/// A whole run takes 20 minutes on two cores that others use too.
const TIMEOUT_MINUTES: u64 = 120;

/// What to run, on what.
#[derive(clap::Args)]
pub struct Arguments {
    /// Kernels, by the beginning of their version.
    #[arg(long, value_delimiter = ',', default_values = ["5.10", "6.1", "6.12", "7.3"])]
    kernel: Vec<String>,
    /// How Debian built the kernel; both for both.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Flavour::Cloud])]
    flavour: Vec<Flavour>,
    /// Only tests and suites whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// A part of the suites, in what is built for the host: what `cargo xtask test` runs.
    #[arg(long)]
    quick: bool,
    /// What runs the guest's instructions. KVM only where it works: nested, it often starts and then dies.
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Minutes after which a guest is taken to hang.
    #[arg(long, default_value_t = TIMEOUT_MINUTES)]
    timeout: u64,
    /// Keep the logs of kernels that passed, too (target/vm/logs).
    #[arg(long)]
    keep_logs: bool,
    /// Write docs/kernels.md, from the last whole run of each of these kernels, this one included.
    #[arg(long, conflicts_with_all = ["filter", "quick"])]
    write_docs: bool,
    /// A Debian mirror, and its archive of security updates; else those of this machine's apt sources.
    #[arg(long, num_args = 2, value_names = ["URL", "SECURITY_URL"])]
    mirror: Option<Vec<String>>,
}

/// How Debian configured a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Flavour {
    /// For virtual machines: fewer drivers, NVMe and ext4 built in.
    Cloud,
    /// For real machines.
    Generic,
}

/// QEMU's accelerator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Accel {
    /// Emulation: works everywhere, slow.
    Tcg,
    /// The processor's own virtualization.
    Kvm,
}

/// Why nothing can be run here, through no fault of ours.
#[derive(Debug)]
struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// An error that means "not to be had here".
fn unavailable(why: impl Into<String>) -> anyhow::Error {
    Unavailable(why.into()).into()
}

/// Everything of ours in cargo's target directory.
fn home() -> PathBuf {
    target().join("vm")
}

impl Arguments {
    /// What `cargo xtask test` runs: a part on two kernels, or with `all` everything on all.
    pub fn of_test(all: bool) -> Self {
        let (kernel, flavour): (&[_], _) = if all {
            (&["5.10", "6.1", "6.12", "7.3"], vec![Flavour::Cloud, Flavour::Generic])
        } else {
            (&["6.1", "6.12"], vec![Flavour::Cloud])
        };
        Self {
            kernel: kernel.iter().map(|version: &&str| (*version).to_owned()).collect(),
            flavour,
            filter: None,
            quick: !all,
            accel: Accel::Tcg,
            timeout: TIMEOUT_MINUTES,
            keep_logs: false,
            write_docs: false,
            mirror: None,
        }
    }
}

/// Fetches, builds, boots, judges, reports.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    for reason in run_and_tell_skipped(arguments)? {
        println!("SKIP: {reason}");
    }
    Ok(())
}

/// The same; what was skipped, and why.
pub fn run_and_tell_skipped(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let (qemu, fetched) = match fetch(arguments) {
        Ok(all) => all,
        Err(error) if error.is::<Unavailable>() => {
            return Ok(vec![format!("other kernels were not tested: {error:#}")]);
        }
        Err(error) => return Err(error),
    };
    let mut skipped = Vec::new();
    let mut rows = Vec::new();
    let mut programs = None;
    for (wanted, kernel) in fetched {
        match kernel {
            Ok(kernel) => {
                let programs = match &mut programs {
                    Some(built) => built,
                    none => none.insert(build(arguments.quick)?),
                };
                rows.push(test(arguments, &qemu, programs, &wanted, &kernel)?);
            }
            Err(error) if error.is::<Unavailable>() => {
                skipped.push(format!("{wanted} was not tested: {error:#}"));
                rows.push(Row::skipped(&wanted, format!("{error:#}")));
            }
            Err(error) => return Err(error),
        }
    }
    report::show(&rows);
    if arguments.write_docs {
        report::write_docs(&wanted(arguments))?;
    }
    match rows.iter().filter(|row| row.failed()).count() {
        0 => Ok(skipped),
        failed => {
            bail!("{failed} of {} kernels failed; their logs are in {}", rows.len(), boot::logs().display())
        }
    }
}

fn build(quick: bool) -> anyhow::Result<Programs> {
    if quick { step("programs", Programs::of_the_host) } else { step("static programs", Programs::build) }
}

/// Each kernel in each flavour.
fn wanted(arguments: &Arguments) -> Vec<Wanted> {
    let versions = arguments.kernel.iter();
    let all =
        versions.flat_map(|version| arguments.flavour.iter().map(|&flavour| (version.clone(), flavour)));
    all.map(|(version, flavour)| Wanted { version, flavour }).collect()
}

type Kernels = Vec<(Wanted, anyhow::Result<Fetched>)>;

fn fetch(arguments: &Arguments) -> anyhow::Result<(Qemu, Kernels)> {
    if !cfg!(target_arch = "x86_64") {
        return Err(unavailable("guests are x86-64 only"));
    }
    disks::check_tools()?;
    let mirrors = match arguments.mirror.as_deref() {
        Some([main, security]) => mirrors::Mirrors { main: main.clone(), security: security.clone() },
        _ => mirrors::of_this_machine()?,
    };
    let apt = step("package lists", || Apt::new(&home().join("apt"), &mirrors))?;
    let qemu = step("QEMU", || Qemu::find_or_fetch(&apt))?;
    eprintln!("   {}", qemu.version());
    let names = apt.names("linux-")?;
    let mut kernels = Vec::new();
    for wanted in wanted(arguments) {
        let fetched = step(&format!("kernel {wanted}"), || Ok(kernels::fetch(&apt, &names, &wanted)))?;
        kernels.push((wanted, fetched));
    }
    Ok((qemu, kernels))
}

/// One kernel, from its initramfs to its verdict.
fn test(
    arguments: &Arguments,
    qemu: &Qemu,
    programs: &Programs,
    wanted: &Wanted,
    kernel: &Fetched,
) -> anyhow::Result<Row> {
    eprintln!("== {wanted}: {}", kernel.release);
    let modules = modules::closure(kernel, modules::NEEDED)?;
    let plan = suites::plan(programs, &modules, arguments.filter.clone(), arguments.quick);
    let machine = Machine {
        qemu,
        accel: arguments.accel,
        kernel: &kernel.image,
        initramfs: &initramfs::write(kernel, programs, &modules, &plan)?,
        disks: &disks::make(&kernel.release)?,
        limit: Duration::from_secs(arguments.timeout * 60),
        log: &boot::log_of(&kernel.release)?,
    };
    let ended = machine.run(&report::progress)?;
    let verdict = verdict::judge(&ended, &facts::expected(&wanted.version));
    let row = Row::new(wanted, (&kernel.release, &programs.commit), ended, verdict);
    if arguments.filter.is_none() && !arguments.quick {
        report::keep(&row)?;
    }
    disks::remove(machine.disks);
    if !row.failed() && !arguments.keep_logs {
        let _ = std::fs::remove_file(machine.log);
    }
    Ok(row)
}
