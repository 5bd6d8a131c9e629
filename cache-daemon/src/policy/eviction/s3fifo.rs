//! S3-FIFO: newcomers pass a small queue, and only what is used again there reaches the main one.
//!
//! Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023. The small queue takes a tenth of the
//! bytes; a third queue of bare numbers remembers who left it, and who comes back goes to the main queue directly.
//! So a scan passes through a tenth of the cache and leaves the rest alone.

use super::links::{Links, List};
use super::{Access, ObjectNo, Order, Residents, slot};

/// Uses that count.
const USES_MAX: u8 = 3;
/// Uses in the small queue that lead to the main one.
const USES_TO_MAIN: u8 = 2;
/// The small queue's part of the bytes.
const SMALL_PART: u64 = 10;

/// Where an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Queue {
    None,
    Small,
    Main,
    /// Not in; remembered.
    Ghost,
}

#[derive(Clone, Copy, Debug)]
struct State {
    queue: Queue,
    uses: u8,
}

const OUT: State = State { queue: Queue::None, uses: 0 };

#[derive(Default)]
pub(super) struct S3Fifo {
    links: Links,
    small: List,
    main: List,
    ghost: List,
    small_bytes: u64,
    bytes: u64,
    states: Vec<State>,
}

impl S3Fifo {
    /// Bytes of what is linked.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Links an object of that size.
    pub fn link(&mut self, object: ObjectNo, size_bytes: u64) {
        let size_bytes = size_bytes.max(1);
        let state = slot(&mut self.states, object.index(), OUT);
        let was = std::mem::replace(state, State { queue: Queue::Small, uses: 0 }).queue;
        self.bytes += size_bytes;
        if was == Queue::Ghost {
            self.ghost.remove(&mut self.links, object);
            self.states[object.index()].queue = Queue::Main;
            self.main.push_front(&mut self.links, object);
        } else {
            debug_assert_eq!(was, Queue::None, "{object:?} is linked already");
            self.small_bytes += size_bytes;
            self.small.push_front(&mut self.links, object);
        }
    }

    /// Counts a use.
    pub fn count_use(&mut self, object: ObjectNo) {
        let state = &mut self.states[object.index()];
        state.uses = (state.uses + 1).min(USES_MAX);
    }

    /// Unlinks and returns who goes next; none if everybody is pinned.
    pub fn next_victim(&mut self, residents: &Residents) -> Option<ObjectNo> {
        // Everybody is passed at most once in the small queue and once for each use in the main one.
        let patience = (u64::from(USES_MAX) + 2) * (self.small.len() + self.main.len());
        for _ in 0..patience {
            let of_small = self.main.is_empty() || self.small_bytes * SMALL_PART >= self.bytes;
            let gone = match of_small && !self.small.is_empty() {
                true => self.oldest_of_small(residents),
                false => self.oldest_of_main(residents),
            };
            if gone.is_some() {
                return gone;
            }
        }
        None
    }

    /// Looks at the oldest of the small queue: out and remembered, or on to the main one.
    fn oldest_of_small(&mut self, residents: &Residents) -> Option<ObjectNo> {
        let object = self.small.pop_back(&mut self.links)?;
        let size_bytes = residents.size_bytes(object).expect("a linked object is resident");
        self.small_bytes -= size_bytes;
        let state = &mut self.states[object.index()];
        if state.uses >= USES_TO_MAIN || residents.is_pinned(object) {
            *state = State { queue: Queue::Main, uses: 0 };
            self.main.push_front(&mut self.links, object);
            return None;
        }
        *state = State { queue: Queue::Ghost, uses: 0 };
        self.bytes -= size_bytes;
        self.ghost.push_front(&mut self.links, object);
        self.forget_ghosts();
        Some(object)
    }

    /// Looks at the oldest of the main queue: out, or round again for a use less.
    fn oldest_of_main(&mut self, residents: &Residents) -> Option<ObjectNo> {
        let object = self.main.pop_back(&mut self.links)?;
        let state = &mut self.states[object.index()];
        if state.uses > 0 || residents.is_pinned(object) {
            state.uses = state.uses.saturating_sub(1);
            self.main.push_front(&mut self.links, object);
            return None;
        }
        *state = OUT;
        self.bytes -= residents.size_bytes(object).expect("a linked object is resident");
        Some(object)
    }

    /// As many are remembered as would be in the main queue of a full cache.
    fn forget_ghosts(&mut self) {
        let linked = self.small.len() + self.main.len();
        while self.ghost.len() > linked - linked / SMALL_PART {
            let Some(object) = self.ghost.pop_back(&mut self.links) else { break };
            self.states[object.index()] = OUT;
        }
    }

    /// Unlinks an object of that size.
    pub fn unlink(&mut self, object: ObjectNo, size_bytes: u64) {
        let state = std::mem::replace(&mut self.states[object.index()], OUT);
        self.bytes -= size_bytes;
        match state.queue {
            Queue::Small => {
                self.small_bytes -= size_bytes;
                self.small.remove(&mut self.links, object);
            }
            Queue::Main => self.main.remove(&mut self.links, object),
            Queue::Ghost | Queue::None => unreachable!("only what is linked is unlinked"),
        }
    }

    /// Links a victim again, as the one that goes next.
    pub fn relink(&mut self, object: ObjectNo, size_bytes: u64) {
        let state = slot(&mut self.states, object.index(), OUT);
        let was = std::mem::replace(state, State { queue: Queue::Small, uses: 0 }).queue;
        if was == Queue::Ghost {
            self.ghost.remove(&mut self.links, object);
        }
        self.bytes += size_bytes;
        self.small_bytes += size_bytes;
        self.small.push_back(&mut self.links, object);
    }

    pub fn memory(&self) -> usize {
        self.links.memory_bytes() + self.states.capacity() * size_of::<State>()
    }
}

impl Order for S3Fifo {
    fn used(&mut self, access: &Access, _: &Residents) {
        self.count_use(access.object);
    }

    fn admitted(&mut self, access: &Access, _: &Residents) {
        self.link(access.object, access.size_bytes);
    }

    fn victim(&mut self, _: &Access, residents: &Residents) -> Option<ObjectNo> {
        self.next_victim(residents)
    }

    fn put_back(&mut self, object: ObjectNo, residents: &Residents) {
        self.relink(object, residents.size_bytes(object).expect("it is resident again"));
    }

    fn forgotten(&mut self, object: ObjectNo, residents: &Residents) {
        self.unlink(object, residents.size_bytes(object).expect("it is still resident"));
    }

    fn memory_bytes(&self) -> usize {
        self.memory()
    }
}
