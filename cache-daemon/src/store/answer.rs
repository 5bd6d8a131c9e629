//! Answers: what is owed to whoever asked for a read or an append. Each is given exactly once.
//!
//! A request that is dropped unanswered (its queue died with a thread, the store was closed) answers
//! by itself: nobody waits for ever.

use super::{AppendDone, Appended, Miss, ReadDone, Rejection};

/// The answer to a read.
pub struct ReadAnswer(Option<ReadDone>);

/// The answer to an append.
pub struct AppendAnswer(Option<AppendDone>);

impl ReadAnswer {
    /// An answer for `done`.
    pub fn to(done: ReadDone) -> Self {
        Self(Some(done))
    }

    /// Gives it.
    pub fn give(mut self, outcome: Result<&[u8], Miss>) {
        let done = self.0.take().expect("`give` takes the answer with it");
        done(outcome);
    }
}

impl AppendAnswer {
    /// An answer for `done`.
    pub fn to(done: AppendDone) -> Self {
        Self(Some(done))
    }

    /// Gives it.
    pub fn give(mut self, outcome: Appended) {
        let done = self.0.take().expect("`give` takes the answer with it");
        done(outcome);
    }
}

impl Drop for ReadAnswer {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|done| done(Err(Miss::Failed)));
    }
}

impl Drop for AppendAnswer {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|done| done(Appended::Rejected(Rejection::Closed)));
    }
}
