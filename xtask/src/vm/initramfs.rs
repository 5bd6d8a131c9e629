//! The guest's whole userland: an init, our programs, modules, a plan.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::cpio::{Archive, PROGRAM};
use super::home;
use super::kernels::Fetched;
use super::modules::Loadable;
use super::programs::{Built, Programs};
use super::protocol::{Module, PLAN, PROGRAMS, Plan};
use super::tools;

/// Writes the archive for `kernel`; its path.
pub fn write(
    kernel: &Fetched,
    programs: &Programs,
    modules: &[Loadable],
    plan: &Plan,
) -> anyhow::Result<PathBuf> {
    let directory = home().join("initramfs");
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{}.cpio", kernel.release));
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    let mut archive = Archive::new(BufWriter::new(file));
    // PID 1's standard streams; the rest of /dev is the kernel's to fill.
    archive.device(Path::new("/dev/console"), 5, 1)?;
    archive.symlink(Path::new("/init"), &Path::new(PROGRAMS).join("guest-init"))?;
    archive.file(Path::new(PLAN), PROGRAM, &serde_json::to_vec(plan)?)?;
    for (module, bytes) in modules_of(modules).iter().zip(modules) {
        archive.file(&module.path, PROGRAM, &bytes.bytes)?;
    }
    for program in &programs.programs {
        add(&mut archive, Path::new(PROGRAMS), program)?;
    }
    for test in
        programs.tests.iter().filter(|test| plan.suites.iter().any(|suite| suite.executable == test.name))
    {
        add(&mut archive, &Path::new(PROGRAMS).join("deps"), test)?;
    }
    let ours = programs.programs.iter().chain(&programs.tests).map(|built| built.path.as_path());
    for tool in tools::collect(ours)? {
        archive.file(&tool.path, tool.mode, &tool.bytes)?;
    }
    archive.finish()?;
    Ok(path)
}

fn add(archive: &mut Archive<BufWriter<File>>, directory: &Path, built: &Built) -> anyhow::Result<()> {
    let bytes = fs::read(&built.path).with_context(|| built.path.display().to_string())?;
    Ok(archive.file(&directory.join(&built.name), PROGRAM, &bytes)?)
}

/// Modules as the guest's plan has them.
pub fn modules_of(modules: &[Loadable]) -> Vec<Module> {
    let in_guest = modules.iter().map(|module| Module {
        path: format!("/modules/{}.ko", module.name).into(),
        parameters: module.parameters.clone(),
    });
    in_guest.collect()
}
