//! Choice of an engine: io_uring where the kernel and the container allow it, else psync, and why.

use std::io;

use super::{BufferPool, Engine, PsyncEngine, UringEngine, UringReport};

/// Which engine the user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineKind {
    /// io_uring if it can be had, else psync.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Threads that block in preadv and pwritev.
    Psync,
}

/// How an engine is to be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineOptions {
    /// Operations in flight at most.
    pub depth: usize,
    /// A kernel thread that takes submissions, so that none costs a system call; it burns a core.
    pub sqpoll: bool,
    /// Completions are polled for; every file must sit on a queue that polls (`queue/io_poll` is 1).
    pub iopoll: bool,
    /// The engine goes from thread to thread: whoever submits waits for it, and then another may.
    pub passed_on: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { depth: 64, sqpoll: false, iopoll: false, passed_on: false }
    }
}

/// What was chosen, for `cachectl stats` and `doctor`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct EngineReport {
    /// `io_uring` or `psync`.
    pub name: &'static str,
    /// Why it is not io_uring although that was wanted.
    pub reason: Option<String>,
    /// What the ring got, if it is one.
    pub uring: Option<UringReport>,
}

/// An engine of `kind` whose operations use buffers of `pool`.
///
/// # Errors
/// [`EngineKind::Uring`] where io_uring is forbidden; else only a lack of threads or descriptors.
pub fn engine(
    kind: EngineKind,
    pool: &BufferPool,
    options: &EngineOptions,
) -> io::Result<(Box<dyn Engine>, EngineReport)> {
    match kind {
        EngineKind::Psync => psync(options, None),
        EngineKind::Uring => uring(pool, options),
        EngineKind::Auto => uring(pool, options).or_else(|error| psync(options, Some(reason(&error)))),
    }
}

fn uring(pool: &BufferPool, options: &EngineOptions) -> io::Result<(Box<dyn Engine>, EngineReport)> {
    let engine = UringEngine::new(pool, options)?;
    let report = EngineReport { name: engine.name(), reason: None, uring: Some(engine.report().clone()) };
    Ok((Box::new(engine), report))
}

fn psync(options: &EngineOptions, reason: Option<String>) -> io::Result<(Box<dyn Engine>, EngineReport)> {
    let engine = PsyncEngine::new(options.depth)?;
    let report = EngineReport { name: engine.name(), reason, uring: None };
    Ok((Box::new(engine), report))
}

/// What a user can do about a ring that could not be made.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring, or a seccomp profile hides it".to_owned(),
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here: by a container's seccomp profile or by sysctl kernel.io_uring_disabled".to_owned()
        }
        Some(libc::ENOMEM) => "no room for a ring in RLIMIT_MEMLOCK".to_owned(),
        _ => format!("io_uring_setup failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_psync_gives_it_without_a_reason() {
        let pool = BufferPool::new(1, 4096).unwrap();
        let (engine, report) = engine(EngineKind::Psync, &pool, &EngineOptions::default()).unwrap();
        assert_eq!((engine.name(), report.reason, report.uring), ("psync", None, None));
    }

    #[test]
    fn auto_always_gives_an_engine_and_says_why_it_is_not_the_better_one() {
        let pool = BufferPool::new(1, 4096).unwrap();
        let (engine, report) = engine(EngineKind::Auto, &pool, &EngineOptions::default()).unwrap();
        assert_eq!(engine.name() == "psync", report.reason.is_some(), "{report:?}");
    }
}
