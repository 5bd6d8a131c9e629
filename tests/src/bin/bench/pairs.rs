//! Pairs: ours, reference, ours, reference, ... so that whatever the machine does meanwhile hits both.

/// One measured metric of several pairs of runs.
#[derive(Clone, Debug, Default)]
pub struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// Runs `count` pairs. The order within a pair alternates: whoever runs second finds a warmer machine.
    pub fn run(
        count: usize,
        ours: impl FnMut() -> anyhow::Result<f64>,
        reference: impl FnMut() -> anyhow::Result<f64>,
    ) -> anyhow::Result<Self> {
        alternate(count, ours, reference).map(Self)
    }

    /// One metric of samples that have several.
    pub fn of<S>(samples: &[(S, S)], value: impl Fn(&S) -> f64) -> Self {
        Self(samples.iter().map(|(ours, reference)| (value(ours), value(reference))).collect())
    }

    /// Our values.
    pub fn ours(&self) -> Vec<f64> {
        self.0.iter().map(|pair| pair.0).collect()
    }

    /// The reference's values.
    pub fn references(&self) -> Vec<f64> {
        self.0.iter().map(|pair| pair.1).collect()
    }

    /// Ours over the reference's, pair by pair.
    pub fn ratios(&self) -> Vec<f64> {
        self.0.iter().map(|(ours, reference)| ours / reference).collect()
    }
}

/// Samples of both sides, in pairs. The order within a pair alternates.
pub fn alternate<S>(
    count: usize,
    mut ours: impl FnMut() -> anyhow::Result<S>,
    mut reference: impl FnMut() -> anyhow::Result<S>,
) -> anyhow::Result<Vec<(S, S)>> {
    let pair = |number| {
        if number % 2 == 0 {
            let ours = ours()?;
            return Ok((ours, reference()?));
        }
        let reference = reference()?;
        Ok((ours()?, reference))
    };
    (0..count).map(pair).collect()
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_the_order_within_pairs() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
        assert!(median(&[]).is_nan());
        let order = std::cell::RefCell::new(String::new());
        let run = |name| {
            order.borrow_mut().push(name);
            Ok(if name == 'o' { 6.0 } else { 3.0 })
        };
        let pairs = Pairs::run(3, || run('o'), || run('r')).unwrap();
        assert_eq!(order.into_inner(), "orroor");
        assert_eq!(pairs.ratios(), [2.0; 3]);
        assert_eq!(Pairs::of(&[("long", "four")], |text| text.len() as f64).ratios(), [1.0]);
    }
}
