//! End to end: the daemon as a user starts it, a real mount, a real S3 server, real reading processes.
//!
//! Each test has its own server, cache and mountpoint. None asserts on time, except that nothing hangs.

mod ahead;
mod bad_input;
mod damage;
mod early;
mod epochs;
mod errands;
mod failing_origin;
mod files;
mod io_modes;
mod killed;
mod lifecycle;
mod limit;
mod memory_groups;
mod observed;
mod odd_keys;
mod orders;
mod places;
mod pushed;
mod python;
mod replaced;
mod restart;
mod stats;
mod warm;

/// Ends the test, saying why, where FUSE cannot be mounted.
macro_rules! needs_fuse {
    () => {
        if let Some(reason) = epochcache_tests::bed::mount::cannot_mount() {
            println!("SKIP: {reason}");
            return Ok(());
        }
    };
}
pub(crate) use needs_fuse;

/// What a test returns: an error is shown with its causes.
pub type Outcome = anyhow::Result<()>;
