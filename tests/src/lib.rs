//! The test bed: a real S3 server process, data sets with known bytes, readers, and a harness for mounts.
