//! The catalog: the data set as directories, with dense inode numbers, sizes, times and ETags.
//!
//! It is fed a listing of the origin and never talks to it. It is durable (`snapshot.rs`), so that a kernel
//! that drops its dentries, or a restart, costs the origin no request.
//!
//! *A number names one version of an object, not a path.* In no-open mode READ carries nothing but the
//! number, and the kernel keeps its pages for ever. So an object that changed gets a new number and its name
//! is moved to that; the old number keeps its attributes and its object while the kernel refers to it, so
//! that what is cached of it can be served. An object that did not change keeps its number over listings
//! and restarts. Directories keep theirs while there is something in them.
//!
//! Numbers are dense, from the root's 1, because arrays are indexed by them: here, in the index of heat, in
//! eBPF maps that cannot grow ([`Catalog::len`] has headroom). Numbers of versions that are gone are given
//! out again, late: `overlay.rs`.
//!
//! Which keys are shown, and where: `key.rs`. A directory's time is that of the newest object below it when
//! the origin was last listed.
//!
//! The parts: `listing.rs` takes what the origin lists, `merge.rs` turns it into columns and keeps the
//! numbers, `base.rs` are the columns (52 bytes a file plus its name), `overlay.rs` is what has changed since,
//! `view.rs` reads both as one tree, `change.rs` changes it, `lookups.rs` counts the kernel's references.
//!
//! Invariants
//! - A lookup that is counted is counted under the lock under which names move: a number is never retired
//!   as unused while a reply that names it is on its way.
//! - One writer at a time, which holds `numbers`; `state` is locked for microseconds only, never over a merge.
//!   `numbers` is locked before `state`.

mod base;
mod change;
mod check;
mod key;
mod listing;
mod lookups;
mod merge;
mod overlay;
mod snapshot;
#[cfg(test)]
mod tests;
mod time;
mod version;
mod view;

use std::sync::Arc;

use fuse_frontend::source::{Attributes, Entry, Ino, NodeKind, Walk};
use parking_lot::{Mutex, RwLock};

use crate::object::{Fingerprint, Object};

use base::{Base, ROOT, Totals};
pub use change::{Change, Replacement};
pub use key::{HiddenCounts, HiddenReason, NAME_BYTES_MAX, SIZE_BYTES_END};
pub use listing::{Builder, Item};
use lookups::LookupCounts;
use merge::{Merged, merge};
use overlay::{Numbers, Overlay};
pub use snapshot::SnapshotError;
use view::{Node, View};

/// What came of a listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListingReport {
    /// Files shown.
    pub files: u64,
    /// Directories shown, the root not counted.
    pub directories: u64,
    /// Bytes in all files.
    pub bytes: u64,
    /// Keys that are not shown.
    pub hidden: HiddenCounts,
    /// Files with another version than before.
    pub changed: u64,
    /// Files that were not there before.
    pub new: u64,
    /// Files that were there before.
    pub gone: u64,
}

impl ListingReport {
    fn of(merged: &Merged, hidden: HiddenCounts) -> Self {
        let Merged { changed, new, gone, .. } = *merged;
        Self { changed, new, gone, ..Self::unchanged(merged.totals, hidden) }
    }

    fn unchanged(totals: Totals, hidden: HiddenCounts) -> Self {
        let Totals { files, directories, bytes } = totals;
        Self { files, directories, bytes, hidden, changed: 0, new: 0, gone: 0 }
    }
}

/// Why a directory has no entries to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoDirectory {
    /// The number is a file's.
    #[error("not a directory")]
    File,
    /// The number is not in use.
    #[error("no such node")]
    Stale,
}

/// The data set as directories. Shared by all threads.
pub struct Catalog {
    origin_url: Arc<str>,
    state: RwLock<State>,
    lookups: LookupCounts,
    /// Numbers to give out; locked by whoever changes names.
    numbers: Mutex<Numbers>,
}

struct State {
    base: Arc<Base>,
    overlay: Overlay,
}

impl State {
    fn view(&self) -> View<'_> {
        View { base: &self.base, overlay: &self.overlay }
    }
}

/// The number in `ino`; `None` if it is none of ours.
fn number_of(ino: Ino) -> Option<u32> {
    u32::try_from(ino.0).ok()
}

impl Builder {
    /// The catalog of this listing, to be served from now on. Numbers of what is unchanged are `previous`' (which may be
    /// a snapshot; one that is being served is changed by [`Catalog::apply`] instead).
    pub fn finish(self, previous: Option<&Catalog>) -> (Catalog, ListingReport) {
        assert!(
            previous.is_none_or(|previous| previous.origin_url == self.origin_url),
            "another origin's numbers"
        );
        let origin_url = self.origin_url.clone();
        let listing = self.sorted();
        let mut numbers =
            previous.map_or(Numbers::new(ROOT + 1, []), |previous| previous.numbers.lock().clone());
        let state = previous.map(|previous| previous.state.read_recursive());
        let merged = merge(&listing, state.as_ref().map(|state| state.view()), &mut numbers);
        merged.retired.iter().for_each(|&number| numbers.give(number));
        let report = ListingReport::of(&merged, listing.hidden());
        let digest = merged.is_as_listed.then(|| listing.digest());
        let base = Base::built(merged.columns, merged.totals, digest);
        (Catalog::new(origin_url, base, numbers), report)
    }
}

impl Catalog {
    fn new(origin_url: Arc<str>, base: Base, numbers: Numbers) -> Self {
        let state = State { base: Arc::new(base), overlay: Overlay::default() };
        Self {
            origin_url,
            state: RwLock::new(state),
            lookups: LookupCounts::default(),
            numbers: Mutex::new(numbers),
        }
    }

    /// What `read` makes of the tree. Recursive, so that a callback that asks the catalog something does not
    /// wait for a writer that waits for it; writers are rare and find a gap.
    fn with<T>(&self, read: impl FnOnce(View<'_>) -> T) -> T {
        read(self.state.read_recursive().view())
    }

    /// The node that `name` in `dir` names. Counts nothing: for the kernel use [`Catalog::lookup_counted`].
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, NoDirectory> {
        self.with(|view| Ok(view.child(&directory(view, dir)?, name).map(|number| Ino(u64::from(number)))))
    }

    /// What `name` in `dir` names, as the answer to a LOOKUP: counts one reference of the kernel's to it.
    pub fn lookup_counted(&self, dir: Ino, name: &[u8]) -> Result<Option<Attributes>, NoDirectory> {
        self.with(|view| {
            let found = view.child(&directory(view, dir)?, name).and_then(|number| view.node(number));
            Ok(found.map(|node| {
                self.lookups.add(node.number, 1);
                node.attributes()
            }))
        })
    }

    /// Counts `lookups` references of the kernel's to `ino`.
    ///
    /// Called outside of the callback of [`Catalog::entries`], it may come too late: the number can have
    /// lost its name and be out of use.
    pub fn looked_up(&self, ino: Ino, lookups: u64) {
        if let Some(number) = number_of(ino) {
            self.lookups.add(number, lookups);
        }
    }

    /// Whether the kernel holds references to `ino`: it has looked the number up, and not told that it forgot it.
    pub fn is_held(&self, ino: Ino) -> bool {
        number_of(ino).is_some_and(|number| self.lookups.get(number) > 0)
    }

    /// What stat(2) tells of `ino`; `None` if the number is not in use (`ESTALE`).
    pub fn attributes(&self, ino: Ino) -> Option<Attributes> {
        self.with(|view| view.node(number_of(ino)?).map(|node| node.attributes()))
    }

    /// The version that `ino` names; `None` if that is a directory or nothing.
    pub fn object(&self, ino: Ino) -> Option<Object> {
        self.with(|view| {
            let node = view.node(number_of(ino)?).filter(|node| node.kind == NodeKind::File)?;
            Some(node.object(&self.origin_url, view.key(&node)))
        })
    }

    /// Calls `take` for each entry of `dir` by name, from the one after position `from` (0: the first).
    ///
    /// A position is the number of the entry before it, and stands for that entry's name: so a walk in
    /// pieces sees every name that stays exactly once, whatever is replaced, added or removed meanwhile. A
    /// position that means nothing any more (the walk slept through two changes of the data set) ends it.
    ///
    /// Names do not move while `take` runs: [`Catalog::looked_up`] from there is exact. `take` must be quick.
    pub fn entries(
        &self,
        dir: Ino,
        from: u64,
        take: &mut dyn FnMut(Entry<'_>) -> Walk,
    ) -> Result<(), NoDirectory> {
        self.with(|view| {
            let dir = directory(view, dir)?;
            for &child in rest_of(view, &dir, from) {
                let Some(node) = view.node(view.current(child)) else { continue };
                let entry =
                    Entry { name: node.name, attributes: node.attributes(), next: u64::from(node.number) };
                if take(entry) == Walk::Stop {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The directory that `ino` is in, or was in; the root's is the root.
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        self.with(|view| {
            let node = view.node(number_of(ino)?)?;
            // The directory of what lost its name can be gone too.
            let is_there = view.node(node.parent).is_some_and(|parent| parent.kind == NodeKind::Directory);
            Some(Ino(u64::from(if is_there { node.parent } else { ROOT })))
        })
    }

    /// The node at `path`, from the root, with slashes as users type them; `.` and `..` are not understood.
    pub fn resolve(&self, path: &[u8]) -> Option<Ino> {
        self.with(|view| {
            let mut node = view.node(ROOT)?;
            for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
                node = view.node(view.child(&node, name)?)?;
            }
            Some(Ino(u64::from(node.number)))
        })
    }

    /// The path from the root to `ino`, or that it had, without a slash before it: the key relative to the prefix.
    pub fn path(&self, ino: Ino) -> Option<Vec<u8>> {
        self.with(|view| view.node(number_of(ino)?).map(|node| view.path(&node)))
    }

    /// Calls `visit` for every version that has a name, in the tree's order, and then for those that the
    /// kernel still refers to. Of one moment; holds no lock.
    pub fn fingerprints(&self, visit: &mut dyn FnMut(Ino, Fingerprint)) {
        let (base, overlay) = {
            let state = self.state.read_recursive();
            (state.base.clone(), state.overlay.clone())
        };
        let view = View { base: &base, overlay: &overlay };
        let mut visit = |node: &Node<'_>, key: &str| {
            let etag = node.version.to_string();
            let fingerprint = Fingerprint::of(&self.origin_url, key, &etag, node.size_bytes);
            visit(Ino(u64::from(node.number)), fingerprint);
        };
        view.for_each_file(&mut visit);
        for node in overlay.nodes.keys().filter_map(|&number| view.node(number)) {
            if let Some(key) = node.lost_key.filter(|_| node.kind == NodeKind::File) {
                visit(&node, key.as_str());
            }
        }
    }

    /// Calls `visit` for every file that has a name, in the tree's order: its number, its directory's, its bytes. Of one
    /// moment; holds no lock.
    pub fn files_in_order(&self, visit: &mut dyn FnMut(Ino, Ino, u64)) {
        let (base, overlay) = {
            let state = self.state.read_recursive();
            (state.base.clone(), state.overlay.clone())
        };
        let ino = |number: u32| Ino(u64::from(number));
        View { base: &base, overlay: &overlay }
            .for_each_file(&mut |node, _| visit(ino(node.number), ino(node.parent), node.size_bytes));
    }

    /// The URL of the data set, the prefix of every key.
    pub fn origin_url(&self) -> &str {
        &self.origin_url
    }

    /// Files that have a name.
    pub fn files(&self) -> u64 {
        self.state.read_recursive().base.totals.files
    }

    /// Directories that have a name, the root not counted.
    pub fn directories(&self) -> u64 {
        self.state.read_recursive().base.totals.directories
    }

    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        let state = self.state.read_recursive();
        state.base.totals.bytes.saturating_add_signed(state.overlay.bytes_delta)
    }

    /// How long an array must be that is indexed by numbers, with headroom for objects found later: an eighth, and 4096.
    #[expect(clippy::len_without_is_empty, reason = "the root is always there")]
    pub fn len(&self) -> u64 {
        let end = u64::from(self.numbers.lock().end());
        end + end / 8 + 4096
    }

    /// Versions without a name: held because the kernel refers to them, and resting.
    pub fn retired(&self) -> (u64, u64) {
        self.state.read_recursive().overlay.retired()
    }

    /// Bytes of memory, mapped ones included.
    pub fn memory_bytes(&self) -> u64 {
        let state = self.state.read_recursive();
        state.base.memory_bytes() + state.overlay.memory_bytes() + self.lookups.memory_bytes()
    }
}

fn directory(view: View<'_>, dir: Ino) -> Result<Node<'_>, NoDirectory> {
    let node = number_of(dir).and_then(|number| view.node(number)).ok_or(NoDirectory::Stale)?;
    if node.kind == NodeKind::Directory { Ok(node) } else { Err(NoDirectory::File) }
}

/// The children of `dir` after position `from`.
fn rest_of<'a>(view: View<'a>, dir: &Node<'a>, from: u64) -> &'a [zerocopy::little_endian::U32] {
    if from == 0 {
        return dir.children;
    }
    let stopped_at = u32::try_from(from).ok().and_then(|number| view.name_of_position(dir.number, number));
    let Some(name) = stopped_at else { return &[] };
    &dir.children[dir.children.partition_point(|&child| view.child_name(child) <= name)..]
}
