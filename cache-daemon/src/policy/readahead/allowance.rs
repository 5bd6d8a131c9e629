//! The allowance: how many bytes an hour may be fetched ahead.

const MINUTES: usize = 60;
const MINUTE_NS: u64 = 60_000_000_000;

/// What was spent in each of the last sixty minutes.
#[derive(Debug)]
pub struct Allowance {
    per_hour: Option<u64>,
    spent: [u64; MINUTES],
    /// The minute that it is.
    minute: u64,
}

impl Allowance {
    /// So many bytes an hour; `None`: as many as one likes.
    pub fn new(per_hour: Option<u64>) -> Self {
        Self { per_hour, spent: [0; MINUTES], minute: 0 }
    }

    /// Bytes that may be spent now.
    pub fn left(&mut self, now_ns: u64) -> u64 {
        self.turn_to(now_ns);
        self.per_hour.map_or(u64::MAX, |most| most.saturating_sub(self.spent.iter().sum()))
    }

    /// `bytes` are spent now.
    pub fn spend(&mut self, now_ns: u64, bytes: u64) {
        self.turn_to(now_ns);
        self.spent[self.minute as usize % MINUTES] += bytes;
    }

    fn turn_to(&mut self, now_ns: u64) {
        let minute = now_ns / MINUTE_NS;
        for passed in (self.minute + 1..=minute).take(MINUTES) {
            self.spent[passed as usize % MINUTES] = 0;
        }
        if minute > self.minute + MINUTES as u64 {
            self.spent = [0; MINUTES];
        }
        self.minute = self.minute.max(minute);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_hour_gets_more_than_its_allowance(steps in prop::collection::vec((0_u64..20, 0_u64..60), 1..200)) {
            let mut allowance = Allowance::new(Some(100));
            let (mut minute, mut spent) = (0_u64, Vec::new());
            for (bytes, pause) in steps {
                minute += pause;
                let left = allowance.left(minute * MINUTE_NS);
                let lately: u64 =
                    spent.iter().filter(|&&(at, _)| at + 60 > minute).map(|&(_, bytes): &(u64, u64)| bytes).sum();
                prop_assert_eq!(left, 100 - lately);
                let bytes = bytes.min(left);
                allowance.spend(minute * MINUTE_NS, bytes);
                spent.push((minute, bytes));
            }
        }
    }
}
