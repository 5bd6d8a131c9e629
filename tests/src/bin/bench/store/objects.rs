//! What is stored: objects with contents that can be told apart, cut into chunks as the daemon does.

use bytes::Bytes;
use cache_daemon::object::{CHUNK_BYTES, ExtentKey, Fingerprint};
use cache_daemon::store::layout::extent_bytes;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, LogNormal};

/// Contents begin anywhere in so many bytes of noise: a power of two.
const BEGINNINGS: u64 = 8 << 20;

/// Objects and their chunks, numbered.
pub struct Objects {
    items: Vec<Item>,
    /// Chunks of each object; 1 if they differ.
    chunks: u64,
    noise: Bytes,
}

/// One chunk.
#[derive(Clone, Copy, Debug)]
struct Item {
    object: u32,
    chunk: u32,
    object_bytes: u64,
}

impl Objects {
    /// As many objects of `object_bytes` as fit in `total_bytes` on disk.
    pub fn equal(object_bytes: u64, total_bytes: u64) -> Self {
        let chunks = object_bytes.div_ceil(CHUNK_BYTES);
        let padding = u64::from(extent_bytes(1));
        let objects = total_bytes / (object_bytes + chunks * padding);
        let items = (0..objects as u32)
            .flat_map(|object| (0..chunks as u32).map(move |chunk| Item { object, chunk, object_bytes }));
        Self { items: items.collect(), chunks, noise: noise() }
    }

    /// Objects of one chunk and different sizes, as photographs have them: lognormal, mean 110 KiB.
    pub fn random(total_bytes: u64) -> Self {
        const SIGMA: f64 = 0.7;
        // The mean of a lognormal distribution is exp(mu + sigma^2 / 2).
        let mu = (110.0 * 1024.0_f64).ln() - SIGMA * SIGMA / 2.0;
        let sizes = LogNormal::new(mu, SIGMA).expect("sigma is finite");
        let mut random = SmallRng::seed_from_u64(3);
        let (mut items, mut bytes) = (Vec::new(), 0);
        for object in 0.. {
            let object_bytes = (sizes.sample(&mut random) as u64).clamp(1, CHUNK_BYTES);
            bytes += u64::from(extent_bytes(object_bytes as u32));
            if bytes > total_bytes {
                break;
            }
            items.push(Item { object, chunk: 0, object_bytes });
        }
        Self { items, chunks: 1, noise: noise() }
    }

    /// Chunks of all objects.
    pub fn items(&self) -> u64 {
        self.items.len() as u64
    }

    /// How many objects there are.
    pub fn objects(&self) -> u64 {
        self.items() / self.chunks
    }

    /// Chunks of each object.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Bytes on disk of all chunks, as extents.
    pub fn extent_bytes(&self) -> u64 {
        (0..self.items()).map(|item| u64::from(extent_bytes(self.item_bytes(item)))).sum()
    }

    /// Bytes of all objects.
    pub fn data_bytes(&self) -> u64 {
        (0..self.items()).map(|item| u64::from(self.item_bytes(item))).sum()
    }

    /// What a chunk is called.
    pub fn key(&self, item: u64) -> ExtentKey {
        let Item { object, chunk, .. } = self.items[item as usize];
        let low = scrambled(u64::from(object));
        let fingerprint = u128::from(low) | u128::from(scrambled(low)) << 64;
        ExtentKey { object: Fingerprint(fingerprint.to_le_bytes()), chunk }
    }

    /// Bytes of the object that a chunk is of.
    pub fn object_bytes(&self, item: u64) -> u64 {
        self.items[item as usize].object_bytes
    }

    /// Bytes of a chunk.
    pub fn item_bytes(&self, item: u64) -> u32 {
        let Item { chunk, object_bytes, .. } = self.items[item as usize];
        (object_bytes - u64::from(chunk) * CHUNK_BYTES).min(CHUNK_BYTES) as u32
    }

    /// The content of a chunk: no two of them are the same, and none costs a copy.
    pub fn data(&self, item: u64) -> Bytes {
        // An odd factor: a different beginning for every item below the modulus.
        let start = (item.wrapping_mul(0x9e37_79b9_7f4a_7c15) % BEGINNINGS) as usize;
        self.noise.slice(start..start + self.item_bytes(item) as usize)
    }
}

fn noise() -> Bytes {
    let mut bytes = vec![0; (BEGINNINGS + CHUNK_BYTES) as usize];
    SmallRng::seed_from_u64(1).fill(&mut bytes[..]);
    bytes.into()
}

/// SplitMix64's output function.
pub fn scrambled(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_cut_into_chunks_and_fit_where_they_should() {
        let objects = Objects::equal(2 * CHUNK_BYTES + 5, 32 << 20);
        assert_eq!((objects.chunks(), objects.objects() * 3), (3, objects.items()));
        assert_eq!([0, 1, 2].map(|item| objects.item_bytes(item)), [1 << 20, 1 << 20, 5]);
        assert!(objects.extent_bytes() <= 32 << 20);
        assert_ne!(objects.key(2), objects.key(3));
        assert_ne!(objects.data(0), objects.data(1));
    }

    #[test]
    fn random_sizes_have_the_mean_that_is_told() {
        let objects = Objects::random(256 << 20);
        let mean = objects.data_bytes() / objects.items();
        assert!((100 << 10..120 << 10).contains(&mean), "{mean}");
    }
}
