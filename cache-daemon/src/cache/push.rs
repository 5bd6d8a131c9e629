//! Push: bytes of an object on their way into the kernel's page cache, before anybody reads them.
//!
//! They are had as for a reader, from the store, or from the origin if they are not there, and then stored; but nobody who
//! plans by what readers ask for takes it for a reader's wish. They arrive on a
//! thread that answers readers, which must not speak to the kernel about pages (docs/architecture.md, the deadlock rule):
//! so they are copied once and handed to the pusher's own threads.

use std::sync::Arc;

use bytes::Bytes;
use fuse_frontend::errno::Errno;
use fuse_frontend::push::{Push, Pushed, Pusher};
use fuse_frontend::source::Ino;
use fuse_frontend::ticket::{Answer, ReadTicket};

use super::{Cache, Deed, Turn, WantedBy};
use crate::object::{Fingerprint, Object};

/// What comes of a push: the pusher's word, or why it never came to that.
pub type PushOutcome = Result<Pushed, NotPushed>;

/// Why nothing was handed to the pusher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotPushed {
    /// The bytes could not be had.
    Unavailable(Errno),
    /// A reader asked for the file first, and has them.
    TooLate,
}

/// A read whose answer goes into the page cache.
struct Pushing {
    cache: Arc<Cache>,
    pusher: Arc<Pusher>,
    ino: Ino,
    version: Fingerprint,
    offset: u64,
    since: Option<Turn>,
    done: Box<dyn FnOnce(PushOutcome) + Send>,
}

impl Cache {
    /// Puts `len` bytes at `offset` of node `ino`, which is `object`, into the page cache, unless a reader asked for the file in the
    /// turn `since` or later. Never waits; `done` is told once what came of it, on any thread.
    pub fn push(
        self: &Arc<Self>,
        pusher: &Arc<Pusher>,
        ino: Ino,
        object: &Arc<Object>,
        (offset, len): (u64, u32),
        since: Option<Turn>,
        done: impl FnOnce(PushOutcome) + Send + 'static,
    ) {
        let pushing = Pushing {
            cache: self.clone(),
            pusher: pusher.clone(),
            ino,
            version: object.fingerprint,
            offset,
            since,
            done: Box::new(done),
        };
        self.give(ino, object, (offset, len), WantedBy::Nobody, ReadTicket::new(pushing));
    }
}

impl Answer for Pushing {
    fn data(self: Box<Self>, bytes: &[u8]) {
        let Self { cache, pusher, ino, version, offset, since, done } = *self;
        let is_late = {
            let cache = cache.clone();
            move || since.is_some_and(|turn| cache.requests.was_asked_since(ino, turn))
        };
        if is_late() {
            return done(Err(NotPushed::TooLate));
        }
        let journal = cache.journal.clone();
        let comes_too_late = is_late.clone();
        pusher.push(Push {
            ino,
            offset,
            bytes: Bytes::copy_from_slice(bytes),
            // A number of a version that is gone rests for two listings and may then be another's. The kernel keeps it
            // from that only once it has looked it up. Nor is it pushed if its reader came while it waited here.
            is_current: Box::new(move || {
                !comes_too_late()
                    && cache.catalog.object(ino).is_some_and(|object| object.fingerprint == version)
            }),
            done: Box::new(move |pushed| match pushed {
                Pushed::Outdated if is_late() => done(Err(NotPushed::TooLate)),
                Pushed::Stored { bytes } => {
                    journal.note(ino, offset, bytes, Deed::Pushed);
                    done(Ok(pushed));
                }
                _ => done(Ok(pushed)),
            }),
        });
    }

    fn error(self: Box<Self>, errno: Errno) {
        (self.done)(Err(NotPushed::Unavailable(errno)));
    }
}
