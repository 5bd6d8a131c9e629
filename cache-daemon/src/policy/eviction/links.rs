//! Lists through object numbers: eight bytes an object, whichever of an owner's lists it is in.

use super::{ObjectNo, slot};

const NOBODY: u32 = u32::MAX;

/// Who stands before and behind an object. An object is in one list at a time.
#[derive(Debug, Default)]
pub(super) struct Links {
    neighbours: Vec<Neighbours>,
}

#[derive(Clone, Copy, Debug)]
struct Neighbours {
    ahead: u32,
    behind: u32,
}

const ALONE: Neighbours = Neighbours { ahead: NOBODY, behind: NOBODY };

impl Links {
    pub fn memory_bytes(&self) -> usize {
        self.neighbours.capacity() * size_of::<Neighbours>()
    }

    fn of(&mut self, object: u32) -> &mut Neighbours {
        slot(&mut self.neighbours, object as usize, ALONE)
    }
}

/// The ends of a list. Which objects it holds only its owner knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    front: u32,
    back: u32,
    len: u64,
}

impl Default for List {
    fn default() -> Self {
        Self { front: NOBODY, back: NOBODY, len: 0 }
    }
}

impl List {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn front(&self) -> Option<ObjectNo> {
        object(self.front)
    }

    pub fn back(&self) -> Option<ObjectNo> {
        object(self.back)
    }

    pub fn push_front(&mut self, links: &mut Links, ObjectNo(object): ObjectNo) {
        *links.of(object) = Neighbours { ahead: NOBODY, behind: self.front };
        match self.front {
            NOBODY => self.back = object,
            front => links.of(front).ahead = object,
        }
        self.front = object;
        self.len += 1;
    }

    pub fn push_back(&mut self, links: &mut Links, ObjectNo(object): ObjectNo) {
        *links.of(object) = Neighbours { ahead: self.back, behind: NOBODY };
        match self.back {
            NOBODY => self.front = object,
            back => links.of(back).behind = object,
        }
        self.back = object;
        self.len += 1;
    }

    /// Puts `object` directly behind `other`, which is in the list.
    pub fn insert_behind(&mut self, links: &mut Links, other: ObjectNo, object: ObjectNo) {
        let behind = links.of(other.0).behind;
        if behind == NOBODY {
            return self.push_back(links, object);
        }
        *links.of(object.0) = Neighbours { ahead: other.0, behind };
        links.of(other.0).behind = object.0;
        links.of(behind).ahead = object.0;
        self.len += 1;
    }

    pub fn remove(&mut self, links: &mut Links, object: ObjectNo) {
        let Neighbours { ahead, behind } = std::mem::replace(links.of(object.0), ALONE);
        match ahead {
            NOBODY => self.front = behind,
            ahead => links.of(ahead).behind = behind,
        }
        match behind {
            NOBODY => self.back = ahead,
            behind => links.of(behind).ahead = ahead,
        }
        self.len -= 1;
    }

    pub fn pop_back(&mut self, links: &mut Links) -> Option<ObjectNo> {
        let back = self.back()?;
        self.remove(links, back);
        Some(back)
    }

    pub fn move_to_front(&mut self, links: &mut Links, object: ObjectNo) {
        if self.front != object.0 {
            self.remove(links, object);
            self.push_front(links, object);
        }
    }

    /// Who stands directly before `object`.
    pub fn ahead_of(&self, links: &mut Links, object_no: ObjectNo) -> Option<ObjectNo> {
        object(links.of(object_no.0).ahead)
    }

    /// Who stands directly behind `object`.
    pub fn behind(&self, links: &mut Links, object_no: ObjectNo) -> Option<ObjectNo> {
        object(links.of(object_no.0).behind)
    }
}

fn object(number: u32) -> Option<ObjectNo> {
    (number != NOBODY).then_some(ObjectNo(number))
}
