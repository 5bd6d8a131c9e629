//! Space: what the backing files of a volume may take, in segments that its pool has lent them.
//!
//! The limit is held by the file of segments, whose blocks are all allocated. A file can have what a free
//! segment gives up: its blocks are punched out, and the same number of bytes is *credit* here. So there
//! is one account, and nothing that has to be held back for files that do not exist.
//!
//! Invariants
//! - Charges never exceed the credit of lent segments: a charge is made before the blocks are taken, and
//!   is given back after they were freed, which for a file that is unlinked and still open is its last close.
//! - A segment leaves here only if what is left covers the charges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// See the head of the module.
#[derive(Debug)]
pub struct Space {
    segment_bytes: u64,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// Without blocks of their own.
    lent: Vec<u32>,
    charged_bytes: u64,
}

/// Bytes that somebody has; given back on drop.
#[derive(Debug)]
pub struct Charge {
    space: Arc<Space>,
    bytes: AtomicU64,
}

impl Space {
    /// The credit of `lent` segments of `segment_bytes`, and nothing charged.
    pub fn new(segment_bytes: u32, lent: Vec<u32>) -> Arc<Self> {
        let account = Account { lent, charged_bytes: 0 };
        Arc::new(Self { segment_bytes: u64::from(segment_bytes), account: Mutex::new(account) })
    }

    /// Takes `bytes` if the credit covers them.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        self.take(bytes).then(|| Charge { space: self.clone(), bytes: AtomicU64::new(bytes) })
    }

    /// How many more segments it takes to cover `bytes` more.
    pub fn lacking(&self, bytes: u64) -> u32 {
        let account = self.account.lock();
        let wanted = (account.charged_bytes + bytes).div_ceil(self.segment_bytes);
        u32::try_from(wanted.saturating_sub(account.lent.len() as u64)).unwrap_or(u32::MAX)
    }

    /// A segment was lent; it has no blocks any more.
    pub fn lend(&self, segment: u32) {
        self.account.lock().lent.push(segment);
    }

    /// Takes a segment out that is not needed. One that is not needed by less than a whole segment stays,
    /// so that a file that follows another does not cost a hole and its filling.
    pub fn give_back(&self) -> Option<u32> {
        let mut account = self.account.lock();
        let slack = if account.charged_bytes == 0 { 1 } else { 2 };
        let credit = account.lent.len() as u64 * self.segment_bytes;
        if credit < account.charged_bytes + slack * self.segment_bytes {
            return None;
        }
        account.lent.pop()
    }

    /// Bytes charged.
    pub fn charged_bytes(&self) -> u64 {
        self.account.lock().charged_bytes
    }

    /// Segments lent.
    pub fn lent(&self) -> u32 {
        self.account.lock().lent.len() as u32
    }

    /// The most that could be charged without another segment.
    pub fn room_bytes(&self) -> u64 {
        let account = self.account.lock();
        (account.lent.len() as u64 * self.segment_bytes).saturating_sub(account.charged_bytes)
    }

    fn take(&self, bytes: u64) -> bool {
        let mut account = self.account.lock();
        let fits = account.charged_bytes + bytes <= account.lent.len() as u64 * self.segment_bytes;
        if fits {
            account.charged_bytes += bytes;
        }
        fits
    }

    fn put(&self, bytes: u64) {
        self.account.lock().charged_bytes -= bytes;
    }
}

impl Charge {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Makes it `bytes`: less always, more if the credit covers it.
    pub fn set(&self, bytes: u64) -> bool {
        let now = self.bytes();
        if bytes > now && !self.space.take(bytes - now) {
            return false;
        }
        self.space.put(now.saturating_sub(bytes));
        self.bytes.store(bytes, Relaxed);
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.space.put(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Charge(u64),
        Set(u64),
        Drop,
        Lend,
        GiveBack,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1..900u64).prop_map(Step::Charge),
            2 => (1..900u64).prop_map(Step::Set),
            3 => Just(Step::Drop),
            2 => Just(Step::Lend),
            3 => Just(Step::GiveBack),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn charges_are_always_covered_and_nothing_is_kept(steps in steps()) {
            let space = Space::new(256, Vec::new());
            let (mut charges, mut lent, mut next) = (Vec::<Charge>::new(), 0u64, 0);
            for step in steps {
                match step {
                    Step::Charge(bytes) => {
                        let room = space.room_bytes();
                        let charge = space.charge(bytes);
                        prop_assert_eq!(charge.is_some(), bytes <= room);
                        prop_assert_eq!(charge.is_some() || space.lacking(bytes) > 0, true);
                        charges.extend(charge);
                    }
                    Step::Set(bytes) => if let Some(charge) = charges.last() {
                        let room = space.room_bytes() + charge.bytes();
                        prop_assert_eq!(charge.set(bytes), bytes <= room);
                    },
                    Step::Drop => drop(charges.pop()),
                    Step::Lend => {
                        space.lend(next);
                        next += 1;
                        lent += 1;
                    }
                    Step::GiveBack => lent -= u64::from(space.give_back().is_some()),
                }
                let charged: u64 = charges.iter().map(Charge::bytes).sum();
                prop_assert_eq!((space.charged_bytes(), u64::from(space.lent())), (charged, lent));
                prop_assert!(charged <= lent * 256);
            }
            charges.clear();
            while space.give_back().is_some() {}
            prop_assert_eq!((space.charged_bytes(), space.lent()), (0, 0));
        }
    }
}
