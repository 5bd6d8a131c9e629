//! The FUSE side of epochcache: translates the kernel's requests for a [`source::FileSource`].
//!
//! `fs.rs` only translates; everything behind the port runs unmounted. fuser's types stay in
//! `session/` and `fs.rs`, so that a loop of our own on the same descriptor can replace them.
//!
//! Map: [`session::Mount`] checks the mountpoint, mounts, and serves with threads of fuser's;
//! [`negotiate`] decides in INIT whether files are opened at all; [`notifier::Notifier`] tells the kernel
//! what changed; [`push`] puts bytes into the kernel's page cache ahead of readers; [`transport::passthrough`] hands whole
//! local files to the kernel; [`figures`] counts what the kernel asked; [`memory`] is a source for tests.

pub mod askers;
pub mod errno;
pub mod figures;
mod fs;
mod inode;
pub mod memory;
pub mod negotiate;
pub mod notifier;
pub mod push;
pub mod session;
pub mod source;
pub mod ticket;
pub mod transport;
