//! Orders: what training scripts say that they will read, a path a line, in files that they leave in a directory.
//!
//! The mount is read-only and sees neither writes nor closes, so the directory is one on a real file system, found
//! through the symlink `.epochcache` in the mount's root. A file whose name begins with `order` is taken when it
//! is closed after writing or renamed into the directory, and removed: so a script sees that it was taken, and
//! nothing piles up.
//!
//! A line `# epoch N` before the first path says which epoch it is for (`numbered.rs`).
//!
//! Whoever can read the mount may tell an order, and nobody is believed for more than an order's first fetches
//! (`policy/readahead/order.rs`). What is not a regular file, is owned by somebody else or is too large is refused.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, bounded};
use fuse_frontend::source::NodeKind;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::AsFd;

use super::numbered::Numbered;
use crate::access::FileNo;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::control::OrderTold;
use crate::policy::readahead::{Order, Purpose};

/// Names of files that are orders begin so.
const ORDER_NAME: &[u8] = b"order";

/// Bytes of an order: ten million lines of a hundred bytes.
const BYTES_MAX: u64 = 1 << 30;

/// Lines of an order.
const LINES_MAX: u64 = 10_000_000;

/// Bytes of a line: no path is longer (`PATH_MAX`).
const LINE_BYTES_MAX: usize = 4_096;

/// Orders that wait for the planner.
const WAITING_MAX: usize = 8;

/// How often the thread looks whether it is to end, in milliseconds.
const LOOK_EVERY_MS: u16 = 500;

/// The directory of orders of a mount.
#[derive(Clone, Debug)]
pub(super) struct OrderDirectory {
    path: PathBuf,
    /// Whose orders are taken; everybody's if empty.
    owners: Vec<u32>,
}

impl OrderDirectory {
    /// Makes the directory, for everybody where everybody may enter the mount.
    pub fn make(config: &Config) -> io::Result<Self> {
        let path = config.prefetch.order_dir.clone();
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let everybody = config.mount.allow_other;
        fs::set_permissions(&path, fs::Permissions::from_mode(if everybody { 0o1777 } else { 0o700 }))?;
        let owners = match everybody {
            true => Vec::new(),
            false => vec![0, nix::unistd::geteuid().as_raw(), config.mount.uid],
        };
        Ok(Self { path, owners })
    }

    /// Takes orders from now on, on a thread of its own.
    pub fn watch(self, reader: OrderReader) -> Option<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        let wanted = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(&self.path, wanted).ok()?;
        let (sender, orders) = bounded(WAITING_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || self.run(&inotify, &reader, &sender, &stopped);
        let thread = std::thread::Builder::new().name("orders".into()).spawn(run).ok()?;
        Some(Watcher { orders, stop, thread: Some(thread) })
    }

    fn run(&self, inotify: &Inotify, reader: &OrderReader, orders: &Sender<Order>, stopped: &AtomicBool) {
        while !stopped.load(Relaxed) {
            let mut ready = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            // A signal is another reason to look.
            let _ = poll(&mut ready, PollTimeout::from(LOOK_EVERY_MS));
            let Ok(events) = inotify.read_events() else { continue };
            for name in events.into_iter().filter_map(|event| event.name) {
                if name.as_bytes().starts_with(ORDER_NAME) {
                    self.take(&name.to_string_lossy(), &self.path.join(&name), reader, orders);
                }
            }
        }
    }

    /// Takes the order in `path` and removes it.
    fn take(&self, name: &str, path: &Path, reader: &OrderReader, orders: &Sender<Order>) {
        let told = reader.tell(path, &self.owners, name, None);
        // Already gone if two events were about it.
        let _ = fs::remove_file(path);
        match told {
            Ok((order, told)) => {
                tracing::info!(
                    order = name,
                    files = told.files,
                    unknown = told.unknown,
                    twice = told.twice,
                    epoch = told.epoch,
                    waits = told.waits,
                    "an order was told"
                );
                if order.is_some_and(|order| orders.try_send(order).is_err()) {
                    tracing::warn!(order = name, "too many orders at once: not followed");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(order = name, %error, "an order was refused"),
        }
    }
}

/// Takes orders until it is dropped.
pub(super) struct Watcher {
    orders: Receiver<Order>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// The next order that was told.
    pub fn next(&self) -> Option<Order> {
        self.orders.try_recv().ok()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Reads orders of a data set.
#[derive(Clone)]
pub(super) struct OrderReader {
    catalog: Arc<Catalog>,
    mountpoint: PathBuf,
    numbered: Arc<Numbered>,
}

impl OrderReader {
    /// Reads orders of files of `catalog`, also by their paths under `mountpoint`.
    pub fn new(catalog: Arc<Catalog>, mountpoint: PathBuf) -> Self {
        Self { catalog, mountpoint, numbered: Arc::default() }
    }

    /// The epochs of those that have numbers.
    pub fn numbered(&self) -> &Arc<Numbered> {
        &self.numbered
    }

    /// Takes the order in the file at `path`, told by `name` for `epoch`, or for the one that the file says; none of it if it
    /// waits for its epoch.
    pub fn tell(
        &self,
        path: &Path,
        owners: &[u32],
        name: &str,
        epoch: Option<u64>,
    ) -> io::Result<(Option<Order>, OrderTold)> {
        let (order, mut told) = self.read(path, owners)?;
        told.epoch = epoch.or(told.epoch);
        let order = match told.epoch {
            Some(epoch) => self.numbered.tell(name, epoch, order.named(name), Instant::now()),
            None => Ok(Some(order.named(name))),
        };
        let order = order.map_err(io::Error::other)?;
        told.waits = order.is_none();
        Ok((order, told))
    }

    /// The order in the file at `path`, if it belongs to one of `owners` (to anybody, if there are none).
    pub fn read(&self, path: &Path, owners: &[u32]) -> io::Result<(Order, OrderTold)> {
        // Neither waits for the other end of a pipe nor follows a link to what only the daemon may read.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let meta = file.metadata()?;
        let refused = |why: String| Err(io::Error::other(why));
        if !meta.is_file() {
            return refused("it is not a regular file".into());
        }
        if !owners.is_empty() && !owners.contains(&meta.uid()) {
            return refused(format!(
                "it belongs to user {}: mount with --allow-other to take it",
                meta.uid()
            ));
        }
        if meta.len() > BYTES_MAX {
            return refused(format!("it has {} bytes; an order has {BYTES_MAX} at most", meta.len()));
        }
        self.parse(file)
    }

    fn parse(&self, file: File) -> io::Result<(Order, OrderTold)> {
        let (files, mut told) = parse(BufReader::with_capacity(1 << 20, file), &|path| self.file(path))?;
        let lines = files.len() as u64;
        let order = Order::new(Purpose::Told, files);
        told.files = order.len() as u64;
        told.twice = lines - told.files;
        if told.files == 0 || told.unknown > lines {
            let why = format!(
                "{} of its {} paths are files here; a line is a path from the mountpoint",
                lines,
                lines + told.unknown
            );
            return Err(io::Error::other(why));
        }
        Ok((order, told))
    }

    /// The file at `path`, from the root of the mount, or with the mountpoint before it.
    fn file(&self, path: &[u8]) -> Option<FileNo> {
        let relative = path.strip_prefix(self.mountpoint.as_os_str().as_bytes()).unwrap_or(path);
        let relative = relative.strip_prefix(b"./").unwrap_or(relative);
        let ino = self.catalog.resolve(relative)?;
        let is_file = self.catalog.attributes(ino)?.kind == NodeKind::File;
        is_file.then(|| u32::try_from(ino.0).ok().map(FileNo)).flatten()
    }
}

/// The files that lines name, in order. Empty lines and those that begin with `#` mean nothing, but `# epoch N` before all
/// others.
fn parse(
    mut lines: impl BufRead,
    file: &dyn Fn(&[u8]) -> Option<FileNo>,
) -> io::Result<(Vec<FileNo>, OrderTold)> {
    let (mut files, mut told, mut line, mut count) = (Vec::new(), OrderTold::default(), Vec::new(), 0);
    loop {
        line.clear();
        // Bounded: a file without newlines is not read into memory.
        let read = io::Read::take(&mut lines, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok((files, told));
        }
        count += 1;
        if count > LINES_MAX {
            return Err(io::Error::other(format!("it has more than {LINES_MAX} lines")));
        }
        if read > LINE_BYTES_MAX {
            return Err(io::Error::other(format!("line {count} is longer than a path can be")));
        }
        let path = line.trim_ascii_end();
        if path.is_empty() || path[0] == b'#' {
            if files.is_empty() && told.unknown == 0 {
                told.epoch = told.epoch.or_else(|| epoch_of(path));
            }
            continue;
        }
        match file(path) {
            Some(file) => files.push(file),
            None => told.unknown += 1,
        }
    }
}

/// N of `# epoch N`.
fn epoch_of(line: &[u8]) -> Option<u64> {
    let words = std::str::from_utf8(line).ok()?.strip_prefix('#')?;
    words.trim_start().strip_prefix("epoch ")?.trim_start().parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Files `a` to `z`.
    fn file(path: &[u8]) -> Option<FileNo> {
        match path {
            [letter] if letter.is_ascii_lowercase() => Some(FileNo(u32::from(*letter))),
            _ => None,
        }
    }

    #[test]
    fn lines_are_paths_and_what_is_none_is_counted() {
        let text = b"# of rank 1\nb\r\na\n\n../a\nnothing\nb\nc";
        let (files, told) = parse(&text[..], &file).expect("it is well-formed");
        assert_eq!(files, b"babc".map(|letter| FileNo(u32::from(letter))));
        assert_eq!((told.unknown, told.epoch), (2, None));
    }

    #[test]
    fn a_line_at_the_head_says_which_epoch_it_is_for() {
        let epoch = |text: &str| parse(text.as_bytes(), &file).expect("it is well-formed").1.epoch;
        for text in ["# epoch 3\na", "#epoch 3\r\na\n", "# by rank 0\n\n#   epoch   3\n# epoch 4\na"] {
            assert_eq!(epoch(text), Some(3), "{text:?}");
        }
        for text in ["a\n# epoch 3\n", "x y\n# epoch 3\n", "# epoch three\na", "# epoch3\na", "# epoch -1\na"]
        {
            assert_eq!(epoch(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_file_without_lines_is_refused_before_it_fills_the_memory() {
        let endless = vec![b'x'; 1 << 20];
        assert!(parse(&endless[..], &file).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_order_or_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok((files, told)) = parse(&bytes[..], &file) {
                let lines = bytes.split(|&byte| byte == b'\n').count();
                prop_assert!(files.len() + told.unknown as usize <= lines);
            }
        }
    }
}
