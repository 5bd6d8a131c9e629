//! Rides: chunks that the store reads for a push, and the readers who ask for them meanwhile.
//!
//! A reader who comes while a push has its chunk read goes along with that, instead of having it read again: a push that
//! comes too late costs the device nothing then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::object::ExtentKey;

/// Chunks under way, each with those of `R` who go along.
#[derive(Debug)]
pub(super) struct Rides<R> {
    under_way: Mutex<HashMap<ExtentKey, Vec<R>>>,
    /// How many: while there are none, readers need no lock.
    count: AtomicUsize,
}

impl<R> Default for Rides<R> {
    fn default() -> Self {
        Self { under_way: Mutex::default(), count: AtomicUsize::new(0) }
    }
}

impl<R> Rides<R> {
    /// All of chunk `key` is going to be read, and [`Rides::end`] follows; false if it is under way already.
    pub fn begin(&self, key: ExtentKey) -> bool {
        let mut under_way = self.under_way.lock();
        let is_new = !under_way.contains_key(&key);
        if is_new {
            under_way.insert(key, Vec::new());
            self.count.store(under_way.len(), Relaxed);
        }
        is_new
    }

    /// Goes along with chunk `key`, or gives `rider` back if that is not under way.
    pub fn join(&self, key: &ExtentKey, rider: R) -> Result<(), R> {
        if self.count.load(Relaxed) == 0 {
            return Err(rider);
        }
        match self.under_way.lock().get_mut(key) {
            Some(riders) => {
                riders.push(rider);
                Ok(())
            }
            None => Err(rider),
        }
    }

    /// Chunk `key` has been read, or cannot be: who went along.
    pub fn end(&self, key: &ExtentKey) -> Vec<R> {
        let mut under_way = self.under_way.lock();
        let riders = under_way.remove(key).unwrap_or_default();
        self.count.store(under_way.len(), Relaxed);
        riders
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Fingerprint;

    #[test]
    fn who_comes_while_a_chunk_is_under_way_goes_along_and_nobody_else() {
        let rides = Rides::default();
        let key = |chunk| ExtentKey { object: Fingerprint([1; 16]), chunk };
        assert_eq!(rides.join(&key(0), "early"), Err("early"));
        assert!(rides.begin(key(0)) && !rides.begin(key(0)));
        assert_eq!(rides.join(&key(1), "elsewhere"), Err("elsewhere"));
        assert_eq!((rides.join(&key(0), "first"), rides.join(&key(0), "second")), (Ok(()), Ok(())));
        assert_eq!(rides.end(&key(0)), ["first", "second"]);
        assert_eq!(rides.join(&key(0), "late"), Err("late"));
        assert!(rides.begin(key(0)));
    }
}
