//! Tickets: one outstanding read each, answered exactly once.

use crate::errno::Errno;

/// Where the answer to a read goes: the kernel, or a test.
pub trait Answer: Send {
    /// Sends the bytes.
    fn data(self: Box<Self>, bytes: &[u8]);

    /// Sends the error.
    fn error(self: Box<Self>, errno: Errno);

    /// The thread that waits for it, in this process's pid namespace; none if nobody waits, or one outside of it.
    fn asker(&self) -> Option<u32> {
        None
    }
}

/// One outstanding read. It must be completed: dropped unanswered, it panics in debug builds (our
/// mistake) and answers `EIO` in release builds, because a reader must never wait for ever.
pub struct ReadTicket(Option<Box<dyn Answer>>);

impl ReadTicket {
    /// A ticket whose answer goes to `answer`.
    pub fn new(answer: impl Answer + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// The thread that waits for the answer, see [`Answer::asker`].
    pub fn asker(&self) -> Option<u32> {
        self.0.as_ref().and_then(|answer| answer.asker())
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Tells what was answered.
    struct Told(Sender<Result<Vec<u8>, Errno>>);

    impl Answer for Told {
        fn data(self: Box<Self>, bytes: &[u8]) {
            self.0.send(Ok(bytes.to_vec())).expect("the test listens");
        }

        fn error(self: Box<Self>, errno: Errno) {
            self.0.send(Err(errno)).expect("the test listens");
        }
    }

    #[test]
    fn a_ticket_is_answered_once_with_what_it_was_given() {
        let (tell, told) = channel();
        ReadTicket::new(Told(tell.clone())).data(b"bytes");
        ReadTicket::new(Told(tell)).error(Errno::STALE);
        assert_eq!(told.iter().collect::<Vec<_>>(), [Ok(b"bytes".to_vec()), Err(Errno::STALE)]);
    }

    #[test]
    fn a_dropped_ticket_is_an_error_and_in_debug_builds_a_panic() {
        let (tell, told) = channel();
        let ticket = ReadTicket::new(Told(tell));
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(ticket)));
        assert_eq!(dropped.is_err(), cfg!(debug_assertions));
        assert_eq!(told.iter().collect::<Vec<_>>(), [Err(Errno::IO)]);
    }
}
