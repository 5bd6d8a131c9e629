//! The kernel modules that a guest needs, with what those need, in the order of loading.
//!
//! Packages come without `modules.dep`: their scripts make it, and do not run here. A module's file says itself what
//! it depends on, in its section `.modinfo`: what has symbols that it uses, and what it asks the kernel for while it is
//! loaded or used. The kernel would call modprobe for the latter, which a guest has not.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use super::kernels::Fetched;

/// A module of a guest: its name, its parameters.
pub type Needed = (&'static str, &'static str);

/// What the suites need. Kernels build some of these in.
pub const NEEDED: &[Needed] = &[
    ("virtio_pci", ""),
    ("virtio_rng", ""),
    // Else the disk is the head of a multipath device, and its own name is hidden.
    ("nvme_core", "multipath=N"),
    ("nvme", ""),
    ("ext4", ""),
    ("xfs", ""),
    ("loop", ""),
    ("overlay", ""),
    // Built in from 6.12 on, where the command line tells it to take io_uring.
    ("fuse", ""),
];

/// A module, ready to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Loadable {
    /// `xfs`.
    pub name: String,
    /// The uncompressed file.
    pub bytes: Vec<u8>,
    /// For loading.
    pub parameters: String,
}

/// `needed` and what it depends on; what is built in is left out, what is nowhere is an error.
pub fn closure(kernel: &Fetched, needed: &[Needed]) -> anyhow::Result<Vec<Loadable>> {
    let builtin = fs::read_to_string(kernel.modules.join("modules.builtin")).context("modules.builtin")?;
    let builtin: Vec<String> = builtin.lines().map(|line| name_of(Path::new(line))).collect();
    let mut files = HashMap::new();
    index(&kernel.modules.join("kernel"), &mut files)?;
    let mut search = Search { builtin, files, done: Vec::new() };
    for (name, parameters) in needed {
        search.add(name, parameters)?;
    }
    Ok(search.done)
}

struct Search {
    builtin: Vec<String>,
    files: HashMap<String, PathBuf>,
    done: Vec<Loadable>,
}

impl Search {
    fn add(&mut self, name: &str, parameters: &str) -> anyhow::Result<()> {
        if self.builtin.iter().any(|builtin| builtin == name)
            || self.done.iter().any(|done| done.name == name)
        {
            return Ok(());
        }
        let path = self.files.get(name).with_context(|| format!("this kernel has no module {name}"))?;
        let bytes = read(path)?;
        for dependency in depends(&bytes)? {
            self.add(&dependency, "")?;
        }
        for dependency in soft_depends(&bytes) {
            self.add_soft(&dependency)?;
        }
        self.done.push(Loadable { name: name.to_owned(), bytes, parameters: parameters.to_owned() });
        Ok(())
    }

    /// A soft dependency names a module, or what several have: the algorithm `crc32c`, whose portable implementation is always
    /// called `crc32c_generic`. One that is nowhere is not needed, as for modprobe.
    fn add_soft(&mut self, name: &str) -> anyhow::Result<()> {
        let algorithm = name.strip_prefix("crypto_").unwrap_or(name);
        let candidates = [name.to_owned(), algorithm.to_owned(), format!("{algorithm}_generic")];
        let found =
            candidates.iter().find(|name| self.builtin.contains(name) || self.files.contains_key(*name));
        found.map_or(Ok(()), |name| self.add(name, ""))
    }
}

/// Module files below `directory` by name.
fn index(directory: &Path, files: &mut HashMap<String, PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            index(&entry.path(), files)?;
        } else {
            files.insert(name_of(&entry.path()), entry.path());
        }
    }
    Ok(())
}

/// `nvme_core` of `.../nvme-core.ko.xz`: the kernel itself writes `_` for `-`.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| path.display().to_string());
    }
    let said = Command::new("xz").arg("-dc").arg(path).stderr(Stdio::inherit()).output();
    let said = said.context("xz is missing (apt-get install xz-utils)")?;
    ensure!(said.status.success(), "xz cannot read {}", path.display());
    Ok(said.stdout)
}

/// `depends=a,b` of `.modinfo`.
fn depends(module: &[u8]) -> anyhow::Result<Vec<String>> {
    let Some(names) = fields(module, b"depends=").next() else {
        bail!("a module without `depends=` in .modinfo")
    };
    Ok(names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

/// `a` and `b` of `softdep=pre: a b post: c`: what the module would have loaded before it.
fn soft_depends(module: &[u8]) -> Vec<String> {
    let before = fields(module, b"softdep=").flat_map(|text| {
        let words = text.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
        let names = words.take_while(|word| !word.ends_with(':'));
        names.map(|name| name.replace('-', "_")).collect::<Vec<_>>()
    });
    before.collect()
}

/// The values of a field of `.modinfo`: strings `name=value`, each between zeros.
fn fields(module: &[u8], name: &[u8]) -> impl Iterator<Item = String> {
    let windows = module.windows(name.len() + 1).enumerate();
    let starts = windows.filter(move |(_, window)| window[0] == 0 && &window[1..] == name);
    starts.filter_map(move |(at, _)| {
        let value = &module[at + 1 + name.len()..];
        let end = value.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("ELF..undepends=no\0license=GPL\0depends={depends}\0name=it\0").into_bytes()
    }

    #[test]
    fn what_a_module_depends_on_is_loaded_before_it_and_what_is_built_in_is_not() {
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("kernel/fs");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(root.path().join("modules.builtin"), "kernel/fs/fuse.ko\nkernel/lib/crc32c.ko\n").unwrap();
        for (name, depends) in [("xfs", "lib-a,crc32c"), ("lib-a", "lib_b"), ("lib_b", "")] {
            fs::write(kernel.join(format!("{name}.ko")), module(depends)).unwrap();
        }
        let modules = root.path().to_path_buf();
        let kernel = Fetched { release: "1".into(), image: PathBuf::new(), modules };
        let closure = closure(&kernel, &[("fuse", ""), ("xfs", "a=1")]).unwrap();
        let names: Vec<_> = closure.iter().map(|m| (m.name.as_str(), m.parameters.as_str())).collect();
        assert_eq!(names, [("lib_b", ""), ("lib_a", ""), ("xfs", "a=1")]);
    }

    #[test]
    fn what_a_module_asks_the_kernel_for_is_loaded_before_it_where_it_is_a_module() {
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("kernel");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(root.path().join("modules.builtin"), "kernel/crypto/sha256_generic.ko\n").unwrap();
        let soft = "softdep=pre: crypto-crc32c sha256 zstd post: late\0softdep=pre: lib-b\0";
        let files = [
            ("ext4", [&module(""), soft.as_bytes()].concat()),
            ("crc32c_generic", module("")),
            ("lib-b", module("")),
            ("late", module("")),
        ];
        for (name, bytes) in files {
            fs::write(kernel.join(format!("{name}.ko")), bytes).unwrap();
        }
        let modules = root.path().to_path_buf();
        let kernel = Fetched { release: "1".into(), image: PathBuf::new(), modules };
        let names: Vec<_> =
            closure(&kernel, &[("ext4", "")]).unwrap().into_iter().map(|module| module.name).collect();
        assert_eq!(names, ["crc32c_generic", "lib_b", "ext4"]);
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("kernel")).unwrap();
        fs::write(root.path().join("modules.builtin"), "").unwrap();
        let kernel =
            Fetched { release: "1".into(), image: PathBuf::new(), modules: root.path().to_path_buf() };
        let error = closure(&kernel, &[("nvme", "")]).unwrap_err();
        assert!(error.to_string().contains("nvme"), "{error}");
    }

    #[test]
    fn names_are_the_kernels_own() {
        assert_eq!(name_of(Path::new("/a/nvme-core.ko.xz")), "nvme_core");
        assert_eq!(name_of(Path::new("kernel/crypto/crc32c_generic.ko")), "crc32c_generic");
    }
}
