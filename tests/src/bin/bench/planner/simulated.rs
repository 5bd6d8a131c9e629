//! The readings of a bed, played through the daemon's own policies: the same files in the same orders.
//!
//! As `cachectl simulate` does, but that the store may refuse some of what the policy lets in, as it does while it empties a segment.

use cache_daemon::policy::eviction::{Access, Evictor, ObjectNo, Pattern, PolicyKind, Rules, SetNo, Touched};
use epochcache_tests::bed::reader::permutation;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Epochs 1 to `epochs` of files of these sizes; those from `from` on count.
pub struct Epochs<'a> {
    pub sizes_bytes: &'a [u64],
    pub epochs: u32,
    pub from: u32,
}

impl Epochs<'_> {
    /// The share of the bytes that `policy` hits in a cache of `cache_bytes`, of which the store refuses the share `refused` of
    /// what is let in.
    pub fn hit_ratio(&self, policy: PolicyKind, cache_bytes: u64, refused: f64) -> f64 {
        let mut evictor = Evictor::new(policy, cache_bytes, &Rules::default());
        let (mut victims, mut dice) = (Vec::new(), StdRng::seed_from_u64(1));
        let (mut hit_bytes, mut read_bytes) = (0, 0);
        for epoch in 1..=self.epochs {
            for number in permutation(self.sizes_bytes.len(), 1, epoch.into()) {
                let (object, size_bytes) = (ObjectNo(number as u32), self.sizes_bytes[number]);
                let pattern = Pattern::Epoch(SetNo(0));
                let access = Access { object, size_bytes, now_ms: 0, pattern, next_use: u64::MAX };
                let touched = evictor.touch(&access, &mut victims);
                if touched == Touched::Admitted && dice.random_bool(refused) {
                    // Who went for it is gone all the same.
                    evictor.forget(object);
                }
                if epoch >= self.from {
                    read_bytes += size_bytes;
                    hit_bytes += if touched == Touched::Hit { size_bytes } else { 0 };
                }
            }
        }
        hit_bytes as f64 / read_bytes as f64
    }
}
