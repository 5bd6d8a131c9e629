//! The cache's figures.

use crate::figures;

figures! {
    /// What the cache answered, and from where.
    pub struct CacheFigures("cache") {
        reads: Counter, "reads", "READ requests that reached the cache.";
        store_hits: Counter, "reads", "Parts of reads and pushes answered from the store.";
        store_hit_bytes: Counter, "bytes", "Bytes answered from the store.";
        store_refusals: Counter, "reads", "Parts that the index had and the store could not give: fetched again.";
        landed_hits: Counter, "reads", "Parts answered from bytes that were fetched and not stored yet.";
        joined: Counter, "reads", "Parts that waited for a fetch of another reader.";
        push_joined: Counter, "reads", "Parts that were being read from the store for a push, and that their readers got with it.";
        misses: Counter, "reads", "Parts that began a fetch from the origin.";
        origin_read_bytes: Counter, "bytes", "Bytes answered to readers that came from the origin.";
        fills: Counter, "fetches", "Fetches that succeeded.";
        fill_bytes: Counter, "bytes", "Bytes fetched from the origin.";
        fills_in_flight: Gauge, "fetches", "Fetches in flight now.";
        not_admitted: Counter, "chunks", "Chunks that were not stored because the store is full and nothing had to go for them.";
        evicted: Counter, "objects", "Objects that the policy (--policy) gave up for others.";
        evicted_bytes: Counter, "bytes", "What they took on disk.";
        origin_wait_us: Counter, "us", "Time that readers waited for the origin, together.";
        turn_wait_us: Counter, "us", "Time that fetches waited for their turn because --origin-requests were in flight, together.";
        failed: Counter, "fetches", "Fetches given up after retries: their readers got EIO.";
        stale: Counter, "fetches", "Fetches of a version that the origin no longer has: their readers got ESTALE.";
        store_latency: Latency, "us", "From request to answer, parts answered from the store.";
        origin_latency: Latency, "us", "From request to answer, parts that waited for the origin.";
    }
}
