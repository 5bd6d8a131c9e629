//! The test bed: a real S3 server process, data sets with known bytes, readers, and a harness for mounts.
//!
//! Tests, the demo and the benchmarks are written over it; it knows the product only by its command line,
//! its mount and `cachectl stats --json`. `docs/testing.md` tells how to use it.

pub mod bed;
pub mod guest;
