//! A mount before its listing: the mountpoint is there, and whoever looks inside waits.
//!
//! The threads that wait are the session's own. That is no deadlock, since nothing that they wait for
//! touches the mount; it only means that until the listing is done the mount answers nothing but the
//! root's attributes, and those only while a thread is left.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuse_frontend::errno::Errno;
use fuse_frontend::source::{Attributes, Backing, Capacity, Entry, FileSource, Ino, NodeKind, Walk, Xattr};
use fuse_frontend::ticket::ReadTicket;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// Waits for a source and then passes everything on to it.
pub(super) struct EarlySource {
    state: Mutex<State>,
    changed: Condvar,
    began: SystemTime,
    ttl: Duration,
}

enum State {
    Listing,
    Serving(Arc<dyn FileSource>),
    Failed,
}

impl EarlySource {
    pub fn new(ttl: Duration) -> Self {
        Self { state: Mutex::new(State::Listing), changed: Condvar::new(), began: SystemTime::now(), ttl }
    }

    /// The listing is done: `source` answers from now on.
    pub fn serve(&self, source: Arc<dyn FileSource>) {
        *self.state.lock() = State::Serving(source);
        self.changed.notify_all();
    }

    /// There will be no listing: everybody who waits gets `EIO`.
    pub fn failed(&self) {
        *self.state.lock() = State::Failed;
        self.changed.notify_all();
    }

    fn source(&self) -> Result<Arc<dyn FileSource>, Errno> {
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Listing => self.changed.wait(&mut state),
                State::Serving(source) => return Ok(source.clone()),
                State::Failed => return Err(Errno::IO),
            }
        }
    }

    fn is_listing(&self) -> bool {
        matches!(*self.state.lock(), State::Listing)
    }
}

impl FileSource for EarlySource {
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attributes, Errno> {
        self.source()?.lookup(dir, name)
    }

    fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        if ino == Ino::ROOT && self.is_listing() {
            let kind = NodeKind::Directory;
            return Ok(Attributes { ino, kind, size_bytes: 0, modified: self.began, links: 2 });
        }
        self.source()?.attributes(ino)
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        if let Ok(source) = self.source() {
            source.forget(ino, lookups);
        }
    }

    fn entries(
        &self,
        dir: Ino,
        from: u64,
        count_lookups: bool,
        take: &mut dyn FnMut(Entry<'_>) -> Walk,
    ) -> Result<(), Errno> {
        self.source()?.entries(dir, from, count_lookups, take)
    }

    fn parent(&self, dir: Ino) -> Result<Ino, Errno> {
        self.source()?.parent(dir)
    }

    fn path(&self, ino: Ino) -> Option<Vec<u8>> {
        self.source().ok()?.path(ino)
    }

    fn read(&self, ino: Ino, offset: u64, len: u32, ticket: ReadTicket) {
        match self.source() {
            Ok(source) => source.read(ino, offset, len, ticket),
            Err(errno) => ticket.error(errno),
        }
    }

    fn backing(&self, ino: Ino) -> Option<Backing> {
        self.source().ok()?.backing(ino)
    }

    fn opened(&self, ino: Ino, asker: Option<u32>, passed_through: bool) {
        if let Ok(source) = self.source() {
            source.opened(ino, asker, passed_through);
        }
    }

    fn released(&self, ino: Ino) {
        if let Ok(source) = self.source() {
            source.released(ino);
        }
    }

    fn xattr(&self, ino: Ino, xattr: Xattr) -> Result<Bytes, Errno> {
        self.source()?.xattr(ino, xattr)
    }

    fn capacity(&self) -> Capacity {
        match self.is_listing() {
            true => Capacity::default(),
            false => self.source().map_or_else(|_| Capacity::default(), |source| source.capacity()),
        }
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }
}
