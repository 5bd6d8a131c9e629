//! The bed itself: does the server do what S3 does, and do the readers see every wrong byte?

mod readers;
mod server;
