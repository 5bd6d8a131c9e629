//! The FUSE side of epochcache: translates the kernel's requests for a [`source::FileSource`].
//!
//! `fs.rs` only translates; everything behind the port runs unmounted. fuser's types stay in
//! `session/` and `fs.rs`, so that a loop of our own on the same descriptor can replace them.

pub mod errno;
pub mod source;
pub mod ticket;
