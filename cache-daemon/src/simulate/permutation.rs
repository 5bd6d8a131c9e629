//! Random permutations of any length that take no memory: position to object and back.
//!
//! A Feistel network on the two digits of a number in mixed radix: with a.b just above the length, each round adds to
//! one digit a hash of the other, modulo its radix, so a round can be taken back. What falls beyond the length is
//! sent through again, which never leaves the cycle that it came from; that is rare, because a.b exceeds the length
//! by less than b.

/// Six rounds: from four on, such networks pass for random with keyed hashes (Luby, Rackoff).
const ROUNDS: usize = 6;

/// A permutation of `0..len`.
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u32,
    /// The radices of the high digit and the low one.
    radix: [u32; 2],
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` that `seed` names.
    pub fn new(len: u32, seed: u64) -> Self {
        let low = (f64::from(len).sqrt().ceil() as u32).max(1);
        let mut state = seed;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self { len, radix: [len.div_ceil(low), low], keys }
    }

    /// Who is at `position`.
    pub fn at(&self, position: u32) -> u32 {
        debug_assert!(position < self.len);
        let mut number = position;
        loop {
            let mut digits = [number / self.radix[1], number % self.radix[1]];
            for (round, key) in self.keys.iter().enumerate() {
                let (to, from) = (round % 2, 1 - round % 2);
                let sum = u64::from(digits[to]) + u64::from(self.hash(digits[from], *key, to));
                let radix = u64::from(self.radix[to]);
                digits[to] = if sum >= radix { sum - radix } else { sum } as u32;
            }
            let sent = u64::from(digits[0]) * u64::from(self.radix[1]) + u64::from(digits[1]);
            if sent < u64::from(self.len) {
                return sent as u32;
            }
            // Fits: a.b exceeds the length by less than 2^16, and lengths end before (`FILES_MAX`).
            number = sent as u32;
        }
    }

    /// Where `object` is.
    pub fn position_of(&self, object: u32) -> u32 {
        debug_assert!(object < self.len);
        let mut number = object;
        loop {
            let mut digits = [number / self.radix[1], number % self.radix[1]];
            for (round, key) in self.keys.iter().enumerate().rev() {
                let (to, from) = (round % 2, 1 - round % 2);
                let hash = self.hash(digits[from], *key, to);
                let lent = if digits[to] < hash { self.radix[to] } else { 0 };
                digits[to] = digits[to].wrapping_add(lent).wrapping_sub(hash);
            }
            let sent = u64::from(digits[0]) * u64::from(self.radix[1]) + u64::from(digits[1]);
            if sent < u64::from(self.len) {
                return sent as u32;
            }
            number = sent as u32;
        }
    }

    /// A hash of a digit below the radix of the other.
    fn hash(&self, digit: u32, key: u64, to: usize) -> u32 {
        let hash = mix(u64::from(digit) ^ key) >> 32;
        ((hash * u64::from(self.radix[to])) >> 32) as u32
    }
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of `x`.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everybody_is_somewhere_once(len in 1u32..2_000, seed: u64) {
            let permutation = Permutation::new(len, seed);
            let mut seen = vec![false; len as usize];
            for position in 0..len {
                let object = permutation.at(position);
                prop_assert!(!std::mem::replace(&mut seen[object as usize], true));
                prop_assert_eq!(permutation.position_of(object), position);
            }
        }

        #[test]
        fn lengths_up_to_the_largest_go_there_and_back(len in 1u32..=super::super::synthetic::FILES_MAX, at: u32, seed: u64) {
            let permutation = Permutation::new(len, seed);
            prop_assert_eq!(permutation.position_of(permutation.at(at % len)), at % len);
        }
    }

    #[test]
    fn places_and_neighbours_look_random() {
        const LEN: u32 = 1_000;
        let (mut places, mut ascents) = (vec![0u32; 100], 0);
        for seed in 0..1_000 {
            let permutation = Permutation::new(LEN, seed);
            places[(permutation.at(500) / 10) as usize] += 1;
            ascents += u32::from(permutation.at(10) < permutation.at(11));
        }
        // Chi-squared with 99 degrees of freedom: above 160 once in ten thousand.
        let chi: f64 = places.iter().map(|&count| (f64::from(count) - 10.0).powi(2) / 10.0).sum();
        assert!(chi < 160.0, "{chi}");
        assert!((430..570).contains(&ascents), "{ascents}");
    }
}
