//! What BPF objects the kernel has, and who holds them.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

/// Ids of programs, maps and links that a process holds.
pub fn held(pid: u32) -> HashSet<(String, u32)> {
    // None of a process that is gone.
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
    let texts = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    let ids = |text: String| {
        let id = |line: &str| {
            let (key, value) = line.split_once(":\t")?;
            let kind = key.strip_suffix("_id").filter(|kind| ["prog", "map", "link"].contains(kind))?;
            Some((kind.to_owned(), value.trim().parse().ok()?))
        };
        text.lines().filter_map(id).collect::<Vec<_>>()
    };
    texts.flat_map(ids).collect()
}

/// Ids of everything that is loaded.
pub fn loaded() -> HashSet<(String, u32)> {
    let programs =
        aya::programs::loaded_programs().filter_map(Result::ok).map(|info| ("prog".to_owned(), info.id()));
    let maps = aya::maps::loaded_maps().filter_map(Result::ok).map(|info| ("map".to_owned(), info.id()));
    let links =
        aya::programs::loaded_links().filter_map(Result::ok).map(|info| ("link".to_owned(), info.id()));
    programs.chain(maps).chain(links).collect()
}

/// Waits until none of `ids` is loaded any more.
pub fn until_gone(ids: &HashSet<(String, u32)>) {
    for _ in 0..1000 {
        // The kernel frees programs and maps a grace period after their last user.
        if loaded().is_disjoint(ids) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("still there after 10 s: {:?}", loaded().intersection(ids).collect::<Vec<_>>());
}
