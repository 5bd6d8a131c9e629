//! Which open of an inode may be passed through: the kernel's rule, kept on our side.
//!
//! The kernel (fs/fuse/iomode.c) gives an inode one mode at a time. While a file of it is open for cached reads, a
//! passthrough open fails (ETXTBSY); while one is open for passthrough, a cached open fails (EINVAL), and so does one
//! with another backing id (EBUSY), even if the first id is closed already. open(2) shows each as EIO. So the first open
//! decides and the last RELEASE ends it; a file that becomes whole meanwhile is passed through from the next first
//! open on, and an id stays while a file is open with it, even if its object left the store.
//!
//! Counting OPENs when they are answered and RELEASEs when they arrive is safe: the kernel takes a mode after our answer,
//! and leaves it before it sends RELEASE; an open that fails in between is released as well. So what it holds is always
//! within what is counted here.
//!
//! tests/mounted/kernel_rule.rs asks the running kernel for this rule.
//!
//! Pure: no descriptor, no clock, no lock. Ids to close come out; [`super::passthrough`] closes them.
//!
//! Invariants
//! - An inode has at most one id; there are at most `ids_max`.
//! - An id leaves only when no file is open with it.
//! - An id that was registered while its object left is not taken.

use std::collections::{BTreeMap, HashMap};

use crate::source::Ino;

/// A backing id of the kernel's: a number of this connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct BackingId(pub u32);

/// Why a registered file is taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revoke {
    /// The object leaves the store, its bytes are right: who opens it beside open files joins them.
    Gone,
    /// The bytes are wrong: who opens it beside open files is refused with ESTALE, upon which the kernel looks the
    /// name up again, and opens another node if the name names one by then.
    Damaged,
}

/// What became of a revocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revoked {
    /// Nothing was registered.
    NotRegistered,
    /// The kernel has let go of the file.
    Now,
    /// Files are open with it, so many: they read on, and the kernel lets go at the last RELEASE.
    Deferred(u32),
}

/// What to do about an OPEN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    /// Answer with cached reads.
    Copy,
    /// Answer with this id.
    Passthrough(BackingId),
    /// Refuse with ESTALE; nothing was opened.
    Stale,
    /// Try to register a file, then call [`IoModes::asked`].
    Ask,
    /// As `Copy`, because every id is in use by open files.
    Full,
}

/// An id that left, and the inode that it was of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Left {
    pub ino: Ino,
    pub id: BackingId,
}

/// An inode with files open, an id, or an open that is being decided.
#[derive(Debug, Default)]
struct Node {
    /// Files open, in the one mode that the inode has.
    opens: u32,
    /// Opens between [`Opening::Ask`] and [`IoModes::asked`].
    asking: u32,
    /// Revoked while somebody asked: what they bring is not taken.
    revoked: bool,
    id: Option<Registered>,
}

#[derive(Clone, Copy, Debug)]
struct Registered {
    id: BackingId,
    /// Set once it is to leave with the last open file.
    leaving: Option<Revoke>,
    /// Its key among the idle while no file is open with it.
    idle: u64,
}

/// The modes of a mount's inodes.
#[derive(Debug)]
pub(crate) struct IoModes {
    nodes: HashMap<Ino, Node>,
    /// Ids that no file is open with, the longest idle first.
    idle: BTreeMap<u64, Ino>,
    ids: usize,
    ids_max: usize,
    tick: u64,
}

impl IoModes {
    pub fn new(ids_max: usize) -> Self {
        Self { nodes: HashMap::new(), idle: BTreeMap::new(), ids: 0, ids_max, tick: 0 }
    }

    /// Ids registered now.
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// An OPEN of `ino` came.
    pub fn open(&mut self, ino: Ino) -> Opening {
        let full = self.ids >= self.ids_max && self.idle.is_empty();
        let node = self.nodes.entry(ino).or_default();
        match node.id {
            Some(registered) => join(node, registered, &mut self.idle),
            None if node.opens > 0 => {
                node.opens += 1;
                Opening::Copy
            }
            None if full => {
                node.opens += 1;
                Opening::Full
            }
            None => {
                node.asking += 1;
                Opening::Ask
            }
        }
    }

    /// Who was told to ask brings an id, or none. Returns how to answer the OPEN (never `Ask`), and the ids to close:
    /// the one brought, if it is not taken, and one that made room for it.
    pub fn asked(&mut self, ino: Ino, brought: Option<BackingId>) -> (Opening, Vec<Left>) {
        let refused = |id: Option<BackingId>| id.map(|id| Left { ino, id }).into_iter().collect();
        let node = self.nodes.get_mut(&ino).expect("asking keeps the node");
        node.asking = node.asking.checked_sub(1).expect("one answer for each question");
        let revoked = node.revoked;
        node.revoked &= node.asking > 0;
        if let Some(registered) = node.id {
            let opening = join(node, registered, &mut self.idle);
            return (opening, refused(brought));
        }
        let wanted = brought.filter(|_| node.opens == 0 && !revoked);
        let room = self.ids < self.ids_max || !self.idle.is_empty();
        node.opens += 1;
        let Some(id) = wanted.filter(|_| room) else {
            return (if wanted.is_some() { Opening::Full } else { Opening::Copy }, refused(brought));
        };
        node.id = Some(Registered { id, leaving: None, idle: 0 });
        let evicted = if self.ids == self.ids_max { self.longest_idle() } else { None };
        self.ids += 1;
        (Opening::Passthrough(id), evicted.into_iter().collect())
    }

    /// A RELEASE of `ino` came. Returns the id to close, if it left with this file.
    pub fn release(&mut self, ino: Ino) -> Option<Left> {
        // A RELEASE of what we never counted would be the kernel's mistake: nothing to undo.
        let node = self.nodes.get_mut(&ino).filter(|node| node.opens > 0)?;
        node.opens -= 1;
        if node.opens > 0 {
            return None;
        }
        match &mut node.id {
            Some(Registered { leaving: None, idle, .. }) => {
                self.tick += 1;
                *idle = self.tick;
                self.idle.insert(self.tick, ino);
                None
            }
            Some(_) => self.take(ino),
            None => {
                self.tidy(ino);
                None
            }
        }
    }

    /// The object of `ino` leaves the store, or its file is bad. Returns the id to close, if it leaves now.
    pub fn revoke(&mut self, ino: Ino, why: Revoke) -> (Revoked, Option<Left>) {
        let Some(node) = self.nodes.get_mut(&ino) else { return (Revoked::NotRegistered, None) };
        node.revoked |= node.asking > 0;
        let opens = node.opens;
        match &mut node.id {
            None => (Revoked::NotRegistered, None),
            Some(registered) if opens > 0 => {
                // Damaged stays damaged.
                if registered.leaving != Some(Revoke::Damaged) {
                    registered.leaving = Some(why);
                }
                (Revoked::Deferred(opens), None)
            }
            Some(_) => (Revoked::Now, self.take(ino)),
        }
    }

    /// The kernel forgot `ino`. Returns the id to close.
    ///
    /// FORGET comes after the answer to the last RELEASE, but a new life of the inode may have been looked up and
    /// opened before it: then the id stays.
    pub fn forget(&mut self, ino: Ino) -> Option<Left> {
        let idle = self.nodes.get(&ino).is_some_and(|node| node.opens == 0 && node.id.is_some());
        if idle { self.take(ino) } else { None }
    }

    /// Empties the table, for the connection's end. Returns what the kernel has closed by itself.
    pub fn clear(&mut self) -> Vec<Left> {
        let ids = self.nodes.iter_mut().filter_map(|(&ino, node)| Some((ino, node.id.take()?.id)));
        let left = ids.map(|(ino, id)| Left { ino, id }).collect();
        // A thread that asks comes back.
        self.nodes.retain(|_, node| node.asking > 0);
        self.idle.clear();
        self.ids = 0;
        left
    }

    fn longest_idle(&mut self) -> Option<Left> {
        let (_, &ino) = self.idle.first_key_value()?;
        self.take(ino)
    }

    /// Takes the id of `ino`, which nobody has open.
    fn take(&mut self, ino: Ino) -> Option<Left> {
        let registered = self.nodes.get_mut(&ino)?.id.take()?;
        // Of one that leaves with its last file the key is an old one, and gone.
        self.idle.remove(&registered.idle);
        self.ids -= 1;
        self.tidy(ino);
        Some(Left { ino, id: registered.id })
    }

    fn tidy(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.opens == 0 && node.asking == 0 && node.id.is_none()) {
            self.nodes.remove(&ino);
        }
    }

    #[cfg(test)]
    pub(super) fn self_check(&self) {
        let ids: std::collections::HashSet<_> =
            self.nodes.values().filter_map(|node| node.id).map(|registered| registered.id).collect();
        assert_eq!(ids.len(), self.ids, "every id is of one inode");
        assert!(self.ids <= self.ids_max);
        for (ino, node) in &self.nodes {
            assert!(node.opens > 0 || node.asking > 0 || node.id.is_some(), "{ino:?} is kept for nothing");
            assert!(!node.revoked || node.asking > 0);
            let idle = node.id.is_some_and(|registered| self.idle.get(&registered.idle) == Some(ino));
            assert_eq!(idle, node.id.is_some() && node.opens == 0, "{ino:?}: {node:?}");
        }
        assert!(self.idle.values().all(|ino| self.nodes.contains_key(ino)));
    }
}

/// One more file of a node that has an id.
fn join(node: &mut Node, registered: Registered, idle: &mut BTreeMap<u64, Ino>) -> Opening {
    if registered.leaving == Some(Revoke::Damaged) {
        return Opening::Stale;
    }
    if node.opens == 0 {
        idle.remove(&registered.idle);
    }
    node.opens += 1;
    Opening::Passthrough(registered.id)
}

#[cfg(test)]
mod tests;
