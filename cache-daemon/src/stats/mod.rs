//! Figures: every number that `cachectl stats` shows, with its unit and its meaning in one place.
//!
//! Each component owns one struct of figures, made by [`crate::figures!`], in a file of this directory. A
//! figure is a few atomics, counted where the thing happens; a snapshot reads them all. Names are
//! stable: they are the keys of `cachectl stats --json`.

pub mod cache;
pub mod catalog;
pub mod origin;
pub mod planner;
pub mod probe;
pub mod snapshot;
pub mod store;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn value(&self) -> Value {
        Value::Count(self.get())
    }
}

/// A level that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the level.
    pub fn set(&self, level: u64) {
        self.0.store(level, Relaxed);
    }

    /// Raises the level by `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Lowers the level by `n`, which must have been added before.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    /// The level now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn value(&self) -> Value {
        Value::Count(self.get())
    }
}

/// Latencies in microseconds, in buckets at most 1/16 wide relative to their value.
#[derive(Debug)]
pub struct Latency {
    buckets: histogram::AtomicHistogram,
    max_us: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        // 2^4 buckets in each power of two, up to 2^36 us = 19 h: 4.5 KiB a histogram.
        let buckets = histogram::AtomicHistogram::new(4, 36).expect("4 < 36 <= 64 is what it asks for");
        Self { buckets, max_us: AtomicU64::new(0) }
    }
}

impl Latency {
    /// Counts one operation that took `elapsed`.
    pub fn record(&self, elapsed: Duration) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).min((1 << 36) - 1);
        self.max_us.fetch_max(us, Relaxed);
        // Fails only for values out of range, which the line above rules out.
        let _ = self.buckets.increment(us);
    }

    /// Count and percentiles so far.
    pub fn get(&self) -> LatencySummary {
        let buckets = self.buckets.load();
        let at = |share: f64| percentile(&buckets, share);
        let count = buckets.iter().map(|bucket| bucket.count()).sum();
        LatencySummary {
            count,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: self.max_us.load(Relaxed),
        }
    }

    fn value(&self) -> Value {
        Value::Latency(self.get())
    }
}

/// The upper end of the bucket below which `share` of the values lie; 0 without values.
fn percentile(buckets: &histogram::Histogram, share: f64) -> u64 {
    let total: u64 = buckets.iter().map(|bucket| bucket.count()).sum();
    let wanted = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for bucket in buckets {
        seen += bucket.count();
        if seen >= wanted {
            return bucket.end();
        }
    }
    0
}

/// What a [`Latency`] held at one moment; times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct LatencySummary {
    /// Operations counted.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest, exact.
    pub max_us: u64,
}

/// The value of a figure in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A counter or a gauge.
    Count(u64),
    /// A latency histogram's summary.
    Latency(LatencySummary),
}

/// What a figure is called and means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Key in JSON: stable.
    pub name: &'static str,
    /// What one of it is: `bytes`, `reads`, `us`.
    pub unit: &'static str,
    /// One sentence for users.
    pub meaning: &'static str,
}

/// A struct of figures that can be described and read.
pub trait Figures {
    /// The figures in the order in which they are shown.
    const DESCRIPTIONS: &'static [Description];

    /// Their values now, in the same order.
    fn values(&self) -> Vec<Value>;
}

/// Declares a struct of figures: `field: Kind, "unit", "meaning";` for each, and a prefix for their names.
///
/// A figure `reads` in a struct with prefix `store` is called `store_reads`.
#[macro_export]
macro_rules! figures {
    ($(#[$attribute:meta])* $vis:vis struct $name:ident ($prefix:literal) {
        $($field:ident: $kind:ident, $unit:literal, $meaning:literal;)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Default)]
        $vis struct $name {
            $(#[doc = $meaning] pub $field: $crate::stats::$kind,)*
        }

        impl $crate::stats::Figures for $name {
            const DESCRIPTIONS: &'static [$crate::stats::Description] = &[
                $($crate::stats::Description {
                    name: concat!($prefix, "_", stringify!($field)),
                    unit: $unit,
                    meaning: $meaning,
                },)*
            ];

            fn values(&self) -> Vec<$crate::stats::Value> {
                vec![$($crate::stats::readable(&self.$field)),*]
            }
        }
    };
}

/// What can stand in a struct of [`crate::figures!`].
pub trait Readable {
    /// The value now.
    fn read(&self) -> Value;
}

macro_rules! readable {
    ($($kind:ident),*) => { $(impl Readable for $kind {
        fn read(&self) -> Value { self.value() }
    })* };
}
readable!(Counter, Gauge, Latency);

/// The value of `figure` now.
pub fn readable(figure: &impl Readable) -> Value {
    figure.read()
}

#[cfg(test)]
mod tests {
    use super::*;

    figures! {
        /// Two figures.
        struct Sample("sample") {
            reads: Counter, "reads", "Reads answered.";
            latency: Latency, "us", "How long they took.";
        }
    }

    #[test]
    fn a_snapshot_has_every_figure_under_its_prefixed_name() {
        let sample = Sample::default();
        sample.reads.add(3);
        for us in 1..=100 {
            sample.latency.record(Duration::from_micros(us));
        }
        assert_eq!(Sample::DESCRIPTIONS.map_names(), ["sample_reads", "sample_latency"]);
        let [Value::Count(3), Value::Latency(latency)] = sample.values()[..] else {
            panic!("{:?}", sample.values())
        };
        assert_eq!((latency.count, latency.max_us), (100, 100));
        assert!((50..=53).contains(&latency.p50_us), "{latency:?}");
    }

    trait MapNames {
        fn map_names(&self) -> Vec<&'static str>;
    }

    impl MapNames for [Description] {
        fn map_names(&self) -> Vec<&'static str> {
            self.iter().map(|description| description.name).collect()
        }
    }
}
