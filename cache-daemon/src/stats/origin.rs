//! Figures of the origin: what was asked of the object store, what it cost, and how it failed.
//!
//! Requests are counted as they are sent, so a read that took three attempts counts three. Failures
//! are counted once for each attempt, by cause; `failed_reads` counts what a reader saw in the end.

use crate::figures;
use crate::origin::{Cause, RequestKind};

/// Fewer split points say too little of how keys are spread.
const LISTING_POINTS_MIN: u64 = 64;

figures! {
    /// What the origin was asked for and answered.
    pub struct OriginFigures("origin") {
        gets: Counter, "requests", "GETs sent, repeated ones included.";
        gets_readahead: Counter, "requests", "Of the GETs, those sent ahead of any reader.";
        lists: Counter, "requests", "LIST requests sent.";
        heads: Counter, "requests", "HEADs sent.";
        bytes: Counter, "bytes", "Bytes of object data received and accepted.";
        retries: Counter, "requests", "Requests sent again after a failure.";
        timeouts: Counter, "requests", "Attempts that took longer than the request timeout.";
        throttled: Counter, "requests", "Attempts refused because we ask too fast (429, 503).";
        server_errors: Counter, "requests", "Attempts that ended with another 5xx.";
        connection_errors: Counter, "requests", "Attempts whose connection failed or broke.";
        short_bodies: Counter, "requests", "Replies that ended before their last byte.";
        replaced: Counter, "requests", "Replies saying that the object is now another version.";
        gone: Counter, "requests", "Replies saying that the object is not there.";
        denied: Counter, "requests", "Replies refusing our credentials.";
        refused: Counter, "requests", "Requests the origin does not understand, or keys we cannot ask for.";
        failed_reads: Counter, "reads", "Reads given up after the last attempt or the deadline.";
        keys_listed: Counter, "keys", "Keys delivered by listings.";
        listing_points: Gauge, "keys", "Split points of the last parallel listing, spread over its keys.";
        listing_points_passed: Gauge, "keys", "Of the split points, those up to which all keys are listed.";
        keys_not_utf8: Counter, "keys", "Files of a local origin left out because their names are not UTF-8.";
        in_flight: Gauge, "requests", "Requests in flight now.";
        waiting: Gauge, "requests", "Requests waiting for the limit on requests in flight.";
        get_latency: Latency, "us", "GETs that succeeded: from sending to the last byte.";
    }
}

impl OriginFigures {
    /// Counts one request of `kind` being sent.
    pub fn count_sent(&self, kind: RequestKind) {
        match kind {
            RequestKind::Get => self.gets.increment(),
            RequestKind::List => self.lists.increment(),
            RequestKind::Head => self.heads.increment(),
        }
    }

    /// How much of the listing under way is done, about; none while too little tells.
    pub fn listing_share(&self) -> Option<f64> {
        let (points, passed) = (self.listing_points.get(), self.listing_points_passed.get());
        (points >= LISTING_POINTS_MIN && passed > points / 50)
            .then(|| passed.min(points) as f64 / points as f64)
    }

    /// Counts one attempt that failed because of `cause`.
    pub fn count_failed(&self, cause: Cause) {
        match cause {
            Cause::Timeout => self.timeouts.increment(),
            Cause::Throttled => self.throttled.increment(),
            Cause::ServerError => self.server_errors.increment(),
            Cause::Connection => self.connection_errors.increment(),
            Cause::ShortBody => self.short_bodies.increment(),
            Cause::Replaced => self.replaced.increment(),
            Cause::Gone => self.gone.increment(),
            Cause::Denied => self.denied.increment(),
            Cause::Refused => self.refused.increment(),
        }
    }
}
