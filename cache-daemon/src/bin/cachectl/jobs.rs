//! Jobs: readers that share a cgroup, as containers and batch systems make them, by the group's name.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Groups deeper than this are not looked for.
const LEVELS_MAX: u32 = 12;

/// Names of cgroups (v2) by their ids, which are the inode numbers of their directories.
#[derive(Default)]
pub struct Jobs(HashMap<u64, String>);

impl Jobs {
    /// Looks for groups that are not known yet.
    pub fn learn(&mut self, ids: impl Iterator<Item = u64>) {
        if ids.filter(|id| *id != 0).any(|id| !self.0.contains_key(&id)) {
            self.walk(Path::new(CGROUPS), LEVELS_MAX);
        }
    }

    /// The group's path below the root, its last two parts if it is long; its number if it is gone.
    pub fn name(&self, id: u64) -> String {
        match self.0.get(&id) {
            Some(path) => short(path),
            None if id == 0 => "-".to_owned(),
            None => id.to_string(),
        }
    }

    fn walk(&mut self, dir: &Path, levels: u32) {
        let Ok(found) = fs::metadata(dir) else { return };
        let name = dir.strip_prefix(CGROUPS).unwrap_or(dir).to_string_lossy().into_owned();
        self.0.insert(found.ino(), if name.is_empty() { "/".to_owned() } else { name });
        let below = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        let groups = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        if levels > 0 {
            groups.for_each(|group| self.walk(&group.path(), levels - 1));
        }
    }
}

/// `kubepods.slice/kubepods-pod1.slice/cri-0123456789abcdef.scope` as its end, and of long names the first letters.
fn short(path: &str) -> String {
    const LETTERS_MAX: usize = 24;
    if path == "/" {
        return path.to_owned();
    }
    let parts: PathBuf = path.rsplitn(3, '/').take(2).collect::<Vec<_>>().into_iter().rev().collect();
    let parts = parts.to_string_lossy();
    match parts.char_indices().nth(LETTERS_MAX) {
        Some((end, _)) => format!("{}~", &parts[..end]),
        None => parts.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_called_by_the_end_of_their_path() {
        assert_eq!(
            short("system.slice/docker-1.scope"),
            "system.slice/docker-1.scope"[..24].to_owned() + "~"
        );
        assert_eq!(short("a/b/c"), "b/c");
        assert_eq!(short("/"), "/");
        let mut jobs = Jobs::default();
        jobs.0.insert(7, "batch/job-12".to_owned());
        assert_eq!([jobs.name(7), jobs.name(8), jobs.name(0)], ["batch/job-12", "8", "-"]);
    }
}
