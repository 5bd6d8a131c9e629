//! What tests stand on: [`s3`] serves a bucket, [`data_set`] fills it, [`mount`] mounts it, [`reader`]
//! reads it as training does.

pub mod data_set;
pub mod mount;
pub mod programs;
pub mod reader;
pub mod s3;
pub mod stats;
