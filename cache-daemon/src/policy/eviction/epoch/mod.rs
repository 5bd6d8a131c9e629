//! Ours: what a set that is read in epochs has in the cache stays there.
//!
//! Why that is the best possible is proved in docs/epoch-model.md. What is in belongs to a *class*: one for each set
//! that is read in epochs, one for scans, one for everything else. Who goes for a newcomer, in this order:
//!
//! 1. Scans, first come first gone. A scan itself only takes what is free.
//! 2. Of the class that is farthest above its *share*, while the newcomer's class is below its own. Shares are in
//!    proportion to the bytes that classes read lately ([`shares`]): of two jobs that run at the same time, one that
//!    reads twice as fast gets twice the room, and a set that nobody reads any more gives way to those in use.
//!    A set gives what was used last: of what is read once an epoch, that is what is next used last.
//! 3. Of the newcomer's own class: in a set, larger objects go for smaller ones where the origin's requests are what
//!    is short ([`Objective::Requests`]); where orders of epochs ahead are told that read parts of the set
//!    ([`Pattern::Due`]), what is read in a later epoch than the newcomer, or in none of them; and nothing goes otherwise.
//!    Everything else is S3-FIFO among itself.
//!
//! The third is Belady's rule by epochs instead of places: it hits as much to a thousandth (docs/epoch-model.md), and leaves
//! alone whom the exact one would exchange within an epoch, for holes in segments.
//!
//! So one set alone is never replaced, and a cache without sets is S3-FIFO.

mod set;
mod shares;

#[cfg(test)]
mod tests;

use self::set::Set;
use self::shares::Shares;
use super::links::{Links, List};
use super::s3fifo::S3Fifo;
use super::{Access, ObjectNo, Order, Pattern, Residents, SetNo, slot};

/// What the cache saves most of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Objective {
    /// Bytes from the origin: every byte of a set is worth the same.
    #[default]
    Bytes,
    /// Requests to the origin. An object of `s` bytes saves (latency + s / bandwidth) / s of time a byte kept, which
    /// is more the smaller it is, whatever the two are: so small objects come first.
    Requests,
}

/// Which class an object is linked in: a number for [`Shares`] and for the table of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Class(u8);

impl Class {
    const NONE: Self = Self(0);
    const SCAN: Self = Self(1);
    const GENERAL: Self = Self(2);
    const FIRST_SET: u8 = 3;
    const COUNT: usize = Self::FIRST_SET as usize + SetNo::COUNT;

    fn of_set(set: SetNo) -> Self {
        assert!(usize::from(set.0) < SetNo::COUNT, "{set:?}");
        Self(Self::FIRST_SET + set.0)
    }

    fn of(pattern: Pattern) -> Self {
        match pattern {
            Pattern::Scan => Self::SCAN,
            Pattern::General => Self::GENERAL,
            Pattern::Epoch(set) | Pattern::Due(set, _) => Self::of_set(set),
        }
    }

    fn set_index(self) -> Option<usize> {
        self.0.checked_sub(Self::FIRST_SET).map(usize::from)
    }
}

/// The policy.
pub struct Epoch {
    objective: Objective,
    /// Of scans and sets; [`S3Fifo`] has its own.
    links: Links,
    classes: Vec<Class>,
    /// The told epochs in which objects are read next; empty until one is told.
    dues: Vec<u32>,
    shares: Shares,
    scans: List,
    scan_bytes: u64,
    general: S3Fifo,
    sets: Vec<Set>,
    /// The classes of the victims of the present newcomer.
    gone: Vec<Class>,
}

impl Epoch {
    pub(super) fn new(objective: Objective) -> Self {
        Self {
            objective,
            links: Links::default(),
            classes: Vec::new(),
            dues: Vec::new(),
            shares: Shares::default(),
            scans: List::default(),
            scan_bytes: 0,
            general: S3Fifo::default(),
            sets: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn class_of(&self, object: ObjectNo) -> Class {
        self.classes.get(object.index()).copied().unwrap_or(Class::NONE)
    }

    fn due_of(&self, object: ObjectNo) -> u32 {
        self.dues.get(object.index()).copied().unwrap_or(Pattern::NOT_TOLD)
    }

    /// Notes when an object that is not linked is due.
    fn set_due(&mut self, object: ObjectNo, pattern: Pattern) {
        match pattern {
            Pattern::Due(_, due) => *slot(&mut self.dues, object.index(), Pattern::NOT_TOLD) = due,
            _ if self.due_of(object) != Pattern::NOT_TOLD => self.dues[object.index()] = Pattern::NOT_TOLD,
            _ => {}
        }
    }

    fn bytes_of(&self, class: Class) -> u64 {
        match (class, class.set_index()) {
            (_, Some(set)) => self.sets.get(set).map_or(0, Set::bytes),
            (Class::SCAN, _) => self.scan_bytes,
            _ => self.general.bytes(),
        }
    }

    fn link(&mut self, object: ObjectNo, size_bytes: u64, class: Class) {
        let due = self.due_of(object);
        *slot(&mut self.classes, object.index(), Class::NONE) = class;
        match (class, class.set_index()) {
            (_, Some(set)) => {
                while self.sets.len() <= set {
                    self.sets.push(Set::new(self.objective));
                }
                self.sets[set].link(&mut self.links, object, (size_bytes, due));
            }
            (Class::SCAN, _) => {
                self.scan_bytes += size_bytes;
                self.scans.push_front(&mut self.links, object);
            }
            _ => self.general.link(object, size_bytes),
        }
    }

    fn unlink(&mut self, object: ObjectNo, size_bytes: u64) {
        let class = std::mem::replace(&mut self.classes[object.index()], Class::NONE);
        let due = self.due_of(object);
        match (class, class.set_index()) {
            (_, Some(set)) => self.sets[set].unlink(&mut self.links, object, (size_bytes, due)),
            (Class::SCAN, _) => {
                self.scan_bytes -= size_bytes;
                self.scans.remove(&mut self.links, object);
            }
            (Class::GENERAL, _) => self.general.unlink(object, size_bytes),
            _ => unreachable!("only what is linked is unlinked"),
        }
    }

    fn count(&mut self, access: &Access) {
        if access.pattern != Pattern::Scan {
            self.shares.read(Class::of(access.pattern), access.size_bytes.max(1), access.now_ms);
        }
    }

    /// Unlinks and returns the oldest of the scans.
    fn scanned(&mut self, residents: &Residents) -> Option<(Class, ObjectNo)> {
        let mut next = self.scans.back();
        while let Some(object) = next {
            if !residents.is_pinned(object) {
                self.unlink(object, size_of_resident(object, residents));
                return Some((Class::SCAN, object));
            }
            next = self.scans.ahead_of(&mut self.links, object);
        }
        None
    }

    /// Somebody of the class that is farthest above its share, for one of `class` if that is below its own.
    fn ceded(&mut self, class: Class, size_bytes: u64, residents: &Residents) -> Option<(Class, ObjectNo)> {
        let capacity_bytes = residents.capacity_bytes();
        if !self.shares.may_grow(class, self.bytes_of(class) + size_bytes, capacity_bytes) {
            return None;
        }
        let others = (Class::GENERAL.0..Class::FIRST_SET + self.sets.len() as u8).map(Class);
        let (giver, above_bytes) = others
            .filter(|other| *other != class)
            .map(|other| (other, self.shares.above(other, self.bytes_of(other), capacity_bytes)))
            .max_by(|one, other| one.1.total_cmp(&other.1))?;
        if above_bytes <= 0.0 { None } else { self.given_by(giver, residents) }
    }

    /// Unlinks and returns whom a class gives, when it gives.
    fn given_by(&mut self, class: Class, residents: &Residents) -> Option<(Class, ObjectNo)> {
        let Some(set) = class.set_index() else {
            let object = self.general.next_victim(residents)?;
            self.classes[object.index()] = Class::NONE;
            return Some((class, object));
        };
        let object = self.sets[set].latest(&mut self.links, residents)?;
        self.unlink(object, size_of_resident(object, residents));
        Some((class, object))
    }

    /// Somebody of the newcomer's own class.
    fn own(&mut self, class: Class, newcomer: &Access, residents: &Residents) -> Option<(Class, ObjectNo)> {
        let Some(set) = class.set_index() else { return self.given_by(class, residents) };
        let due = if let Pattern::Due(_, due) = newcomer.pattern { due } else { Pattern::NOT_TOLD };
        let worth = (newcomer.size_bytes.max(1), due);
        let less = self.sets.get(set)?.worth_less_than(worth, &mut self.links, residents)?;
        self.unlink(less, size_of_resident(less, residents));
        Some((class, less))
    }
}

impl Order for Epoch {
    fn missed(&mut self, access: &Access) {
        self.gone.clear();
        self.count(access);
    }

    fn used(&mut self, access: &Access, residents: &Residents) {
        if access.pattern == Pattern::Scan {
            return;
        }
        self.count(access);
        let (class, object) = (Class::of(access.pattern), access.object);
        match (self.class_of(object) == class, class.set_index()) {
            (false, _) => self.claimed(object, access.pattern, residents),
            (true, Some(set)) => {
                let (size_bytes, due) = (access.size_bytes.max(1), self.due_of(object));
                self.sets[set].unlink(&mut self.links, object, (size_bytes, due));
                self.set_due(object, access.pattern);
                let due = self.due_of(object);
                self.sets[set].link(&mut self.links, object, (size_bytes, due));
            }
            (true, None) => self.general.count_use(object),
        }
    }

    fn admitted(&mut self, access: &Access, _: &Residents) {
        self.set_due(access.object, access.pattern);
        self.link(access.object, access.size_bytes.max(1), Class::of(access.pattern));
    }

    fn victim(&mut self, newcomer: &Access, residents: &Residents) -> Option<ObjectNo> {
        let (class, size_bytes) = (Class::of(newcomer.pattern), newcomer.size_bytes.max(1));
        if class == Class::SCAN {
            return None;
        }
        let (of, object) = self
            .scanned(residents)
            .or_else(|| self.ceded(class, size_bytes, residents))
            .or_else(|| self.own(class, newcomer, residents))?;
        self.gone.push(of);
        Some(object)
    }

    fn put_back(&mut self, object: ObjectNo, residents: &Residents) {
        let size_bytes = size_of_resident(object, residents);
        match self.gone.pop().expect("victims come back in the reverse order") {
            Class::GENERAL => {
                self.classes[object.index()] = Class::GENERAL;
                self.general.relink(object, size_bytes);
            }
            Class::SCAN => {
                self.classes[object.index()] = Class::SCAN;
                self.scan_bytes += size_bytes;
                self.scans.push_back(&mut self.links, object);
            }
            set => self.link(object, size_bytes, set),
        }
    }

    fn forgotten(&mut self, object: ObjectNo, residents: &Residents) {
        self.unlink(object, size_of_resident(object, residents));
    }

    fn claimed(&mut self, object: ObjectNo, pattern: Pattern, residents: &Residents) {
        let class = Class::of(pattern);
        // Where it is already it keeps its place.
        if self.class_of(object) != class {
            let size_bytes = size_of_resident(object, residents);
            self.unlink(object, size_bytes);
            self.set_due(object, pattern);
            self.link(object, size_bytes, class);
        }
    }

    fn retired(&mut self, set: SetNo) {
        self.shares.clear(Class::of_set(set));
    }

    fn memory_bytes(&self) -> usize {
        self.links.memory_bytes()
            + self.general.memory()
            + self.classes.capacity()
            + self.dues.capacity() * size_of::<u32>()
    }
}

fn size_of_resident(object: ObjectNo, residents: &Residents) -> u64 {
    residents.size_bytes(object).expect("a linked object is resident")
}
