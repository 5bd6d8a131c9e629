//! epochcache's daemon: an object store's data set, served from local NVMe through FUSE.
//!
//! Two lines run through this crate and meet only in [`cache`]. Data goes down
//! (fuse-frontend > cache > store > io) and misses go out to the origin; observation goes round
//! (probe > access > policy > commands). `docs/architecture.md` draws both.

pub mod access;
pub mod cache;
pub mod catalog;
pub mod checksum;
pub mod config;
pub mod control;
pub mod daemon;
pub mod daemonize;
pub mod doctor;
pub mod errands;
#[doc(hidden)]
pub mod fuzzing;
pub mod index;
pub mod io;
pub mod object;
pub mod origin;
pub mod policy;
pub mod probe;
pub mod signals;
pub mod simulate;
pub mod stats;
pub mod store;
