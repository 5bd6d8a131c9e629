//! `cachectl verify`: reads everything that is stored and checks it, at a bounded rate.
//!
//! It is the store's scrub, told to a client: what is wrong is forgotten, and fetched again when it is wanted.

use crate::control::VerifyProgress;
use crate::store::{Scrubbed, Store};

/// Half of what a SATA drive reads: leaves room for the readers.
const RATE_BYTES_PER_S: u64 = 256 << 20;

/// Verifies all that is in `store`, at `rate_bytes_per_s` at most, and hands `report` the progress every
/// second, and at the end with `done`. Stops when `report` says that nobody listens.
pub fn verify(store: &Store, rate_bytes_per_s: Option<u64>, report: &mut dyn FnMut(&VerifyProgress) -> bool) {
    let mut total_bytes = 0;
    store.for_each_extent(&mut |_, len| total_bytes += u64::from(len));
    let mut tell = |found: &Scrubbed, done| {
        report(&VerifyProgress {
            extents: found.extents + found.corrupt + found.failed,
            bytes: found.bytes,
            total_bytes,
            bad_extents: found.corrupt + found.failed,
            done,
        })
    };
    let rate = rate_bytes_per_s.unwrap_or(RATE_BYTES_PER_S);
    if let Some(found) = store.scrub(rate, &mut |found| tell(found, false)) {
        tell(&found, true);
    }
}
