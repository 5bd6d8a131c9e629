//! Checking a base that came from a file, so that nothing read from it later can panic or run in circles.
//!
//! The checksums say that the bytes are those that were written; this says that they are a tree. It walks
//! it once from the root: what is reached exactly once from there, through runs that lie in the column, with
//! each child pointing back at its directory, has no cycle and no strays.

use fuse_frontend::source::NodeKind;

use super::base::{Base, NodeRecord, ROOT, Totals};
use super::key::{SIZE_BYTES_END, check_name};

/// What was found in a base that is sound.
pub(super) struct Checked {
    pub totals: Totals,
    /// Numbers not in use.
    pub free: Vec<u32>,
}

/// Checks all of `base`.
pub(super) fn check(base: &Base) -> Result<Checked, &'static str> {
    let nodes = base.nodes();
    if u32::try_from(nodes.len()).is_err() {
        return Err("more nodes than there are numbers");
    }
    let root = base.record(ROOT).ok_or("no root")?;
    if root.kind() != Some(NodeKind::Directory) || root.parent.get() != ROOT || root.name_bytes != 0 {
        return Err("the root is not a root");
    }
    checked_name(base, root)?;
    let mut walk =
        Walk { base, seen: vec![false; nodes.len()], totals: Totals::default(), ahead: vec![ROOT] };
    walk.seen[ROOT as usize] = true;
    while let Some(directory) = walk.ahead.pop() {
        walk.directory(directory)?;
    }
    let Walk { seen, totals, .. } = walk;
    if nodes[0].is_used() || nodes.iter().zip(&seen).any(|(record, &seen)| record.is_used() && !seen) {
        return Err("a node that no directory has");
    }
    let free = (1..nodes.len() as u32).filter(|&number| !nodes[number as usize].is_used()).collect();
    Ok(Checked { totals, free })
}

struct Walk<'a> {
    base: &'a Base,
    seen: Vec<bool>,
    totals: Totals,
    ahead: Vec<u32>,
}

impl Walk<'_> {
    fn directory(&mut self, number: u32) -> Result<(), &'static str> {
        let record = self.base.nodes()[number as usize];
        let children = self.base.children().get(record.children()).ok_or("children beyond their column")?;
        let mut subdirectories = 0;
        let mut before: &[u8] = b"";
        for child in children {
            let child = child.get();
            let record = self.base.record(child).ok_or("a child that is not in use")?;
            if std::mem::replace(&mut self.seen[child as usize], true) || record.parent.get() != number {
                return Err("a child of two directories");
            }
            let name = checked_name(self.base, record)?;
            check_name(name).map_err(|_| "a name that no path can spell")?;
            // No name is empty, so the first is after what stands for none.
            if name <= before {
                return Err("children out of order");
            }
            before = name;
            match record.kind().ok_or("a node of an unknown kind")? {
                NodeKind::File => self.file(record)?,
                NodeKind::Directory => {
                    subdirectories += 1;
                    self.totals.directories += 1;
                    self.ahead.push(child);
                }
            }
        }
        if subdirectories == record.subdirectories() { Ok(()) } else { Err("subdirectories miscounted") }
    }

    fn file(&mut self, record: &NodeRecord) -> Result<(), &'static str> {
        record.version.read(self.base.etags()).ok_or("an ETag beyond its arena")?;
        if record.size_bytes.get() >= SIZE_BYTES_END {
            return Err("a file that is too large");
        }
        self.totals.files += 1;
        self.totals.bytes = self.totals.bytes.saturating_add(record.size_bytes.get());
        Ok(())
    }
}

fn checked_name<'a>(base: &'a Base, record: &NodeRecord) -> Result<&'a [u8], &'static str> {
    let start = record.name.get() as usize;
    let name = base.names().get(start..start.saturating_add(usize::from(record.name_bytes)));
    let name = name.ok_or("a name beyond its arena")?;
    if name.contains(&b'/') || std::str::from_utf8(name).is_err() {
        return Err("a name that is none");
    }
    Ok(name)
}
