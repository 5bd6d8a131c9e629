//! `s3-origin`: an S3 server over a directory, for tests and the demo.
//!
//! Prints one line of JSON when it listens: `{"endpoint":"http://127.0.0.1:PORT","control":"127.0.0.1:PORT"}`.
//! Steered by `POST` on the control port: `/counters`, `/log`, `/reset`, `/weather` (JSON), `/rescan`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use epochcache_tests::bed::mount::is_mounted;
use epochcache_tests::bed::s3::{Listening, Server, Weather};
use tokio::net::TcpListener;

/// An S3 server (path-style, signatures checked) over a directory whose directories are its buckets.
#[derive(Parser)]
struct Arguments {
    /// The directory of buckets.
    root: PathBuf,
    /// Port to listen on, on loopback; 0: any.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Milliseconds by which each request is delayed.
    #[arg(long)]
    delay_ms: Option<u64>,
    /// Bytes a second that are sent at most, over all connections.
    #[arg(long)]
    bytes_per_s: Option<u64>,
    /// Delay, bandwidth and faults as JSON.
    #[arg(long, default_value = "{}")]
    weather: String,
    /// End when standard input closes: a server does not outlive the test that started it.
    #[arg(long)]
    until_stdin_closes: bool,
    /// End when this mountpoint, once mounted, is mounted no more.
    #[arg(long, value_name = "MOUNTPOINT")]
    until_unmounted: Option<PathBuf>,
    /// Add a bucket called `synthetic` of so many keys without bytes.
    #[arg(long, value_name = "KEYS")]
    synthetic: Option<u64>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut weather: Weather = serde_json::from_str(&arguments.weather).context("--weather")?;
    weather.delay_ms = arguments.delay_ms.unwrap_or(weather.delay_ms);
    weather.bytes_per_s = arguments.bytes_per_s.unwrap_or(weather.bytes_per_s);
    let root = arguments.root.canonicalize().with_context(|| arguments.root.display().to_string())?;

    let server = Server::new(root, weather)?;
    if let Some(files) = arguments.synthetic {
        server.add_synthetic(files);
    }
    let s3 = TcpListener::bind(("127.0.0.1", arguments.port)).await.context("--port")?;
    let control = TcpListener::bind(("127.0.0.1", 0)).await?;
    let listening = Listening {
        endpoint: format!("http://{}", s3.local_addr()?),
        control: control.local_addr()?.to_string(),
    };
    println!("{}", serde_json::to_string(&listening)?);

    if arguments.until_stdin_closes {
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    if let Some(mountpoint) = arguments.until_unmounted {
        // It outlives its parent, whose output somebody may wait for the end of.
        let null = File::options().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::dup2_stderr(&null)?;
        std::thread::spawn(move || end_when_unmounted(&mountpoint));
    }
    server.serve(s3, control).await;
    Ok(())
}

fn end_when_unmounted(mountpoint: &Path) {
    let mut was_mounted = false;
    loop {
        let mounted = is_mounted(mountpoint);
        if was_mounted && !mounted {
            std::process::exit(0);
        }
        was_mounted |= mounted;
        std::thread::sleep(Duration::from_secs(1));
    }
}
