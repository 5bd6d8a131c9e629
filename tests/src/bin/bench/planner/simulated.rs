//! The readings of a bed, for the simulator: the same files in the same orders, by the daemon's own policies.

use cache_daemon::policy::eviction::{ObjectNo, Pattern, PolicyKind, Rules, SetNo};
use cache_daemon::simulate::origin::Model;
use cache_daemon::simulate::run::{self, Case, Progress, Settings};
use cache_daemon::simulate::{Trace, TraceError, Use};
use epochcache_tests::bed::reader::permutation;

/// What the origin does with time matters to nobody here.
pub const MODEL: Model = Model {
    latency_s: 0.0,
    bandwidth_bytes_per_s: f64::INFINITY,
    requests_per_s: f64::INFINITY,
    files_per_s: f64::INFINITY,
    readers: 8,
    ahead: None,
};

/// Epochs 1 to `epochs` of files of these sizes.
pub struct Epochs<'a> {
    pub sizes_bytes: &'a [u64],
    pub epochs: u32,
}

impl Epochs<'_> {
    /// The share of the bytes that `policy` hits in a cache of `cache_bytes`, from epoch `from` on.
    pub fn hit_ratio(&self, policy: PolicyKind, cache_bytes: u64, from: u32) -> anyhow::Result<f64> {
        let settings = Settings { rules: Rules::default(), model: MODEL, from_epoch: from - 1 };
        let case = Case { policy, cache_bytes };
        Ok(run::run(self, case, &settings, &Progress::default())?.byte_hit_ratio())
    }
}

impl Trace for Epochs<'_> {
    fn objects(&self) -> u32 {
        self.sizes_bytes.len() as u32
    }

    fn uses(&self) -> u64 {
        self.sizes_bytes.len() as u64 * u64::from(self.epochs)
    }

    fn data_set_bytes(&self) -> u64 {
        self.sizes_bytes.iter().sum()
    }

    fn epochs(&self) -> u32 {
        self.epochs
    }

    fn is_exactly_once(&self) -> bool {
        true
    }

    fn replay(&self, _: bool, f: &mut dyn FnMut(&Use) -> bool) -> Result<(), TraceError> {
        let mut position = 0;
        for epoch in 0..self.epochs {
            for number in permutation(self.sizes_bytes.len(), 1, u64::from(epoch) + 1) {
                let (object, size_bytes) = (ObjectNo(number as u32), self.sizes_bytes[number]);
                let pattern = Pattern::Epoch(SetNo(0));
                if !f(&Use { position, epoch, object, size_bytes, pattern, next_use: 0, at_ms: None }) {
                    return Ok(());
                }
                position += 1;
            }
        }
        Ok(())
    }
}
