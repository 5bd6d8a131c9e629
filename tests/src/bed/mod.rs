//! What tests stand on: [`s3`] serves a bucket, [`data_set`] fills it, [`reader`] reads a directory as
//! training does.

pub mod data_set;
pub mod programs;
pub mod reader;
pub mod s3;
