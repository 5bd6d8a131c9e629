//! No replacement: what is in stays, what does not fit stays out.
//!
//! For one set in epochs no policy hits more (docs/epoch-model.md); for anything that changes, few hit less.

use super::{Access, ObjectNo, Order, Residents};

pub(super) struct NoReplacement;

impl Order for NoReplacement {
    fn used(&mut self, _: &Access, _: &Residents) {}

    fn admitted(&mut self, _: &Access, _: &Residents) {}

    fn victim(&mut self, _: &Access, _: &Residents) -> Option<ObjectNo> {
        None
    }

    fn put_back(&mut self, _: ObjectNo, _: &Residents) {}

    fn forgotten(&mut self, _: ObjectNo, _: &Residents) {}

    fn memory_bytes(&self) -> usize {
        0
    }
}
