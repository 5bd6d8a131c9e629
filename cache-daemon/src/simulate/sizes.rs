//! Sizes of made-up objects: a function of the object's number, so that no table of objects is needed.

use std::str::FromStr;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, LogNormal};

use super::permutation::mix;

/// The spread of the logarithm of ImageNet's sizes.
const SIGMA: f64 = 0.5;
/// So many sizes are drawn, and objects take theirs from among them.
const DRAWN: usize = 1 << 16;
const SIZE_BYTES_MAX: u64 = 1 << 50;

/// How sizes are distributed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Sizes {
    /// All alike.
    Fixed(u64),
    /// Their logarithms are normal.
    Lognormal {
        /// The mean of the sizes.
        mean_bytes: u64,
        /// The deviation of their logarithms.
        sigma: f64,
    },
}

/// What a user wrote is no distribution of sizes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no distribution of sizes: give fixed:110K, lognormal:110K or lognormal:110K,0.5")]
pub struct SizesError(String);

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        let error = || SizesError(text.to_owned());
        let size = |size: &str| {
            let bytes = parse_size::Config::new().with_binary().parse_size(size).map_err(|_| error())?;
            if (1..=SIZE_BYTES_MAX).contains(&bytes) { Ok(bytes) } else { Err(error()) }
        };
        let (kind, rest) = text.split_once(':').ok_or_else(error)?;
        let (mean, sigma) = rest.split_once(',').map_or((rest, None), |(mean, sigma)| (mean, Some(sigma)));
        match (kind, sigma) {
            ("fixed", None) => Ok(Self::Fixed(size(mean)?)),
            ("lognormal", sigma) => {
                let sigma = sigma.map_or(Ok(SIGMA), str::parse::<f64>).map_err(|_| error())?;
                match (0.0..=4.0).contains(&sigma) {
                    true => Ok(Self::Lognormal { mean_bytes: size(mean)?, sigma }),
                    false => Err(error()),
                }
            }
            _ => Err(error()),
        }
    }
}

/// The sizes of objects.
#[derive(Debug)]
pub(super) enum SizeOf {
    Fixed(u64),
    Drawn { seed: u64, sizes: Vec<u64> },
}

impl SizeOf {
    pub fn new(sizes: Sizes, seed: u64) -> Self {
        let Sizes::Lognormal { mean_bytes, sigma } = sizes else {
            let Sizes::Fixed(bytes) = sizes else { unreachable!("there are two kinds") };
            return Self::Fixed(bytes);
        };
        let mean = mean_bytes as f64;
        let lognormal = LogNormal::new(mean.ln() - sigma * sigma / 2.0, sigma).expect("sigma is finite");
        let mut random = SmallRng::seed_from_u64(seed);
        let sizes = (0..DRAWN).map(|_| (lognormal.sample(&mut random).round() as u64).max(1)).collect();
        Self::Drawn { seed: mix(seed ^ 0x5153), sizes }
    }

    pub fn bytes(&self, object: u32) -> u64 {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Drawn { seed, sizes } => sizes[mix(u64::from(object) ^ seed) as usize % DRAWN],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_written_as_in_the_help() {
        assert_eq!("fixed:110K".parse(), Ok(Sizes::Fixed(110 << 10)));
        let lognormal = |sigma| Ok(Sizes::Lognormal { mean_bytes: 110 << 10, sigma });
        assert_eq!("lognormal:110K".parse(), lognormal(0.5));
        assert_eq!("lognormal:110KiB,1.5".parse(), lognormal(1.5));
        for wrong in
            ["", "110K", "fixed:", "fixed:0", "fixed:1,2", "lognormal:x", "lognormal:1K,-1", "normal:1K"]
        {
            let error = wrong.parse::<Sizes>().expect_err(wrong);
            assert_eq!(error, SizesError(wrong.to_owned()));
        }
    }

    #[test]
    fn the_mean_is_the_mean() {
        let sizes = SizeOf::new(Sizes::Lognormal { mean_bytes: 100_000, sigma: 0.5 }, 3);
        let mean = (0..100_000).map(|object| sizes.bytes(object)).sum::<u64>() as f64 / 1e5;
        assert!((mean / 1e5 - 1.0).abs() < 0.02, "{mean}");
    }
}
