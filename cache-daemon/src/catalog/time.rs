//! Times as columns hold them: nanoseconds since 1970, signed, which reach from 1677 to 2262.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `time` in nanoseconds since 1970; what is beyond 64 bits becomes their end.
pub(super) fn to_ns(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// The time that [`to_ns`] was given.
pub(super) fn from_ns(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_and_far_ones_are_cut() {
        for ns in [0, 1, -1, i64::MAX, i64::MIN + 1, 1_700_000_000_123_000_000] {
            assert_eq!(to_ns(from_ns(ns)), ns);
        }
        assert_eq!(to_ns(UNIX_EPOCH + Duration::from_secs(1 << 40)), i64::MAX);
        assert_eq!(to_ns(UNIX_EPOCH - Duration::from_secs(1 << 40)), i64::MIN);
    }
}
