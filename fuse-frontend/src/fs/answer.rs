//! The answer to one READ, on its way to the kernel from whichever thread has it.

use std::sync::Arc;
use std::time::Instant;

use fuser::ReplyData;

use crate::askers;
use crate::errno::Errno;
use crate::figures::RequestCounts;
use crate::source::Ino;
use crate::ticket::Answer;

/// Where a READ's answer goes.
pub(super) struct KernelAnswer {
    pub reply: ReplyData,
    pub ino: Ino,
    pub offset: u64,
    /// The thread that asks.
    pub asker: u32,
    /// Bytes that the answer must have.
    pub expected: usize,
    pub started: Instant,
    pub counts: Arc<RequestCounts>,
}

impl Answer for KernelAnswer {
    fn data(self: Box<Self>, bytes: &[u8]) {
        if bytes.len() != self.expected {
            self.counts.wrong_length();
            tracing::error!(
                ino = self.ino.0,
                offset = self.offset,
                expected_bytes = self.expected,
                answered_bytes = bytes.len(),
                "a read was answered with a wrong length; the reader gets EIO"
            );
            return self.error(Errno::IO);
        }
        // Counted first: whoever has the bytes finds them in the figures.
        let elapsed = self.started.elapsed();
        self.counts.read_answered(bytes.len(), elapsed);
        self.counts.askers().answered(self.asker, bytes.len(), elapsed);
        self.reply.data(bytes);
    }

    fn error(self: Box<Self>, errno: Errno) {
        self.counts.failed(errno);
        self.counts.read_answered(0, self.started.elapsed());
        self.reply.error(fuser::Errno::from_i32(errno.0));
    }

    fn asker(&self) -> Option<u32> {
        askers::known(self.asker)
    }
}
