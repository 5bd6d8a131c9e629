//! Changes: a version replaced, a listing applied, and what the kernel must be told of either.
//!
//! Names move, numbers stay: see the module's header. Both kinds of change are made by one writer at a
//! time; readers wait only while the result is put in place.

use std::mem;
use std::sync::Arc;

use fuse_frontend::source::{Ino, NodeKind};

use super::base::Base;
use super::key::SIZE_BYTES_END;
use super::listing::{Builder, Item};
use super::merge::merge;
use super::overlay::{OverNode, Standing};
use super::time::to_ns;
use super::version::Version;
use super::view::View;
use super::{Catalog, ListingReport, number_of};

/// A name that leads to another number than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// What it led to: still served while the kernel has references to it.
    pub old: Ino,
    /// What it leads to now.
    pub new: Ino,
    /// The directory of the name.
    pub parent: Ino,
    /// The name.
    pub name: Vec<u8>,
}

/// What a new listing changed, for the kernel's caches: the entry `name` in `parent` is to be invalidated,
/// and what is cached of the directory `parent` dropped.
///
/// Of a directory that is new or gone there is one change, not one for each thing in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The name leads to another version, or to a directory instead of a file, or the other way round.
    Replaced(Replacement),
    /// The name is new.
    Added {
        /// The directory that it is in.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
        /// What it leads to.
        ino: Ino,
    },
    /// The name is gone.
    Removed {
        /// The directory that it was in.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
        /// What it led to.
        ino: Ino,
    },
    /// The same version with another modification time: only attributes are to be invalidated.
    Touched {
        /// The file.
        ino: Ino,
    },
}

impl Catalog {
    /// Moves the name of `ino`, a file, to a new number for the version that `item` is; the key in `item` is not looked at.
    ///
    /// `None` if there is nothing to do: `ino` has lost its name already (another reader was faster, or a
    /// listing), or it is this version; or if there is nothing to be done: too large, or no number left.
    pub fn replace(&self, ino: Ino, item: &Item) -> Option<Replacement> {
        let mut numbers = self.numbers.lock();
        let mut state = self.state.write();
        let view = state.view();
        let node = view.node(number_of(ino)?)?;
        let is_same = node.version == Version::of(item.etag.as_str()) && node.size_bytes == item.size_bytes;
        if node.kind != NodeKind::File
            || node.lost_key.is_some()
            || is_same
            || item.size_bytes >= SIZE_BYTES_END
        {
            return None;
        }
        let old = node.number;
        let new = numbers.take()?;
        let child = match state.overlay.nodes.get(&old).map(|over| &over.standing) {
            Some(&Standing::Live { child }) => child,
            _ => old,
        };
        let retired = view.retired(&node);
        let fresh = OverNode {
            size_bytes: item.size_bytes,
            modified_ns: to_ns(item.modified),
            etag: item.etag.clone(),
            standing: Standing::Live { child },
            ..retired.clone()
        };
        let parent = Ino(u64::from(node.parent));
        let overlay = &mut state.overlay;
        overlay.bytes_delta += item.size_bytes as i64 - retired.size_bytes as i64;
        let name = retired.name.to_vec();
        overlay.retire(old, retired, self.lookups.get(old) > 0);
        overlay.nodes.insert(new, fresh);
        overlay.moved.insert(child, new);
        Some(Replacement { old: ino, new: Ino(u64::from(new)), parent, name })
    }

    /// Makes the catalog what `fresh` lists. Unchanged objects keep their numbers, changed ones get new ones.
    ///
    /// Takes a second or so for a million files, during which readers go on with what was, and as much
    /// memory again as the catalog has; neither if nothing changed.
    pub fn apply(&self, fresh: Builder) -> (Vec<Change>, ListingReport) {
        assert!(fresh.origin_url == self.origin_url, "a listing of another origin");
        let mut numbers = self.numbers.lock();
        let listing = fresh.sorted();
        let digest = listing.digest();
        // A copy of the overlay, which is small, so that FORGET need not wait for the merge.
        let (base, overlay) = {
            let state = self.state.read_recursive();
            (state.base.clone(), state.overlay.clone())
        };
        let is_held = |number| self.lookups.get(number) > 0;
        if base.digest == Some(digest) && overlay.moved.is_empty() {
            self.state.write().overlay.end_rest(is_held, &mut numbers);
            return (Vec::new(), ListingReport::unchanged(base.totals, listing.hidden()));
        }
        let view = View { base: &base, overlay: &overlay };
        let mut merged = merge(&listing, Some(view), &mut numbers);
        let changes = mem::take(&mut merged.changes);
        let report = ListingReport::of(&merged, listing.hidden());
        let retired: Vec<_> = merged.retired.iter().filter_map(|&number| view.node(number)).collect();
        let retired: Vec<_> = retired.iter().map(|node| (node.number, view.retired(node))).collect();
        let digest = merged.is_as_listed.then_some(digest);
        let next = Arc::new(Base::built(merged.columns, merged.totals, digest));

        let mut state = self.state.write();
        state.overlay.rebase();
        state.overlay.end_rest(is_held, &mut numbers);
        for (number, node) in retired {
            state.overlay.retire(number, node, is_held(number));
        }
        // Freeing the old base takes milliseconds: not under the lock.
        let old = mem::replace(&mut state.base, next);
        drop(state);
        drop(old);
        (changes, report)
    }

    /// The kernel dropped `lookups` of its references to `ino`.
    ///
    /// At none left, the number of a version that lost its name means nothing any more.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        let Some(number) = number_of(ino) else { return };
        if !self.lookups.subtract(number, lookups) || !self.state.read_recursive().overlay.is_held(number) {
            return;
        }
        let mut state = self.state.write();
        if self.lookups.get(number) == 0 {
            state.overlay.release(number);
        }
    }
}
