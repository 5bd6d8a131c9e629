//! Where the log goes.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::ProcessOptions;

/// Starts logging as `options` say: to a file, or to standard error.
pub(super) fn start(options: &ProcessOptions) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log_filter)
        .with_context(|| format!("--log-level {}: not a filter", options.log_filter))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let started = match &options.log_file {
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("log file {}: cannot be opened", path.display()))?;
            builder.with_ansi(false).with_writer(Mutex::new(file)).try_init()
        }
        None => builder.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).try_init(),
    };
    // A log that was started before (by a test) stays as it is.
    let _ = started;
    Ok(())
}
