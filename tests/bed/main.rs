//! The bed itself: does the server do what S3 does, and do the readers see every wrong byte?

#![allow(clippy::unwrap_used, reason = "a test may panic, and says where")]

mod readers;
mod server;
