//! The overlay: what was replaced since the base was made, and numbers that no name leads to any more.
//!
//! A number that lost its name is *held* while the kernel has references to it: its attributes and its
//! object stay, because the kernel may still read it. Then it *rests*: it means nothing any more, but is
//! not given to another version before two more listings were applied. By then nobody in the daemon (a
//! push under way, a walk of a directory that stopped at it) remembers what it meant. Numbers that are
//! simply never reused would be simpler, but arrays indexed by them do not grow for ever.
//!
//! Invariants
//! - A number is live (one name leads to it), held, resting, or free; only a free one is given out.
//! - `moved` leads from a number in the base's runs of children to a live number in `nodes`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::mem;
use std::sync::Arc;

use fuse_frontend::source::NodeKind;

use crate::object::{Etag, ObjectKey};

/// A node that is not what the base says of its number.
#[derive(Clone, Debug)]
pub(super) struct OverNode {
    pub parent: u32,
    pub name: Arc<[u8]>,
    pub kind: NodeKind,
    pub size_bytes: u64,
    pub modified_ns: i64,
    pub etag: Etag,
    pub standing: Standing,
}

/// What a number in the overlay is.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// A name leads to it, through the base's child `child`.
    Live { child: u32 },
    /// The kernel has references to it. Its key is kept, for the directories that led to it may be gone.
    Held { key: ObjectKey },
    /// Nothing leads to it; kept for its name, at which a walk of a directory may have stopped.
    Resting,
}

/// What lies over a base.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    pub nodes: HashMap<u32, OverNode>,
    pub moved: HashMap<u32, u32>,
    /// Bytes of the data set, less those of the base.
    pub bytes_delta: i64,
    freed: Vec<u32>,
    resting: Vec<u32>,
}

impl Overlay {
    /// Puts `node`, which lost its name, at `number`: held, or at once resting.
    pub fn retire(&mut self, number: u32, node: OverNode, is_held: bool) {
        self.nodes.insert(number, node);
        if !is_held {
            self.release(number);
        }
    }

    /// Whether `number` is held.
    pub fn is_held(&self, number: u32) -> bool {
        self.nodes.get(&number).is_some_and(|node| matches!(node.standing, Standing::Held { .. }))
    }

    /// Sends `number` to rest if it is held: the kernel has forgotten it.
    pub fn release(&mut self, number: u32) {
        if let Some(node) = self.nodes.get_mut(&number)
            && matches!(node.standing, Standing::Held { .. })
        {
            node.standing = Standing::Resting;
            self.freed.push(number);
        }
    }

    /// Drops what a new base has taken in.
    pub fn rebase(&mut self) {
        self.nodes.retain(|_, node| !matches!(node.standing, Standing::Live { .. }));
        self.moved.clear();
        self.bytes_delta = 0;
    }

    /// Another listing was applied: the numbers that rest since before the last one are free, less those
    /// that `is_held` after all.
    pub fn end_rest(&mut self, is_held: impl Fn(u32) -> bool, numbers: &mut Numbers) {
        for number in mem::replace(&mut self.resting, mem::take(&mut self.freed)) {
            if is_held(number) {
                self.freed.push(number);
            } else {
                self.nodes.remove(&number);
                numbers.give(number);
            }
        }
    }

    /// Numbers held, and numbers resting.
    pub fn retired(&self) -> (u64, u64) {
        let resting = self.freed.len() + self.resting.len();
        let live = self.moved.len();
        ((self.nodes.len() - resting - live) as u64, resting as u64)
    }

    /// About how many bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        let nodes = self.nodes.capacity() * size_of::<(u32, OverNode)>();
        // A name and an ETag of about 32 bytes each, with their counts.
        let texts = self.nodes.len() * 2 * (16 + 32);
        let moved = self.moved.capacity() * size_of::<(u32, u32)>();
        (nodes + texts + moved + 4 * (self.freed.capacity() + self.resting.capacity())) as u64
    }
}

/// The numbers that can be given out.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    next: u32,
    free: BinaryHeap<Reverse<u32>>,
}

impl Numbers {
    /// All from `next`, and those that are `free` below it.
    pub fn new(next: u32, free: impl IntoIterator<Item = u32>) -> Self {
        Self { next, free: free.into_iter().map(Reverse).collect() }
    }

    /// The lowest number that is free; `None` after 4 Gi.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(Reverse(number)) = self.free.pop() {
            return Some(number);
        }
        let number = self.next;
        self.next = number.checked_add(1)?;
        Some(number)
    }

    /// Takes back a number.
    pub fn give(&mut self, number: u32) {
        self.free.push(Reverse(number));
    }

    /// One more than the highest number ever given out.
    pub fn end(&self) -> u32 {
        self.next
    }
}
