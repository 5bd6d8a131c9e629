//! SIEVE: a queue, a mark for what was used since it came, and a hand that evicts the first without a mark.
//!
//! Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024. The hand goes from the oldest to the latest and stays where
//! it evicted; newcomers enter at the front, which it reaches last.

use super::links::{Links, List};
use super::{Access, ObjectNo, Order, Residents, slot};

#[derive(Default)]
pub(super) struct Sieve {
    links: Links,
    /// Latest arrival at the front.
    list: List,
    marked: Vec<bool>,
    /// Who is looked at next; the oldest if there is none.
    hand: Option<ObjectNo>,
}

impl Sieve {
    fn unlink(&mut self, object: ObjectNo) {
        if self.hand == Some(object) {
            self.hand = self.list.ahead_of(&mut self.links, object);
        }
        self.list.remove(&mut self.links, object);
    }
}

impl Order for Sieve {
    fn used(&mut self, access: &Access, _: &Residents) {
        *slot(&mut self.marked, access.object.index(), false) = true;
    }

    fn admitted(&mut self, access: &Access, _: &Residents) {
        *slot(&mut self.marked, access.object.index(), false) = false;
        self.list.push_front(&mut self.links, access.object);
    }

    fn victim(&mut self, _: &Access, residents: &Residents) -> Option<ObjectNo> {
        // Once round to clear every mark, and once more.
        for _ in 0..2 * self.list.len() {
            let looked_at = self.hand.or(self.list.back())?;
            let marked = std::mem::take(&mut self.marked[looked_at.index()]);
            if !marked && !residents.is_pinned(looked_at) {
                self.hand = Some(looked_at);
                self.unlink(looked_at);
                return Some(looked_at);
            }
            self.hand = self.list.ahead_of(&mut self.links, looked_at);
        }
        None
    }

    fn put_back(&mut self, object: ObjectNo, _: &Residents) {
        match self.hand {
            Some(hand) => self.list.insert_behind(&mut self.links, hand, object),
            None => self.list.push_front(&mut self.links, object),
        }
        self.hand = Some(object);
    }

    fn forgotten(&mut self, object: ObjectNo, _: &Residents) {
        self.unlink(object);
    }

    fn memory_bytes(&self) -> usize {
        self.links.memory_bytes() + self.marked.capacity()
    }
}
