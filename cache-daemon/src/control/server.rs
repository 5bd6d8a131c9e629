//! The daemon's end of the control socket.
//!
//! One thread accepts, and each client gets a thread for its one request. A client can hold a slot for
//! `control_patience` without sending its line, and as long for each line that it does not take: slow
//! drips do not extend it. Above `control_clients_max` clients are told to come back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, shutdown, socket, sockopt,
};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::{
    Answer, AnswerLine, Answers, ControlFigures, PROTOCOL_VERSION, RequestLine, SocketDir, VersionOfLine,
    encode,
};
use crate::config::Limits;

/// Held by the daemon that owns the socket, and dropped by the kernel however it ends.
const LOCK_NAME: &str = "control.lock";
/// How long [`Server::stop`] waits for clients in the middle of an answer.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another daemon lives in this cache directory.
    #[error(
        "cache directory {0} is in use by another daemon; unmount it (`cachectl list` shows it), or choose another directory"
    )]
    InUse(PathBuf),
    /// The socket could not be made.
    #[error("no control socket in {path}: {error}", path = path.display())]
    Io {
        /// The cache directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

/// A control socket that is being served. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    listener: Arc<UnixListener>,
    accepting: Option<thread::JoinHandle<()>>,
    dir: SocketDir,
    _lock: CacheDirLock,
}

struct Shared {
    answers: Arc<dyn Answers>,
    figures: Arc<ControlFigures>,
    clients: Mutex<Clients>,
    one_left: Condvar,
    clients_max: usize,
    request_bytes_max: usize,
    patience: Duration,
}

#[derive(Default)]
struct Clients {
    stopping: bool,
    next_id: u64,
    /// The streams being served, to be cut off when stopping.
    streams: Vec<(u64, Arc<UnixStream>)>,
}

/// A cache directory that is this daemon's alone, for as long as this lives.
pub struct CacheDirLock {
    cache_dir: PathBuf,
    _lock: Flock<File>,
}

impl CacheDirLock {
    /// Locks `cache_dir`; a live daemon's is an error.
    pub fn take(cache_dir: &Path) -> Result<Self, ServerError> {
        let failed = |error: io::Error| ServerError::Io { path: cache_dir.to_owned(), error };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(cache_dir.join(LOCK_NAME)).map_err(failed)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => ServerError::InUse(cache_dir.to_owned()),
            errno => failed(errno.into()),
        })?;
        Ok(Self { cache_dir: cache_dir.to_owned(), _lock: lock })
    }
}

impl Server {
    /// Takes the control socket of the locked cache directory and answers through `answers`.
    ///
    /// A socket that a dead daemon left is replaced.
    pub fn start(
        lock: CacheDirLock,
        limits: &Limits,
        figures: Arc<ControlFigures>,
        answers: Arc<dyn Answers>,
    ) -> Result<Self, ServerError> {
        let failed = |error: io::Error| ServerError::Io { path: lock.cache_dir.clone(), error };
        let dir = SocketDir::open(&lock.cache_dir).map_err(failed)?;
        let listener = Arc::new(listen_at(&dir.socket()).map_err(failed)?);
        let shared = Arc::new(Shared {
            answers,
            figures,
            clients: Mutex::default(),
            one_left: Condvar::new(),
            clients_max: limits.control_clients_max,
            request_bytes_max: limits.control_request_bytes_max,
            patience: limits.control_patience,
        });
        let accepting = {
            let (shared, listener) = (shared.clone(), listener.clone());
            let thread = thread::Builder::new().name("control".into());
            thread.spawn(move || accept(&shared, &listener)).map_err(failed)?
        };
        Ok(Self { shared, listener, accepting: Some(accepting), dir, _lock: lock })
    }

    /// Takes no more clients, cuts off those that are served, and removes the socket.
    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        {
            let mut clients = self.shared.clients.lock();
            clients.stopping = true;
            for (_, stream) in &clients.streams {
                // Reads only: an answer that is being written may still reach its client.
                let _ = stream.shutdown(Shutdown::Read);
            }
        }
        // Shutting a listening socket down wakes its accept(2) with EINVAL (net/unix/af_unix.c, unix_accept).
        let _ = shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        let _ = accepting.join();
        self.shared.wait_for_clients(STOP_PATIENCE);
        let _ = std::fs::remove_file(self.dir.socket());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A listening socket at `path`, mode 0600 from its first moment; whatever was there is removed.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // bind(2) gives the file the mode of the socket's inode (net/unix/af_unix.c, unix_bind_bsd): no moment of 0755.
    nix::sys::stat::fchmod(fd.as_fd(), nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(16)?)?;
    Ok(UnixListener::from(fd))
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            Err(_) if shared.clients.lock().stopping => return,
            Err(error) => {
                // EMFILE and the like pass; a busy loop until then helps nobody.
                tracing::warn!(%error, "control socket: accept failed");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(id) = shared.admit(&stream) else {
            if shared.clients.lock().stopping {
                return;
            }
            continue;
        };
        let client = {
            let (shared, stream) = (shared.clone(), stream.clone());
            move || shared.serve(id, &stream)
        };
        if let Err(error) = thread::Builder::new().name("control-client".into()).spawn(client) {
            tracing::warn!(%error, "control socket: no thread for a client");
            shared.leave(id);
        }
    }
}

impl Shared {
    /// A slot for `stream`, or a refusal sent to it.
    fn admit(&self, stream: &Arc<UnixStream>) -> Option<u64> {
        // For the refusal as well: it must not hold up the accepting thread.
        let timed = stream.set_write_timeout(Some(self.patience));
        if let Err(why) = peer_is_trusted(stream) {
            self.turn_away(stream, why);
            return None;
        }
        let mut clients = self.clients.lock();
        if clients.stopping || timed.is_err() {
            return None;
        }
        if clients.streams.len() >= self.clients_max {
            drop(clients);
            self.turn_away(stream, "too many clients: try again in a few seconds");
            return None;
        }
        let id = clients.next_id;
        clients.next_id += 1;
        clients.streams.push((id, stream.clone()));
        self.figures.clients.add(1);
        Some(id)
    }

    fn turn_away(&self, stream: &UnixStream, why: &str) {
        self.figures.refused.increment();
        send(stream, Answer::Error(why.to_owned()));
    }

    fn leave(&self, id: u64) {
        self.clients.lock().streams.retain(|(other, _)| *other != id);
        self.figures.clients.sub(1);
        self.one_left.notify_all();
    }

    fn wait_for_clients(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut clients = self.clients.lock();
        while !clients.streams.is_empty() {
            if self.one_left.wait_until(&mut clients, until).timed_out() {
                tracing::warn!(clients = clients.streams.len(), "control socket: clients left behind");
                return;
            }
        }
    }

    fn serve(&self, id: u64, stream: &UnixStream) {
        // A panic in an answer must not keep the slot.
        let _slot = Slot { shared: self, id };
        let request = match self.request(stream) {
            Ok(request) => request,
            Err(why) => return self.turn_away(stream, &why),
        };
        self.figures.requests.increment();
        tracing::debug!(?request, "control socket");
        let mut item = |value: Value| send(stream, Answer::Item(value)) && !self.clients.lock().stopping;
        match self.answers.answer(request, &mut item) {
            Ok(()) => send(stream, Answer::End {}),
            Err(refusal) => send(stream, Answer::Error(refusal.to_string())),
        };
    }

    /// Reads and decodes the one request, or says what is wrong with it.
    fn request(&self, stream: &UnixStream) -> Result<super::Request, String> {
        let line = read_line(stream, self.request_bytes_max, self.patience)?;
        decode_request(&line)
    }
}

/// The request in `line`, or what is wrong with it.
pub(crate) fn decode_request(line: &[u8]) -> Result<super::Request, String> {
    let VersionOfLine { v } =
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
    if v != PROTOCOL_VERSION {
        return Err(format!(
            "this daemon ({}) speaks version {PROTOCOL_VERSION} of the control protocol, the client version {v}: use the cachectl of the daemon's release",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let line: RequestLine =
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
    Ok(line.request)
}

struct Slot<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

fn peer_is_trusted(stream: &UnixStream) -> Result<(), &'static str> {
    let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|_| "who asks is not known")?;
    let ours = nix::unistd::geteuid().as_raw();
    if peer.uid() == ours || peer.uid() == 0 {
        return Ok(());
    }
    Err("this daemon belongs to another user")
}

/// Reads up to a newline, which is left out: at most `bytes_max` bytes, within `patience` as a whole.
fn read_line(mut stream: &UnixStream, bytes_max: usize, patience: Duration) -> Result<Vec<u8>, String> {
    let until = Instant::now() + patience;
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // A timeout of zero would mean none at all.
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Err("no request in time".into());
        }
        let read = match stream.read(&mut piece) {
            Ok(0) => return Err("the request has no end".into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err("no request in time".into()),
        };
        let end = piece[..read].iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(&piece[..end.unwrap_or(read)]);
        if line.len() > bytes_max {
            return Err(format!("the request is longer than {bytes_max} bytes"));
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

/// Sends one line, and says whether the client took it within its patience.
fn send(mut stream: &UnixStream, answer: Answer) -> bool {
    let line = encode(&AnswerLine { v: PROTOCOL_VERSION, answer });
    // Rust ignores SIGPIPE in main: a client that went away is an error here, not a signal.
    let sent = stream.write_all(&line);
    if sent.is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    sent.is_ok()
}
