//! Merging: a listing becomes columns, and what is unchanged keeps its number.
//!
//! The listing is in the tree's order and so are a catalog's directories, so that one walk over both finds
//! what is new, changed and gone. The stack holds the directories from the root to where the walk is.
//!
//! A directory keeps its number as long as its name is a directory's. A file keeps it as long as its ETag
//! and size are the same, because a number names a version.
//!
//! A listing takes a while, and what a read learned meanwhile may be newer: a version that was replaced
//! since the last merge stays if the listing has an older one, or the name would go back and forth.

use fuse_frontend::source::{Ino, NodeKind};
use zerocopy::little_endian::U32;

use super::base::{Columns, NodeRecord, ROOT, Totals};
use super::change::{Change, Replacement};
use super::listing::{Listing, Shown, is_marker};
use super::overlay::Numbers;
use super::version::StoredVersion;
use super::view::{Node, View};

/// What came of a merge.
pub(super) struct Merged {
    pub columns: Columns,
    pub totals: Totals,
    pub changes: Vec<Change>,
    /// Numbers that lost their names.
    pub retired: Vec<u32>,
    /// All is as listed: nothing newer was kept.
    pub is_as_listed: bool,
    /// Files whose version changed.
    pub changed: u64,
    /// Files whose name was not there before.
    pub new: u64,
    /// Files whose name is no longer there.
    pub gone: u64,
}

/// A directory that the walk is in.
struct Open<'a> {
    number: u32,
    path: &'a [u8],
    /// It was not there before, so that what is in it is no change of its own.
    is_new: bool,
    /// Its children before, and how many of them the walk has passed.
    old: &'a [U32],
    passed: usize,
}

struct Merge<'a> {
    previous: Option<View<'a>>,
    numbers: &'a mut Numbers,
    stack: Vec<Open<'a>>,
    /// Numbers in the order of the walk, the root first.
    order: Vec<u32>,
    merged: Merged,
}

/// Merges `listing` into the tree `previous`, with new numbers from `numbers`.
pub(super) fn merge<'a>(
    listing: &'a Listing,
    previous: Option<View<'a>>,
    numbers: &'a mut Numbers,
) -> Merged {
    let mut merge = Merge::new(listing, previous, numbers);
    for shown in listing.iter() {
        merge.enter_directory_of(shown.key);
        let path_bytes = merge.top().path.len();
        // What is left after the directory and its slash.
        let name = &shown.key[if path_bytes == 0 { 0 } else { path_bytes + 1 }..];
        if is_marker(shown.key) {
            debug_assert!(name.is_empty());
            merge.touch_directory(shown.modified_ns);
        } else {
            merge.add_file(name, &shown);
        }
    }
    merge.finish()
}

impl<'a> Merge<'a> {
    fn new(listing: &Listing, previous: Option<View<'a>>, numbers: &'a mut Numbers) -> Self {
        let mut columns = Columns::default();
        let numbers_end = numbers.end() as usize;
        columns.nodes.reserve(numbers_end.max(listing.len()) + listing.len() / 16);
        columns.names.reserve(listing.key_bytes() / 2);
        let old = previous.and_then(|view| view.node(ROOT)).map_or(&[][..], |root| root.children);
        let root = Open { number: ROOT, path: &[], is_new: previous.is_none(), old, passed: 0 };
        let merged = Merged {
            columns,
            totals: Totals::default(),
            changes: Vec::new(),
            retired: Vec::new(),
            is_as_listed: true,
            changed: 0,
            new: 0,
            gone: 0,
        };
        let mut merge = Self { previous, numbers, stack: vec![root], order: Vec::new(), merged };
        merge.put(ROOT, NodeRecord::directory(ROOT, i64::MIN), b"");
        merge
    }

    fn top(&mut self) -> &mut Open<'a> {
        self.stack.last_mut().expect("the root stays until the walk ends")
    }

    /// Leaves the directories that `key` is not in, and enters those that it is in.
    fn enter_directory_of(&mut self, key: &'a [u8]) {
        while !is_in(key, self.top().path) {
            self.leave_directory();
        }
        let path_bytes = self.top().path.len();
        let mut start = if path_bytes == 0 { 0 } else { path_bytes + 1 };
        while let Some(name_bytes) = key[start..].iter().position(|&byte| byte == b'/') {
            let end = start + name_bytes;
            self.enter_directory(&key[start..end], &key[..end]);
            start = end + 1;
        }
    }

    fn enter_directory(&mut self, name: &[u8], path: &'a [u8]) {
        let parent = self.top().number;
        let old = self.pass_to(name);
        let kept = old.and_then(|number| self.previous?.node(number));
        let open = match kept.filter(|node| node.kind == NodeKind::Directory) {
            Some(node) => Open { number: node.number, path, is_new: false, old: node.children, passed: 0 },
            None => Open { number: self.take_number(name, old), path, is_new: true, old: &[], passed: 0 },
        };
        self.put(open.number, NodeRecord::directory(parent, i64::MIN), name);
        self.merged.totals.directories += 1;
        self.stack.push(open);
    }

    /// Leaves the innermost directory: what it had beyond this is gone.
    fn leave_directory(&mut self) {
        let Open { old, passed, .. } = *self.top();
        old[passed..].iter().for_each(|&child| self.lose(child));
        self.stack.pop();
    }

    /// A marker of the innermost directory was modified at `modified_ns`.
    fn touch_directory(&mut self, modified_ns: i64) {
        let number = self.top().number;
        let record = &mut self.merged.columns.nodes[number as usize];
        record.modified_ns = record.modified_ns.get().max(modified_ns).into();
    }

    fn add_file(&mut self, name: &[u8], shown: &Shown<'_>) {
        let parent = self.top().number;
        let old = self.pass_to(name);
        let before = old.and_then(|number| self.previous?.node(number));
        let before = before.filter(|node| node.kind == NodeKind::File);
        let shown = before.and_then(|node| self.newer(&node, shown)).unwrap_or(*shown);
        let number = match before {
            Some(node) if node.version == shown.version && node.size_bytes == shown.size_bytes => {
                if node.modified_ns != shown.modified_ns {
                    self.merged.changes.push(Change::Touched { ino: ino(node.number) });
                }
                node.number
            }
            Some(_) => {
                let number = self.take_number(name, old);
                self.merged.changed += 1;
                // Only its version is: the name stays.
                self.merged.gone -= 1;
                number
            }
            None => {
                self.merged.new += 1;
                self.take_number(name, old)
            }
        };
        let version = StoredVersion::store(shown.version, &mut self.merged.columns.etags)
            .expect("the listing's texts have room, and those kept are few");
        self.put(number, NodeRecord::file(parent, shown.size_bytes, shown.modified_ns, version), name);
        self.merged.totals.files += 1;
        self.merged.totals.bytes += shown.size_bytes;
    }

    /// `node` in the place of `shown`, if it was replaced since the last merge and `shown` is older.
    fn newer<'b>(&mut self, node: &Node<'b>, shown: &Shown<'b>) -> Option<Shown<'b>> {
        let is_replaced = self.previous?.overlay.nodes.contains_key(&node.number);
        if !is_replaced || node.modified_ns <= shown.modified_ns {
            return None;
        }
        self.merged.is_as_listed = false;
        let Node { size_bytes, modified_ns, version, .. } = *node;
        Some(Shown { key: shown.key, size_bytes, modified_ns, version })
    }

    /// The number that `name` in the innermost directory had; names before it that were passed over are gone.
    fn pass_to(&mut self, name: &[u8]) -> Option<u32> {
        let view = self.previous?;
        loop {
            let top = self.top();
            let &child = top.old.get(top.passed)?;
            let before = view.child_name(child);
            if before > name {
                return None;
            }
            top.passed += 1;
            if before == name {
                return Some(view.current(child));
            }
            self.lose(child);
        }
    }

    /// A number for `name` in the innermost directory, which another node, `old`, may have had.
    fn take_number(&mut self, name: &[u8], old: Option<u32>) -> u32 {
        let new = self.numbers.take().expect("a listing has at most 2^31 nodes, and held ones are fewer");
        let parent = ino(self.top().number);
        match old {
            Some(old) => {
                self.retire_tree(old);
                let replacement = Replacement { old: ino(old), new: ino(new), parent, name: name.to_vec() };
                self.merged.changes.push(Change::Replaced(replacement));
            }
            None if !self.top().is_new => {
                self.merged.changes.push(Change::Added { parent, name: name.to_vec(), ino: ino(new) });
            }
            None => {}
        }
        new
    }

    /// The base's child `child` of the innermost directory is gone, and all below it.
    fn lose(&mut self, child: U32) {
        let Some(view) = self.previous else { return };
        let parent = ino(self.top().number);
        let number = view.current(child);
        let name = view.child_name(child).to_vec();
        self.retire_tree(number);
        self.merged.changes.push(Change::Removed { parent, name, ino: ino(number) });
    }

    /// Retires `number` and all below it.
    fn retire_tree(&mut self, number: u32) {
        let Some(view) = self.previous else { return };
        let mut ahead = vec![number];
        while let Some(number) = ahead.pop() {
            let Some(node) = view.node(number) else { continue };
            self.merged.retired.push(number);
            self.merged.gone += u64::from(node.kind == NodeKind::File);
            ahead.extend(node.children.iter().map(|&child| view.current(child)));
        }
    }

    fn put(&mut self, number: u32, mut record: NodeRecord, name: &[u8]) {
        let names = &mut self.merged.columns.names;
        record.name = u32::try_from(names.len()).expect("names are shorter than their keys").into();
        record.name_bytes = u8::try_from(name.len()).expect("names were checked when listed");
        names.extend_from_slice(name);
        self.merged.columns.put(number, record);
        self.order.push(number);
    }

    fn finish(mut self) -> Merged {
        while !self.stack.is_empty() {
            self.leave_directory();
        }
        let columns = &mut self.merged.columns;
        date_directories(&mut columns.nodes, &self.order);
        columns.children = lay_children(&mut columns.nodes, &self.order);
        columns.nodes.shrink_to_fit();
        columns.names.shrink_to_fit();
        columns.etags.shrink_to_fit();
        self.merged
    }
}

fn ino(number: u32) -> Ino {
    Ino(u64::from(number))
}

/// Whether `key` is in the directory at `path`, or its marker.
fn is_in(key: &[u8], path: &[u8]) -> bool {
    path.is_empty() || key.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Gives each directory the time of the newest object below it; 1970 if there is none.
fn date_directories(nodes: &mut [NodeRecord], order: &[u32]) {
    // Backwards, children come before their parents.
    for &number in order.iter().rev() {
        let modified_ns = nodes[number as usize].modified_ns.get();
        let parent = &mut nodes[nodes[number as usize].parent.get() as usize];
        parent.modified_ns = parent.modified_ns.get().max(modified_ns).into();
    }
    for &number in order {
        let record = &mut nodes[number as usize];
        if record.modified_ns.get() == i64::MIN {
            record.modified_ns = 0.into();
        }
    }
}

/// Gives each directory a run of children, in the order of the walk, which is that of names.
fn lay_children(nodes: &mut [NodeRecord], order: &[u32]) -> Vec<U32> {
    let children = &order[1..];
    for &number in children {
        let record = nodes[number as usize];
        let parent = &mut nodes[record.parent.get() as usize];
        parent.set_children(0, parent.children().len() as u32 + 1);
        if record.kind() == Some(NodeKind::Directory) {
            parent.set_subdirectories(parent.subdirectories() + 1);
        }
    }
    let mut first = 0;
    for &number in order {
        let record = &mut nodes[number as usize];
        if record.kind() == Some(NodeKind::Directory) {
            let count = record.children().len() as u32;
            // Empty for now: it grows to its length again as it is filled.
            record.set_children(first, 0);
            first += count;
        }
    }
    let mut runs = vec![U32::ZERO; children.len()];
    for &number in children {
        let parent = &mut nodes[nodes[number as usize].parent.get() as usize];
        let run = parent.children();
        runs[run.end] = number.into();
        parent.set_children(run.start as u32, run.len() as u32 + 1);
    }
    runs
}
