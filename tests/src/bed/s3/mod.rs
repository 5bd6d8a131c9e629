//! A real S3 server, in a process of its own: signatures checked, TCP, HTTP/1.1 with keep-alive.
//!
//! [`Origin`] starts the program `s3-origin` and steers it: counters, faults, and changes of objects
//! behind the product's back. In the program, `server` listens and counts, `weather` delays and breaks,
//! `api` answers out of `bucket`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::programs::program;

mod api;
mod bucket;
mod server;
mod traffic;
mod weather;

pub use server::Server;
pub use traffic::{Counters, Kind, Logged};
pub use weather::Weather;

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "EPOCHCACHETESTKEY";
/// The secret that belongs to it.
pub const SECRET_KEY: &str = "epochcache/test/secret/not/a/secret";
/// The region of every bucket.
pub const REGION: &str = "us-east-1";

/// Where a server listens: the line that `s3-origin` prints when it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The URL for S3 clients, path-style.
    pub endpoint: String,
    /// Host and port of the steering.
    pub control: String,
}

/// A running S3 server; killed when dropped.
#[derive(Debug)]
pub struct Origin {
    child: Child,
    listening: Listening,
}

impl Origin {
    /// Serves the buckets that are directories of `root`, for as long as this process lives.
    pub fn start(root: &Path, weather: &Weather) -> anyhow::Result<Self> {
        Self::start_with(root, weather, &["--until-stdin-closes"])
    }

    /// The same with other options of `s3-origin`.
    pub fn start_with(root: &Path, weather: &Weather, options: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(program("s3-origin"))
            .arg(root)
            .args(["--weather", &serde_json::to_string(weather)?])
            .args(options)
            // A Ctrl-C is for the one who started it: a server that dies first makes its mounts fail.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("s3-origin does not start")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line)?;
        let listening = serde_json::from_str(&line).context("s3-origin ended before it listened")?;
        Ok(Self { child, listening })
    }

    /// The URL for S3 clients, path-style.
    pub fn endpoint(&self) -> &str {
        &self.listening.endpoint
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What was counted since [`Origin::reset`].
    pub fn counters(&self) -> anyhow::Result<Counters> {
        Ok(serde_json::from_slice(&self.command("counters", b"")?)?)
    }

    /// Every request since [`Origin::reset`], up to a limit, in the order of their ends.
    pub fn log(&self) -> anyhow::Result<Vec<Logged>> {
        Ok(serde_json::from_slice(&self.command("log", b"")?)?)
    }

    /// Counts from zero.
    pub fn reset(&self) -> anyhow::Result<()> {
        self.command("reset", b"").map(drop)
    }

    /// Changes delay, bandwidth and faults.
    pub fn set_weather(&self, weather: &Weather) -> anyhow::Result<()> {
        self.command("weather", &serde_json::to_vec(weather)?).map(drop)
    }

    /// Takes notice of files that were put into the root without asking.
    pub fn rescan(&self) -> anyhow::Result<()> {
        self.command("rescan", b"").map(drop)
    }

    /// Writes an object, or a new version of it, whatever its key.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut body = target(bucket, key)?;
        body.extend_from_slice(bytes);
        self.command("put", &body).map(drop)
    }

    /// Removes an object.
    pub fn delete(&self, bucket: &str, key: &str) -> anyhow::Result<()> {
        self.command("delete", &target(bucket, key)?).map(drop)
    }

    fn command(&self, command: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut socket = TcpStream::connect(&self.listening.control).context("s3-origin is gone")?;
        write!(
            socket,
            "POST /{command} HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        socket.write_all(body)?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no HTTP answer")?;
        let reply = answer.split_off(end + 4);
        ensure!(
            answer.starts_with(b"HTTP/1.1 200"),
            "s3-origin, {command}: {}",
            String::from_utf8_lossy(&reply)
        );
        Ok(reply)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn target(bucket: &str, key: &str) -> anyhow::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&server::Target { bucket: bucket.to_owned(), key: key.to_owned() })?;
    line.push(b'\n');
    Ok(line)
}
