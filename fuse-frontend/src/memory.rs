//! A source in memory, for tests: of this crate, and of whoever needs a mount without a daemon.
//!
//! It keeps the port's promises to the letter (numbers name versions, lookups are counted, positions stay valid),
//! and a hook can take a read's ticket before it does: to stall it, to fail it, to answer it badly.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::errno::Errno;
use crate::source::{Attributes, Backing, Capacity, Entry, FileSource, Ino, NodeKind, Walk, Xattr};
use crate::ticket::ReadTicket;

/// Sees each read first; gives the ticket back to let the read go its way.
pub type ReadHook = dyn Fn(Ino, u64, u32, ReadTicket) -> Option<ReadTicket> + Send + Sync;

/// Gives the local file of a node, if it has one.
pub type BackingHook = dyn Fn(Ino) -> Option<File> + Send + Sync;

/// Files and directories in memory. The root exists; directories come with their files.
pub struct MemorySource {
    nodes: RwLock<Vec<Node>>,
    hook: RwLock<Option<Box<ReadHook>>>,
    backing: RwLock<Option<Box<BackingHook>>>,
    /// Files given to the kernel and not taken back, by node.
    lent: RwLock<HashMap<Ino, i64>>,
    hidden_paths: AtomicBool,
    ttl: Duration,
}

struct Node {
    kind: NodeKind,
    parent: Ino,
    /// Its name, or the one that it had.
    name: Vec<u8>,
    size_bytes: u64,
    /// None once the version was replaced: what is not in the kernel's cache is gone.
    bytes: Option<Bytes>,
    /// In the order of arrival, so that positions stay valid; a removed name leaves a hole.
    children: Vec<Option<(Vec<u8>, Ino)>>,
    places: HashMap<Vec<u8>, usize>,
    lookups: u64,
}

/// What [`MemorySource::replace`] did: what a notifier has to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// The directory of the name.
    pub parent: Ino,
    /// The number of the version that is gone.
    pub old: Ino,
    /// The number of the version that the name names now.
    pub new: Ino,
}

impl Default for MemorySource {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySource {
    /// An empty root, and an hour of validity.
    pub fn new() -> Self {
        Self::with_ttl(Duration::from_secs(3600))
    }

    /// An empty root; names and attributes are valid for `ttl`.
    pub fn with_ttl(ttl: Duration) -> Self {
        Self {
            nodes: RwLock::new(vec![Node::directory(Ino::ROOT)]),
            hook: RwLock::new(None),
            backing: RwLock::new(None),
            lent: RwLock::default(),
            hidden_paths: AtomicBool::new(false),
            ttl,
        }
    }

    /// Adds the file `path` (`a/b/c`) with its directories, and returns its number.
    ///
    /// # Panics
    /// If the path exists.
    pub fn add_file(&self, path: &str, bytes: impl Into<Bytes>) -> Ino {
        let nodes = &mut *self.nodes.write();
        let (dir, name) = directory_of(nodes, path);
        let bytes = bytes.into();
        let ino = push(nodes, Node::version(dir, name, bytes));
        nodes[index(dir)].name(name, ino);
        ino
    }

    /// Gives the name `path` a new version under a new number; the old one answers `ESTALE` from now on.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn replace(&self, path: &str, bytes: impl Into<Bytes>) -> Replaced {
        let nodes = &mut *self.nodes.write();
        let (parent, name) = directory_of(nodes, path);
        let place = nodes[index(parent)].places[name];
        let bytes = bytes.into();
        let new = push(nodes, Node::version(parent, name, bytes));
        let child = nodes[index(parent)].children[place].as_mut().expect("a place in the map is not a hole");
        let old = std::mem::replace(&mut child.1, new);
        nodes[index(old)].bytes = None;
        Replaced { parent, old, new }
    }

    /// Removes the name `path`; returns its directory's number.
    ///
    /// # Panics
    /// If there is no such name.
    pub fn remove(&self, path: &str) -> Ino {
        let nodes = &mut *self.nodes.write();
        let (parent, name) = directory_of(nodes, path);
        let dir = &mut nodes[index(parent)];
        let place = dir.places.remove(name).expect("the path exists");
        dir.children[place] = None;
        parent
    }

    /// Lets `hook` see each read before it is answered.
    pub fn on_read(
        &self,
        hook: impl Fn(Ino, u64, u32, ReadTicket) -> Option<ReadTicket> + Send + Sync + 'static,
    ) {
        *self.hook.write() = Some(Box::new(hook));
    }

    /// Lets `hook` say which nodes have a local file, taken to be as long as it is.
    pub fn on_backing(&self, hook: impl Fn(Ino) -> Option<File> + Send + Sync + 'static) {
        *self.backing.write() = Some(Box::new(hook));
    }

    /// Answers no question for a path any more.
    pub fn hide_paths(&self) {
        self.hidden_paths.store(true, Relaxed);
    }

    /// Local files of `ino` that the kernel has, by the calls of the port.
    pub fn lent(&self, ino: Ino) -> i64 {
        self.lent.read().get(&ino).copied().unwrap_or(0)
    }

    /// Local files that the kernel has, by the calls of the port.
    pub fn lent_in_all(&self) -> i64 {
        self.lent.read().values().sum()
    }

    /// Takes note of a revocation that answered `Now`, or of a call of `released`.
    pub fn take_back(&self, ino: Ino) {
        *self.lent.write().entry(ino).or_default() -= 1;
    }

    /// The kernel's references to `ino`.
    pub fn lookups(&self, ino: Ino) -> u64 {
        self.nodes.read()[index(ino)].lookups
    }

    fn attributes_of(nodes: &[Node], ino: Ino) -> Result<Attributes, Errno> {
        let node = nodes.get(index(ino)).ok_or(Errno::STALE)?;
        Ok(Attributes {
            ino,
            kind: node.kind,
            size_bytes: node.size_bytes,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            links: if node.kind == NodeKind::Directory { 2 } else { 1 },
        })
    }
}

impl Node {
    fn directory(parent: Ino) -> Self {
        Self { kind: NodeKind::Directory, ..Self::file(parent) }
    }

    fn version(parent: Ino, name: &[u8], bytes: Bytes) -> Self {
        Self { name: name.into(), size_bytes: bytes.len() as u64, bytes: Some(bytes), ..Self::file(parent) }
    }

    fn file(parent: Ino) -> Self {
        Self {
            kind: NodeKind::File,
            parent,
            name: Vec::new(),
            size_bytes: 0,
            bytes: None,
            children: Vec::new(),
            places: HashMap::new(),
            lookups: 0,
        }
    }

    fn name(&mut self, name: &[u8], ino: Ino) {
        let before = self.places.insert(name.to_vec(), self.children.len());
        assert!(before.is_none(), "{} exists", String::from_utf8_lossy(name));
        self.children.push(Some((name.to_vec(), ino)));
    }

    fn child(&self, name: &[u8]) -> Option<Ino> {
        let place = *self.places.get(name)?;
        self.children[place].as_ref().map(|(_, ino)| *ino)
    }
}

/// Numbers are dense and start at 1.
fn index(ino: Ino) -> usize {
    usize::try_from(ino.0 - 1).expect("a number of ours")
}

fn push(nodes: &mut Vec<Node>, node: Node) -> Ino {
    nodes.push(node);
    Ino(nodes.len() as u64)
}

/// The directory of `path`, made if it is not there, and the last name.
fn directory_of<'p>(nodes: &mut Vec<Node>, path: &'p str) -> (Ino, &'p [u8]) {
    let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut dir = Ino::ROOT;
    for part in dirs.split('/').filter(|part| !part.is_empty()) {
        dir = nodes[index(dir)].child(part.as_bytes()).unwrap_or_else(|| {
            let ino = push(nodes, Node { name: part.into(), ..Node::directory(dir) });
            nodes[index(dir)].name(part.as_bytes(), ino);
            ino
        });
    }
    (dir, name.as_bytes())
}

impl FileSource for MemorySource {
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attributes, Errno> {
        let nodes = &mut *self.nodes.write();
        let node = nodes.get(index(dir)).ok_or(Errno::STALE)?;
        if node.kind == NodeKind::File {
            return Err(Errno::NOTDIR);
        }
        let ino = node.child(name).ok_or(Errno::NOENT)?;
        nodes[index(ino)].lookups += 1;
        Self::attributes_of(nodes, ino)
    }

    fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        Self::attributes_of(&self.nodes.read(), ino)
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        let held = &mut self.nodes.write()[index(ino)].lookups;
        *held = held.checked_sub(lookups).expect("the kernel drops no more than it holds");
    }

    fn entries(
        &self,
        dir: Ino,
        from: u64,
        count_lookups: bool,
        take: &mut dyn FnMut(Entry<'_>) -> Walk,
    ) -> Result<(), Errno> {
        let nodes = &mut *self.nodes.write();
        let node = nodes.get(index(dir)).ok_or(Errno::STALE)?;
        if node.kind == NodeKind::File {
            return Err(Errno::NOTDIR);
        }
        let mut taken = Vec::new();
        for (place, child) in node.children.iter().enumerate().skip(from as usize) {
            let Some((name, ino)) = child else { continue };
            let attributes = Self::attributes_of(nodes, *ino)?;
            if take(Entry { name, attributes, next: place as u64 + 1 }) == Walk::Stop {
                break;
            }
            taken.push(*ino);
        }
        for ino in taken.into_iter().filter(|_| count_lookups) {
            nodes[index(ino)].lookups += 1;
        }
        Ok(())
    }

    fn parent(&self, dir: Ino) -> Result<Ino, Errno> {
        self.nodes.read().get(index(dir)).map(|node| node.parent).ok_or(Errno::STALE)
    }

    fn path(&self, ino: Ino) -> Option<Vec<u8>> {
        if self.hidden_paths.load(Relaxed) {
            return None;
        }
        let nodes = self.nodes.read();
        let node = nodes.get(index(ino))?;
        if ino == Ino::ROOT {
            return Some(Vec::new());
        }
        let (name, parent) = (node.name.clone(), node.parent);
        drop(nodes);
        let above = self.path(parent)?;
        Some(if above.is_empty() { name } else { [&above[..], b"/", &name].concat() })
    }

    fn read(&self, ino: Ino, offset: u64, len: u32, ticket: ReadTicket) {
        let ticket = match &*self.hook.read() {
            Some(hook) => hook(ino, offset, len, ticket),
            None => Some(ticket),
        };
        let Some(ticket) = ticket else { return };
        let Some(bytes) = self.nodes.read()[index(ino)].bytes.clone() else {
            return ticket.error(Errno::STALE);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(len as usize).min(bytes.len());
        ticket.data(&bytes[start..end]);
    }

    fn backing(&self, ino: Ino) -> Option<Backing> {
        let file = self.backing.read().as_ref().and_then(|hook| hook(ino))?;
        let len = file.metadata().ok()?.len();
        *self.lent.write().entry(ino).or_default() += 1;
        Some(Backing { file, len })
    }

    fn released(&self, ino: Ino) {
        self.take_back(ino);
    }

    fn xattr(&self, ino: Ino, xattr: Xattr) -> Result<Bytes, Errno> {
        let nodes = self.nodes.read();
        let node = nodes.get(index(ino)).ok_or(Errno::STALE)?;
        match (xattr, node.kind) {
            (Xattr::Etag, NodeKind::File) => Ok(format!("\"version-{}\"", ino.0).into()),
            (Xattr::Etag, NodeKind::Directory) => Err(Errno::NODATA),
            (Xattr::Origin, _) => Ok(format!("memory:///{}", ino.0).into()),
        }
    }

    fn capacity(&self) -> Capacity {
        let nodes = self.nodes.read();
        let files = nodes.iter().filter(|node| node.bytes.is_some());
        files.fold(Capacity::default(), |sum, node| Capacity {
            total_bytes: sum.total_bytes + node.size_bytes,
            files: sum.files + 1,
        })
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_version_keeps_its_attributes_and_loses_its_bytes() {
        let source = MemorySource::new();
        let old = source.add_file("a/b", "old!");
        let replaced = source.replace("a/b", "newer");
        assert_eq!(replaced.old, old);
        assert_eq!(source.attributes(old).map(|node| node.size_bytes), Ok(4));
        assert_eq!(source.lookup(replaced.parent, b"b").map(|node| node.ino), Ok(replaced.new));
        assert_eq!((source.lookups(old), source.lookups(replaced.new)), (0, 1));
    }

    #[test]
    fn a_walk_that_stops_goes_on_where_it_stopped() {
        let source = MemorySource::new();
        for name in ["a", "b", "c"] {
            source.add_file(name, "");
        }
        source.remove("b");
        let mut seen = Vec::new();
        let mut from = 0;
        while seen.len() < 2 {
            let start = from;
            let mut take = |entry: Entry<'_>| {
                if from != start {
                    return Walk::Stop;
                }
                from = entry.next;
                seen.push(entry.name.to_vec());
                Walk::Continue
            };
            source.entries(Ino::ROOT, start, true, &mut take).expect("the root is a directory");
        }
        assert_eq!(seen, [b"a".to_vec(), b"c".to_vec()]);
        assert_eq!(source.lookup(Ino::ROOT, b"a").map(|node| source.lookups(node.ino)), Ok(2));
    }
}
