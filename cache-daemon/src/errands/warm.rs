//! `cachectl warm`: stores what is below a path before anybody reads it.

use std::time::Duration;

use fuse_frontend::source::{Ino, NodeKind, Walk};

use crate::access::FileNo;
use crate::cache::Cache;
use crate::control::{Refusal, WarmProgress};
use crate::policy::readahead::spread;

const REPORT_EVERY: Duration = Duration::from_millis(500);

/// The files at or below `path`, from the mountpoint; all of them without one. Neighbours far apart, as the origin likes it.
pub fn files_below(cache: &Cache, path: Option<&str>) -> Result<Vec<FileNo>, Refusal> {
    let catalog = cache.catalog();
    let relative = path.unwrap_or_default().trim_matches('/');
    let top = catalog
        .resolve(relative.as_bytes())
        .ok_or_else(|| Refusal(format!("{relative}: the data set has no such file or directory")))?;
    let number = |ino: Ino| FileNo(ino.0 as u32);
    if catalog.attributes(top).is_some_and(|attributes| attributes.kind == NodeKind::File) {
        return Ok(vec![number(top)]);
    }
    let (mut files, mut waiting) = (Vec::new(), vec![top]);
    while let Some(dir) = waiting.pop() {
        // A directory that is gone by now has nothing below it.
        let _ = catalog.entries(dir, 0, &mut |entry| {
            match entry.attributes.kind {
                NodeKind::Directory => waiting.push(entry.attributes.ino),
                NodeKind::File => files.push(number(entry.attributes.ino)),
            }
            Walk::Continue
        });
    }
    Ok(spread(files.len() as u32).map(|at| files[at as usize]).collect())
}

/// Hands `report` what `progress` says, twice a second and at the end. Stops when it says that nobody listens.
pub fn follow(mut progress: impl FnMut() -> WarmProgress, report: &mut dyn FnMut(&WarmProgress) -> bool) {
    loop {
        let now = progress();
        if !report(&now) || now.done {
            return;
        }
        std::thread::sleep(REPORT_EVERY);
    }
}
