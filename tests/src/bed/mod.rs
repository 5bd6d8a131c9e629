//! What tests stand on: [`s3`] serves a bucket, [`data_set`] fills it, [`mount`] mounts it, [`reader`]
//! reads it as training does.

pub mod bpf;
pub mod data_set;
pub mod mount;
pub mod programs;
pub mod reader;
pub mod s3;
pub mod stats;

/// How often a test does what it does: `usually`, or with `cargo xtask test --all` the long count.
pub fn count<T>(usually: T, long: T) -> T {
    if std::env::var_os("EPOCHCACHE_TEST_ALL").is_some() { long } else { usually }
}
