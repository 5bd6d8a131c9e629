//! Engines: how the store's bytes reach a device and come back.
//!
//! An engine belongs to one thread. It takes operations that own their buffers, and gives them back
//! completed, in any order. `uring` is the engine; `psync` stands in where a kernel or a container has
//! no io_uring; `sim` is a device that lies, stalls and loses power from a seed.
//!
//! The map
//! - `choose`: which engine, and the report of why; `uring`, `psync`, `sim`: the engines;
//!   `conformance` tests them all.
//! - `buffer`: memory for direct I/O; `file`: what engines read and write, real or simulated;
//!   `slots`: the files of one engine; `waker`: how other threads end a wait.
//! - `claim`: takes a device or a directory for this daemon alone; `remover`: removes files, through
//!   tokio-uring.
//!
//! Invariants
//! - A buffer belongs to its operation from `submit` until its completion is taken, even if nobody
//!   wants the result any more.
//! - Every submitted operation completes exactly once, unless the engine is dropped; dropping it waits, within
//!   a bound, for what the kernel holds, and leaks what the kernel does not let go of.
//! - Results are as the device gave them: `Err`, or a count that may be short. The callers check.

use std::io;
use std::time::Duration;

mod buffer;
mod choose;
pub mod claim;
#[cfg(test)]
mod conformance;
mod file;
mod psync;
mod remover;
pub mod sim;
mod slots;
mod uring;
mod waker;

pub use buffer::{Buffer, BufferPool};
pub use choose::{EngineKind, EngineOptions, EngineReport, engine};
pub use file::{DeviceFile, open_direct};
pub use psync::PsyncEngine;
pub use remover::{Removed, Remover};
pub use uring::{UringEngine, UringReport, queue_polls};
pub use waker::Waker;

/// Offsets, lengths and addresses of direct I/O are multiples of this: the largest logical block of the devices we know.
pub const ALIGN_BYTES: usize = 4096;

/// A position on a device or in a file. Never mixed with positions in objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceOffset(pub u64);

impl std::ops::Add<usize> for DeviceOffset {
    type Output = Self;

    /// The position `bytes` further on.
    fn add(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A file that an engine knows (registered with the ring where that can be).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileSlot(pub u32);

/// Names an operation to whoever submitted it; comes back with its completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Token(pub u64);

/// What is to be done. `len` is at most the buffer's.
#[derive(Debug)]
pub enum Operation {
    /// Fill the first `len` bytes of `buffer` from `at`.
    Read {
        /// Where the bytes go.
        buffer: Buffer,
        /// How many, a multiple of [`ALIGN_BYTES`].
        len: usize,
        /// From where.
        at: DeviceOffset,
    },
    /// Write the first `len` bytes of `buffer` to `at`.
    Write {
        /// Where the bytes are.
        buffer: Buffer,
        /// How many, a multiple of [`ALIGN_BYTES`].
        len: usize,
        /// To where.
        at: DeviceOffset,
    },
    /// Make everything that completed before this was submitted durable (fdatasync).
    Sync,
}

impl Operation {
    /// Refuses what would read or write past its buffer, or what direct I/O cannot do.
    ///
    /// # Panics
    /// On our own mistakes: a length beyond the buffer, a length or position that is not aligned.
    fn check(&self) {
        let (Self::Read { buffer, len, at } | Self::Write { buffer, len, at }) = self else { return };
        assert!(*len <= buffer.len(), "an operation of {len} bytes on a buffer of {}", buffer.len());
        assert!(
            len.is_multiple_of(ALIGN_BYTES) && at.0.is_multiple_of(ALIGN_BYTES as u64),
            "unaligned: {self:?}"
        );
    }

    /// Does it by calls; what they gave, and the buffer. For engines that are not the kernel.
    fn by<R>(
        self,
        read: impl FnOnce(&mut [u8], u64) -> R,
        write: impl FnOnce(&[u8], u64) -> R,
        sync: impl FnOnce() -> R,
    ) -> (R, Option<Buffer>) {
        match self {
            Self::Read { mut buffer, len, at } => (read(&mut buffer[..len], at.0), Some(buffer)),
            Self::Write { buffer, len, at } => (write(&buffer[..len], at.0), Some(buffer)),
            Self::Sync => (sync(), None),
        }
    }
}

/// An operation that is over.
#[derive(Debug)]
pub struct Completion {
    /// Whose it is.
    pub token: Token,
    /// Bytes done (0 for a sync), possibly fewer than asked; or the device's error. EINTR, which only
    /// the simulated device gives, means that nothing was done.
    pub result: io::Result<usize>,
    /// The operation's buffer, back again.
    pub buffer: Option<Buffer>,
}

/// Submits operations and collects completions; used by one thread.
pub trait Engine: Send {
    /// Makes `file` known, for as long as the engine lives or until [`Engine::forget`].
    ///
    /// Fails with `Unsupported` if `file` is of the other world: a simulated one in a real engine or the reverse.
    fn register(&mut self, file: DeviceFile) -> io::Result<FileSlot>;

    /// Lets go of a file.
    ///
    /// # Panics
    /// If something is in flight on it.
    fn forget(&mut self, slot: FileSlot);

    /// Takes an operation. It may start only when [`Engine::complete`] is called next: batches form by themselves.
    ///
    /// # Panics
    /// If more than the engine's depth are in flight.
    fn submit(&mut self, token: Token, file: FileSlot, operation: Operation);

    /// Starts what was submitted and appends what is over to `done`.
    ///
    /// Waits until there is one completion at least, the engine's [`Waker`] was used, or `timeout` is over;
    /// a `timeout` of zero does not wait. May return early with nothing: callers loop anyway.
    fn complete(&mut self, timeout: Duration, done: &mut Vec<Completion>) -> io::Result<()>;

    /// How many operations may be in flight.
    fn depth(&self) -> usize;

    /// Wakes this engine's thread out of [`Engine::complete`], from any thread.
    fn waker(&self) -> Waker;

    /// Its name for users: `io_uring`, `psync`.
    fn name(&self) -> &'static str;
}
