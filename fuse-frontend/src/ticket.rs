//! Tickets: one outstanding read each, answered exactly once.

use crate::errno::Errno;

/// Where the answer to a read goes: the kernel, or a test.
pub trait Answer: Send {
    /// Sends the bytes.
    fn data(self: Box<Self>, bytes: &[u8]);

    /// Sends the error.
    fn error(self: Box<Self>, errno: Errno);
}

/// One outstanding read. It must be completed: dropped unanswered, it panics in debug builds (our
/// mistake) and answers `EIO` in release builds, because a reader must never wait for ever.
pub struct ReadTicket(Option<Box<dyn Answer>>);

impl ReadTicket {
    /// A ticket whose answer goes to `answer`.
    pub fn new(answer: impl Answer + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// Answers with `bytes`, which are copied before this returns.
    pub fn data(mut self, bytes: &[u8]) {
        if let Some(answer) = self.0.take() {
            answer.data(bytes);
        }
    }

    /// Answers with an error.
    pub fn error(mut self, errno: Errno) {
        if let Some(answer) = self.0.take() {
            answer.error(errno);
        }
    }
}

impl Drop for ReadTicket {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer.error(Errno::IO);
            if cfg!(debug_assertions) && !std::thread::panicking() {
                panic!("a read was dropped without an answer");
            }
        }
    }
}
