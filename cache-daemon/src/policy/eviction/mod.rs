//! Which objects stay in a store that cannot hold them all.
//!
//! An [`Evictor`] is told every use of an object and answers whether it is in, may come in, and who has to go for
//! it. What is in, how large it is and what is pinned is kept once, by [`Residents`]; what differs from policy to
//! policy is the [`Order`], one file each, chosen by [`PolicyKind`]. The default is [`epoch`]; the others are what
//! users know from elsewhere, for comparison (`cachectl simulate`) and for choice.
//!
//! Everything is an array indexed by object number ([`ObjectNo`], the catalog's dense inode numbers): no hashing and
//! no pointers, so that a hundred million objects fit. Bytes an object number, sizes (4) included:
//!
//! | policy | bytes | |
//! |---|---:|---|
//! | no replacement | 4 | |
//! | SIEVE, S3-FIFO | 13 | two links, a byte of state |
//! | LRU, FIFO | 12 | two links |
//! | 2-random | 12 | and 4 an object that is in |
//! | epoch | 13 | and 9 once something is used that is no epoch, 4 once epochs are told ahead |
//! | Belady | 8 | and up to 16 an object that is in: a heap |
//!
//! Invariants
//! - Nobody comes in above the capacity; an object that is larger is refused.
//! - A pinned object is never a victim.
//! - A refusal evicts nothing.

pub mod belady;
pub mod epoch;
mod fifo;
mod links;
mod lru;
mod no_replacement;
pub mod residents;
mod s3fifo;
mod sieve;
mod two_random;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod oracle;

use std::fmt;
use std::str::FromStr;

pub use self::epoch::Objective;
pub use self::residents::Residents;

/// The number of an object: dense, from the catalog or from a trace. Below `u32::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectNo(pub u32);

impl ObjectNo {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of a data set that is read in epochs; the recogniser gives them out again when a set is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SetNo(pub u8);

impl SetNo {
    /// So many sets are told apart at a time, numbered from 0.
    pub const COUNT: usize = 64;
}

/// What a use is part of, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Reads every object of this set once in each epoch.
    Epoch(SetNo),
    /// Reads a part of this set in each epoch, another each time, as a rank does; after the present use next in the told
    /// epoch of that number, [`Pattern::NOT_TOLD`] if in none of them. Numbers do not go back.
    Due(SetNo, u32),
    /// Walks through objects one after the other and will not come back: `find`, `cp -r`, a checksum run.
    Scan,
    /// Anything else.
    General,
}

impl Pattern {
    /// No epoch that was told.
    pub const NOT_TOLD: u32 = u32::MAX;
}

/// One use of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Of this object.
    pub object: ObjectNo,
    /// Its size, the same at every use. An empty object counts as a byte.
    pub size_bytes: u64,
    /// When, on a clock that does not go back.
    pub now_ms: u64,
    /// What it is part of.
    pub pattern: Pattern,
    /// The position in the trace at which it will be used next, `u64::MAX` for never or unknown: only
    /// [`belady`] looks.
    pub next_use: u64,
}

/// What became of a use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touched {
    /// It was in.
    Hit,
    /// It was not; it is now, and the victims are not.
    Admitted,
    /// It was not and is not.
    Refused,
}

/// Who went for a newcomer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Victim {
    /// It is not in any more.
    pub object: ObjectNo,
    /// What it took.
    pub size_bytes: u64,
}

/// Who goes first: what makes a policy.
///
/// Called by [`Evictor`] only, which keeps what is in. An object is *linked* from `admitted` or `put_back` until
/// `victim` returns it or `forgotten` names it, and is resident during all of these calls.
pub trait Order: Send {
    /// An object was used that is not resident; whether it comes in follows.
    fn missed(&mut self, _access: &Access) {}

    /// A resident object was used.
    fn used(&mut self, access: &Access, residents: &Residents);

    /// Links an object that has just become resident.
    fn admitted(&mut self, access: &Access, residents: &Residents);

    /// Unlinks and returns who has to go for `newcomer`; none if `newcomer` has to stay out. Not a pinned one.
    fn victim(&mut self, newcomer: &Access, residents: &Residents) -> Option<ObjectNo>;

    /// Links a victim again, because its newcomer stays out after all: it goes first again. In the reverse order.
    fn put_back(&mut self, object: ObjectNo, residents: &Residents);

    /// Unlinks an object that is gone for another reason.
    fn forgotten(&mut self, object: ObjectNo, residents: &Residents);

    /// A resident object is known to be part of `pattern`, though it was not used.
    fn claimed(&mut self, _object: ObjectNo, _pattern: Pattern, _residents: &Residents) {}

    /// The job that read this set is over: it claims no room any more.
    fn retired(&mut self, _set: SetNo) {}

    /// Bytes of memory that it holds.
    fn memory_bytes(&self) -> usize;
}

/// A policy at work: what is in, and who goes next.
pub struct Evictor {
    residents: Residents,
    order: Box<dyn Order>,
}

impl Evictor {
    /// An empty cache of `capacity_bytes` under a policy.
    pub fn new(kind: PolicyKind, capacity_bytes: u64, rules: &Rules) -> Self {
        Self { residents: Residents::new(capacity_bytes), order: kind.order(rules) }
    }

    /// What is in.
    pub fn residents(&self) -> &Residents {
        &self.residents
    }

    /// Notes a use. `victims` is emptied and gets who is out now.
    pub fn touch(&mut self, access: &Access, victims: &mut Vec<Victim>) -> Touched {
        victims.clear();
        if self.residents.contains(access.object) {
            self.order.used(access, &self.residents);
            return Touched::Hit;
        }
        self.order.missed(access);
        if access.size_bytes.max(1) > self.residents.capacity_bytes() {
            return Touched::Refused;
        }
        while self.residents.room_bytes() < access.size_bytes.max(1) {
            let Some(victim) = self.order.victim(access, &self.residents) else {
                self.take_back(victims);
                return Touched::Refused;
            };
            assert!(!self.residents.is_pinned(victim), "{victim:?} is pinned");
            victims.push(Victim { object: victim, size_bytes: self.residents.remove(victim) });
        }
        self.residents.insert(access.object, access.size_bytes);
        assert!(self.residents.used_bytes() <= self.residents.capacity_bytes(), "above the capacity");
        self.order.admitted(access, &self.residents);
        Touched::Admitted
    }

    /// The newcomer needs more than may go: nobody goes.
    fn take_back(&mut self, victims: &mut Vec<Victim>) {
        while let Some(Victim { object, size_bytes }) = victims.pop() {
            self.residents.insert(object, size_bytes);
            self.order.put_back(object, &self.residents);
        }
    }

    /// Notes that an object is in whatever the policy would say: it was stored before, or the store took it. The
    /// capacity grows if it has to.
    pub fn insist(&mut self, access: &Access) {
        if !self.residents.contains(access.object) {
            let needed_bytes = self.residents.used_bytes() + access.size_bytes.max(1);
            self.set_capacity(needed_bytes.max(self.residents.capacity_bytes()));
            self.residents.insert(access.object, access.size_bytes);
            self.order.admitted(access, &self.residents);
        }
    }

    /// Sets what fits. More may be in than that; then newcomers have to make do with what they can displace.
    pub fn set_capacity(&mut self, capacity_bytes: u64) {
        self.residents.set_capacity(capacity_bytes);
    }

    /// An object is gone: dropped, replaced at the origin, damaged. Its pins go with it.
    pub fn forget(&mut self, object: ObjectNo) {
        if self.residents.contains(object) {
            self.order.forgotten(object, &self.residents);
            self.residents.remove(object);
        }
    }

    /// An object that is in belongs to `pattern`, whoever used it so far: what a restart finds has no history.
    pub fn claim(&mut self, object: ObjectNo, pattern: Pattern) {
        if self.residents.contains(object) {
            self.order.claimed(object, pattern, &self.residents);
        }
    }

    /// Nobody reads this set any more: it gives way at once to those in use.
    pub fn retire(&mut self, set: SetNo) {
        self.order.retired(set);
    }

    /// Keeps a resident object until it is unpinned as often; whether it is resident.
    pub fn pin(&mut self, object: ObjectNo) -> bool {
        self.residents.pin(object)
    }

    /// Takes one pin back.
    pub fn unpin(&mut self, object: ObjectNo) {
        self.residents.unpin(object);
    }

    /// Bytes of memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        self.residents.memory_bytes() + self.order.memory_bytes()
    }
}

/// What policies need to know beside the uses.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rules {
    /// What [`epoch`] saves.
    pub objective: Objective,
    /// For those that roll dice.
    pub seed: u64,
}

/// The policies by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PolicyKind {
    /// The default: [`epoch`].
    Epoch,
    /// What was used longest ago goes first.
    Lru,
    /// What came first goes first.
    Fifo,
    /// A small queue filters what is used once (Yang et al., SOSP 2023).
    S3Fifo,
    /// A hand that skips what was used since it last came by (Zhang et al., NSDI 2024).
    Sieve,
    /// Of two at random, the one used longer ago: JuiceFS's default.
    TwoRandom,
    /// Nothing goes.
    NoReplacement,
    /// What is used farthest in the future goes first, and stays out if that is the newcomer: [`belady`].
    Belady,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Epoch,
        Self::Lru,
        Self::Fifo,
        Self::S3Fifo,
        Self::Sieve,
        Self::TwoRandom,
        Self::NoReplacement,
        Self::Belady,
    ];

    /// How users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Lru => "lru",
            Self::Fifo => "fifo",
            Self::S3Fifo => "s3fifo",
            Self::Sieve => "sieve",
            Self::TwoRandom => "2-random",
            Self::NoReplacement => "none",
            Self::Belady => "belady",
        }
    }

    /// Whether it has to be told the future.
    pub fn is_offline(self) -> bool {
        self == Self::Belady
    }

    fn order(self, rules: &Rules) -> Box<dyn Order> {
        match self {
            Self::Epoch => Box::new(epoch::Epoch::new(rules.objective)),
            Self::Lru => Box::new(lru::Lru::default()),
            Self::Fifo => Box::new(fifo::Fifo::default()),
            Self::S3Fifo => Box::new(s3fifo::S3Fifo::default()),
            Self::Sieve => Box::new(sieve::Sieve::default()),
            Self::TwoRandom => Box::new(two_random::TwoRandom::new(rules.seed)),
            Self::NoReplacement => Box::new(no_replacement::NoReplacement),
            Self::Belady => Box::new(belady::Belady::default()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No policy is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no policy is called {name:?}: epoch, lru, fifo, s3fifo, sieve, 2-random, none, belady")]
pub struct UnknownPolicy {
    name: String,
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| UnknownPolicy { name: name.to_owned() })
    }
}

/// The value at `index`, for which `values` grows as far as it has to.
fn slot<T: Clone>(values: &mut Vec<T>, index: usize, empty: T) -> &mut T {
    if index >= values.len() {
        values.resize(index + 1, empty);
    }
    &mut values[index]
}
