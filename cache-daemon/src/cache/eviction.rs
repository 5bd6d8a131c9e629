//! Eviction: the policy's decisions, carried out on the store.
//!
//! The policy ([`crate::policy::eviction`]) is told of what is fetched and of what the store answers, and names who
//! has to go; here they are forgotten. It begins without a limit: how much the store really holds, with its
//! padding, its reserve and its holes, is known when it first refuses. From then on the limit follows its refusals,
//! and creeps up again while it takes what it is given. The store has the last word in both directions: what it
//! refuses is not in, and what it takes is, whatever the policy said.
//!
//! Victims leave holes, and the store fills a hole only when its segment is emptied, which it does from a quarter of
//! holes on (`store/writer/moving.rs`): so the limit never falls below 3/4 of what was in at first, at which there is
//! such a segment.
//!
//! What a reading is part of, only the planner knows ([`Eviction::recognise`]). Until it says so, everything is one set
//! that is read in epochs, and nothing is replaced.

use std::sync::Arc;
use std::time::Instant;

use fuse_frontend::source::Ino;
use parking_lot::{Mutex, RwLock};

use super::{Cache, Deed};
use crate::object::{CHUNK_BYTES, ExtentKey, Object};
use crate::policy::eviction::{
    Access, Evictor, ObjectNo, Pattern, PolicyKind, Rules, SetNo, Touched, Victim,
};
use crate::store::layout::extent_bytes;

/// What files are part of, for now.
pub type Patterns = Arc<dyn Fn(Ino) -> Pattern + Send + Sync>;

/// A limit that is below what was in when the store first refused grows by this part of what is stored: holes
/// are filled slowly enough that one in sixteen appends at most is refused for it.
const GROWTH_PART: u64 = 16;

/// Who is in, by the policy's account.
pub struct Eviction {
    /// None: nothing is ever replaced.
    state: Option<Mutex<State>>,
    patterns: RwLock<Patterns>,
    began: Instant,
}

struct State {
    evictor: Evictor,
    victims: Vec<Victim>,
    /// The most that was in when the store refused something.
    full_bytes: u64,
}

impl Eviction {
    /// An empty account under `policy`, which goes by `rules`.
    pub(super) fn new(policy: PolicyKind, rules: &Rules) -> Self {
        let state =
            || State { evictor: Evictor::new(policy, u64::MAX, rules), victims: Vec::new(), full_bytes: 0 };
        let everything = |_| Pattern::Epoch(SetNo(0));
        Self {
            state: (policy != PolicyKind::NoReplacement).then(|| Mutex::new(state())),
            patterns: RwLock::new(Arc::new(everything)),
            began: Instant::now(),
        }
    }

    /// From now on files are part of what `patterns` says, those that are in too. A walk changes nothing for these:
    /// who is in was used by others.
    pub fn recognise(&self, patterns: Patterns) {
        self.expect(patterns.clone());
        let Some(state) = &self.state else { return };
        let objects = state.lock().evictor.residents().objects();
        for object in objects.map(ObjectNo) {
            let pattern = patterns(ino(object));
            if pattern != Pattern::Scan {
                // Locked one by one: readers are not to wait for all of them.
                state.lock().evictor.claim(object, pattern);
            }
        }
    }

    /// From now on uses are part of what `patterns` says. Who is in keeps its place until it is used.
    pub fn expect(&self, patterns: Patterns) {
        *self.patterns.write() = patterns;
    }

    /// The job that read this set is over.
    pub fn retire(&self, set: SetNo) {
        if let Some(state) = &self.state {
            state.lock().evictor.retire(set);
        }
    }

    /// Nothing of it is stored any more.
    pub fn forget(&self, ino: Ino) {
        if let (Some(state), Some(object)) = (&self.state, number(ino)) {
            state.lock().evictor.forget(object);
        }
    }

    /// A reader got a part of it from the store. Not noted if somebody else is at it: recency is no promise.
    pub(super) fn used(&self, ino: Ino, object: &Object) {
        let Some(access) = self.access(ino, object) else { return };
        let Some(mut state) = self.state.as_ref().and_then(Mutex::try_lock) else { return };
        let State { evictor, victims, .. } = &mut *state;
        if evictor.residents().contains(access.object) {
            evictor.touch(&access, victims);
        }
    }

    /// Who goes for a part of `object` that is about to be stored.
    fn victims_for(&self, ino: Ino, object: &Object) -> Vec<Victim> {
        let Some(access) = self.access(ino, object) else { return Vec::new() };
        let Some(state) = &self.state else { return Vec::new() };
        let State { evictor, victims, .. } = &mut *state.lock();
        // A further part of a large object is no further use of it.
        if evictor.residents().contains(access.object) {
            return Vec::new();
        }
        match evictor.touch(&access, victims) {
            Touched::Admitted => victims.clone(),
            Touched::Hit | Touched::Refused => Vec::new(),
        }
    }

    /// The store has it, or a part of it.
    fn stored(&self, ino: Ino, object: &Object) {
        let Some(access) = self.access(ino, object) else { return };
        let Some(state) = &self.state else { return };
        let State { evictor, full_bytes, .. } = &mut *state.lock();
        evictor.insist(&access);
        let limit_bytes = evictor.residents().capacity_bytes();
        if limit_bytes < *full_bytes {
            evictor.set_capacity(limit_bytes + access.size_bytes / GROWTH_PART);
        }
    }

    /// The store was full, and has nothing of it, or (`in_part`) not all.
    fn refused(&self, ino: Ino, in_part: bool) {
        let (Some(state), Some(object)) = (&self.state, number(ino)) else { return };
        let State { evictor, full_bytes, .. } = &mut *state.lock();
        if !in_part {
            evictor.forget(object);
        }
        let used_bytes = evictor.residents().used_bytes();
        *full_bytes = used_bytes.max(*full_bytes);
        evictor.set_capacity(used_bytes.max(*full_bytes / 4 * 3));
    }

    fn access(&self, ino: Ino, object: &Object) -> Option<Access> {
        self.state.as_ref()?;
        Some(Access {
            object: number(ino)?,
            size_bytes: stored_bytes(object),
            now_ms: self.began.elapsed().as_millis() as u64,
            pattern: self.patterns.read()(ino),
            next_use: u64::MAX,
        })
    }
}

impl Cache {
    /// The policy's account of what is in.
    pub fn eviction(&self) -> &Eviction {
        &self.eviction
    }

    /// Forgets who has to go for a part of `object` that is about to be stored.
    pub(super) fn make_room(&self, ino: Ino, object: &Object) {
        for victim in self.eviction.victims_for(ino, object) {
            // What the catalog no longer has is forgotten with the rest of what the data set lost.
            let gone = self::ino(victim.object);
            let Some(object) = self.catalog.object(gone) else { continue };
            self.store.forget(&object.fingerprint, object.chunks());
            self.journal.note(gone, 0, victim.size_bytes, Deed::Evicted);
            self.figures.evicted.increment();
            self.figures.evicted_bytes.add(victim.size_bytes);
        }
    }

    /// A part of node `ino` was stored, or refused because the store was full.
    pub(super) fn settled(&self, ino: Ino, stored: bool, full: bool) {
        let Some(object) = self.catalog.object(ino) else { return };
        if stored {
            self.eviction.stored(ino, &object);
        } else if full {
            self.eviction.refused(ino, self.has_some(&object));
        } else {
            // The device failed, or has no time: nothing is learned of its room.
            if !self.has_some(&object) {
                self.eviction.forget(ino);
            }
        }
    }

    /// Takes into account what is stored from before. Looks at every object of the catalog: not for a thread that
    /// readers wait for.
    pub fn know_what_is_stored(&self) {
        if self.eviction.state.is_none() {
            return;
        }
        self.catalog.fingerprints(&mut |ino, _| {
            if let Some(object) = self.catalog.object(ino).filter(|object| self.has_some(object)) {
                self.eviction.stored(ino, &object);
            }
        });
    }

    fn has_some(&self, object: &Object) -> bool {
        let key = |chunk| ExtentKey { object: object.fingerprint, chunk };
        (0..object.chunks()).any(|chunk| self.store.contains(&key(chunk)).is_some())
    }
}

/// What the object takes on disk.
fn stored_bytes(object: &Object) -> u64 {
    let (whole, rest) = (object.size_bytes / CHUNK_BYTES, (object.size_bytes % CHUNK_BYTES) as u32);
    let rest = if rest == 0 { 0 } else { extent_bytes(rest) };
    whole * u64::from(extent_bytes(CHUNK_BYTES as u32)) + u64::from(rest)
}

/// Nodes beyond 2^32 are not accounted for: they stay as long as their segment.
fn number(ino: Ino) -> Option<ObjectNo> {
    u32::try_from(ino.0).ok().filter(|number| *number != u32::MAX).map(ObjectNo)
}

fn ino(object: ObjectNo) -> Ino {
    Ino(object.0.into())
}
