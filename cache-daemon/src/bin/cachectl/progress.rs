//! Errands that take a while: one line that changes where somebody looks, an object a line for machines.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, bail};
use cache_daemon::control::{Client, PushProgress, Request, VerifyProgress, WarmProgress};
use serde::de::DeserializeOwned;

/// What the daemon tells of an errand, a second at a time.
pub trait Progress: DeserializeOwned {
    /// The last one.
    fn is_done(&self) -> bool;
}

impl Progress for PushProgress {
    fn is_done(&self) -> bool {
        self.done
    }
}

impl Progress for VerifyProgress {
    fn is_done(&self) -> bool {
        self.done
    }
}

impl Progress for WarmProgress {
    fn is_done(&self) -> bool {
        self.done
    }
}

/// Asks for `request` and shows what comes of it until it is done, with `json` as it comes, else by `line`. Returns
/// the last progress.
pub fn follow<P: Progress>(
    client: Client,
    request: &Request,
    json: bool,
    out: &mut dyn Write,
    line: &dyn Fn(&P) -> String,
) -> Result<P> {
    let on_terminal = !json && std::io::stdout().is_terminal();
    let (mut last, mut failed) = (None, None);
    client.stream(request, |item| {
        let mut show = || -> Result<P> {
            let progress: P =
                serde_json::from_value(item.clone()).context("the daemon's answer makes no sense")?;
            if json {
                writeln!(out, "{item}")?;
            } else if on_terminal && !progress.is_done() {
                write!(out, "\r\x1b[K{}", line(&progress))?;
            }
            out.flush()?;
            Ok(progress)
        };
        match show() {
            Ok(progress) => last = Some(progress),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let Some(last) = last.filter(P::is_done) else { bail!("the daemon ended before it was done") };
    if on_terminal {
        write!(out, "\r\x1b[K")?;
    }
    if !json {
        writeln!(out, "{}", line(&last))?;
    }
    Ok(last)
}
