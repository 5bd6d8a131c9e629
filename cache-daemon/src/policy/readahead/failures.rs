//! Failures: fetches ahead that fail one after the other are stopped for a while, longer each time.

/// So many in a row are no accident: credentials that expired, a network that is down.
const IN_A_ROW: u32 = 16;

const PAUSE_NS_MIN: u64 = 5_000_000_000;
const PAUSE_NS_MAX: u64 = 300_000_000_000;

/// Failures without a success in between, and the pause that they cost.
#[derive(Debug, Default)]
pub struct Failures {
    in_a_row: u32,
    pause_ns: u64,
    until_ns: u64,
}

impl Failures {
    /// A fetch failed.
    pub fn failed(&mut self) {
        self.in_a_row += 1;
    }

    /// A fetch succeeded: all is well again.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether to pause.
    pub fn are_to_pause(&mut self, now_ns: u64) -> bool {
        if self.in_a_row >= IN_A_ROW {
            self.pause_ns = (self.pause_ns * 2).clamp(PAUSE_NS_MIN, PAUSE_NS_MAX);
            (self.until_ns, self.in_a_row) = (now_ns + self.pause_ns, 0);
        }
        now_ns < self.until_ns
    }
}
