//! cachectl's end of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Answer, AnswerLine, PROTOCOL_VERSION, Request, RequestLine, SocketDir, encode};

/// A daemon that sends nothing for so long hangs. Long answers send a line a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// No line of an answer is near it.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Why a daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon runs on cache directory {0}; `cachectl list` shows those that run")]
    NoDaemon(PathBuf),
    /// The socket is somebody else's.
    #[error("the daemon on cache directory {0} belongs to another user; ask as that user or as root")]
    NotOurs(PathBuf),
    /// The daemon does not do it.
    #[error("{0}")]
    Refused(String),
    /// What came back is not the protocol.
    #[error("the daemon's answer makes no sense ({0}); are cachectl and the daemon of the same release?")]
    Nonsense(String),
    /// The connection broke or timed out.
    #[error("the daemon does not answer: {0}; its log says why")]
    Io(#[from] io::Error),
}

/// A connection to a daemon, good for one request.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the daemon of `cache_dir`.
    pub fn connect(cache_dir: &Path) -> Result<Self, ClientError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                ClientError::NoDaemon(cache_dir.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::NotOurs(cache_dir.to_owned()),
            _ => error.into(),
        };
        let dir = SocketDir::open(cache_dir).map_err(failed)?;
        let stream = UnixStream::connect(dir.socket()).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// The daemon's process as the kernel knows it; `None` if it lives in a PID namespace that we do not see.
    pub fn daemon_pid(&self) -> Option<i32> {
        let peer = getsockopt(&self.stream, sockopt::PeerCredentials).ok()?;
        (peer.pid() > 0).then_some(peer.pid())
    }

    /// Asks for one answer.
    pub fn ask<T: DeserializeOwned>(self, request: &Request) -> Result<T, ClientError> {
        let mut first = None;
        self.stream(request, |item| {
            first.get_or_insert(item);
            true
        })?;
        let item = first.ok_or_else(|| ClientError::Nonsense("it is empty".into()))?;
        serde_json::from_value(item).map_err(|error| ClientError::Nonsense(error.to_string()))
    }

    /// Asks, and hands each item of the answer to `item` until it says `false` or the answer is over.
    pub fn stream(
        mut self,
        request: &Request,
        mut item: impl FnMut(Value) -> bool,
    ) -> Result<(), ClientError> {
        let line = encode(&RequestLine { v: PROTOCOL_VERSION, request: request.clone() });
        // A daemon that turns us away answers and closes without reading: its words are worth more than EPIPE.
        let sent = self.stream.write_all(&line);
        let mut answers = BufReader::new(self.stream);
        loop {
            match next_answer(&mut answers) {
                Ok(Answer::Item(value)) => {
                    if !item(value) {
                        return Ok(());
                    }
                }
                Ok(Answer::End {}) => return Ok(()),
                Ok(Answer::Error(why)) => return Err(ClientError::Refused(why)),
                Err(error) => return Err(sent.err().map_or(error, ClientError::Io)),
            }
        }
    }
}

fn next_answer(answers: &mut BufReader<UnixStream>) -> Result<Answer, ClientError> {
    let mut line = Vec::new();
    answers.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended").into());
    }
    let line: AnswerLine =
        serde_json::from_slice(&line).map_err(|error| ClientError::Nonsense(error.to_string()))?;
    Ok(line.answer)
}
