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

use super::{Cache, Deed, WantedBy};
use crate::object::{Fingerprint, Object};

/// What comes of a push: the pusher's word, or why the bytes could not be had.
pub type PushOutcome = Result<Pushed, Errno>;

/// A read whose answer goes into the page cache.
struct Pushing {
    cache: Arc<Cache>,
    pusher: Arc<Pusher>,
    ino: Ino,
    version: Fingerprint,
    offset: u64,
    done: Box<dyn FnOnce(PushOutcome) + Send>,
}

impl Cache {
    /// Puts `len` bytes at `offset` of node `ino`, which is `object`, into the page cache. Never waits; `done` is told once what
    /// came of it, on any thread.
    pub fn push(
        self: &Arc<Self>,
        pusher: &Arc<Pusher>,
        ino: Ino,
        object: &Arc<Object>,
        (offset, len): (u64, u32),
        done: impl FnOnce(PushOutcome) + Send + 'static,
    ) {
        let pushing = Pushing {
            cache: self.clone(),
            pusher: pusher.clone(),
            ino,
            version: object.fingerprint,
            offset,
            done: Box::new(done),
        };
        self.give(ino, object, (offset, len), WantedBy::Nobody, ReadTicket::new(pushing));
    }
}

impl Answer for Pushing {
    fn data(self: Box<Self>, bytes: &[u8]) {
        let Self { cache, pusher, ino, version, offset, done } = *self;
        let journal = cache.journal.clone();
        pusher.push(Push {
            ino,
            offset,
            bytes: Bytes::copy_from_slice(bytes),
            // A number of a version that is gone rests for two listings and may then be another's. The kernel keeps it
            // from that only once it has looked it up.
            is_current: Box::new(move || {
                cache.catalog.object(ino).is_some_and(|object| object.fingerprint == version)
            }),
            done: Box::new(move |pushed| {
                if let Pushed::Stored { bytes } = pushed {
                    journal.note(ino, offset, bytes, Deed::Pushed);
                }
                done(Ok(pushed));
            }),
        });
    }

    fn error(self: Box<Self>, errno: Errno) {
        (self.done)(Err(errno));
    }
}
