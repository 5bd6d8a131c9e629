//! `store`: the store, through the interface that the daemon uses, against fio on the same file or device.
//!
//! Media: `ext4` (a file on the disk that holds target/, or `--dir`), `xfs` (a file on XFS on a loop device), `raw`
//! (a loop device without a file system). Both loop devices bypass the page cache of what is below them. Both sides
//! read and write with O_DIRECT, the same number of bytes, in operations of the same length: an extent is as long
//! on disk as fio's block.
//!
//! Cases: `reads` (rand110k_qd1, _qd8, _qd32, seq128k, seq1m, part128k), `fills` (fill110k, fill_random), `files` (what
//! a file for each object costs instead), `index` (lookups, checkpoint, recovery). `objects` is what is stored,
//! `load` what asks for it, `fio` the reference, `media` where.
//!
//! Nothing is left behind: loop devices detach at their last close, mounts are in a mount namespace of this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, bail, ensure};
use epochcache_tests::bed::programs::scratch;

mod files;
mod fills;
mod fio;
mod index;
mod load;
pub mod media;
mod objects;
pub mod progress;
mod reads;

use self::media::Medium;
use self::progress::Progress;
use crate::{Effort, Results};

/// What `store` alone can be told.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// planner, serve, store: only cases whose names begin with one of these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub cases: Vec<String>,
    /// store: only these of ext4, xfs, raw.
    #[arg(long, value_delimiter = ',')]
    pub media: Vec<String>,
    /// store: a directory on the disk to be measured, instead of target/.
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

impl Options {
    /// Whether everything is measured that can be, where it usually is.
    pub fn is_everything(&self) -> bool {
        self.cases.is_empty() && self.media.is_empty() && self.dir.is_none()
    }

    fn wants_case(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|wanted| case.starts_with(wanted.as_str()))
    }

    fn wants_medium(&self, medium: &str) -> bool {
        self.media.is_empty() || self.media.iter().any(|wanted| wanted == medium)
    }

    fn check(&self) -> anyhow::Result<()> {
        let cases =
            [&reads::names()[..], &fills::names()[..], &files::names()[..], &index::NAMES[..]].concat();
        if let Some(unknown) =
            self.cases.iter().find(|wanted| !cases.iter().any(|case| case.starts_with(wanted.as_str())))
        {
            bail!("no case begins with {unknown}: {}", cases.join(", "));
        }
        if let Some(unknown) = self.media.iter().find(|wanted| !media::NAMES.contains(&wanted.as_str())) {
            bail!("no medium is called {unknown}: {}", media::NAMES.join(", "));
        }
        Ok(())
    }
}

/// Set by Ctrl-C: everything looks at it and ends, which cleans up on the way out.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ctrl-C asks for the end, however often: whoever cannot wait for the cleaning up has Ctrl-\.
    pub fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.0.clone())?;
        }
        Ok(stop)
    }

    /// Fails once the end was asked for.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.is_set(), "interrupted; nothing is left behind");
        Ok(())
    }

    /// Whether the end was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What every case needs.
struct Bench<'a> {
    options: &'a Options,
    effort: Effort,
    results: &'a mut Results,
    stop: Stop,
    progress: Progress,
}

/// Measures all cases on all media.
pub fn run(options: &Options, effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    options.check()?;
    fio::check()?;
    let stop = Stop::on_signals()?;
    let private = media::own_mounts();
    let home = match &options.dir {
        Some(dir) => tempfile::Builder::new().prefix("bench-").tempdir_in(dir).context("--dir")?,
        None => scratch()?,
    };
    let mut bench = Bench { options, effort, results, stop, progress: Progress::default() };
    let done = bench.all(home.path(), private.err());
    bench.progress.clear();
    // What a signal did to fio is not what went wrong.
    bench.stop.check()?;
    done
}

impl Bench<'_> {
    fn all(&mut self, home: &Path, no_mounts: Option<String>) -> anyhow::Result<()> {
        for name in media::NAMES {
            let image_bytes = self.effort.pick(5 << 30, 1 << 30);
            if !self.options.wants_medium(name) || !self.wants_some_case_on(name) {
                continue;
            }
            self.progress.say(&format!("{name}: preparing"));
            let made = match &no_mounts {
                Some(reason) if name == "xfs" => Err(anyhow::anyhow!("{reason}")),
                _ => Medium::make(name, home, image_bytes),
            };
            self.stop.check()?;
            let medium = match made {
                Ok(medium) => medium,
                Err(reason) => {
                    self.progress.clear();
                    eprintln!("SKIP: {name}: {reason:#}");
                    continue;
                }
            };
            self.results.on(medium.name());
            reads::run(self, &medium)?;
            fills::run(self, &medium)?;
            if name == files::MEDIUM {
                files::run(self, &medium)?;
            }
            if name == index::MEDIUM {
                index::run(self, &medium)?;
            }
        }
        Ok(())
    }

    fn wants_some_case_on(&self, medium: &str) -> bool {
        let mut cases = [reads::names(), fills::names()].concat();
        if medium == files::MEDIUM {
            cases.extend(files::names());
        }
        if medium == index::MEDIUM {
            cases.extend(index::NAMES);
        }
        cases.iter().any(|case| self.options.wants_case(case))
    }

    /// `case` is about to be measured: whether it is wanted.
    fn begins(&mut self, case: &str) -> anyhow::Result<bool> {
        self.stop.check()?;
        Ok(self.options.wants_case(case))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(cases: &[&str], media: &[&str]) -> Options {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Options { cases: owned(cases), media: owned(media), dir: None }
    }

    #[test]
    fn cases_are_chosen_by_the_beginning_of_their_names() {
        let some = options(&["rand110k", "seq1m"], &["raw"]);
        some.check().unwrap();
        assert!(some.wants_case("rand110k_qd8") && some.wants_case("seq1m") && !some.wants_case("seq128k"));
        assert!(some.wants_medium("raw") && !some.wants_medium("ext4"));
        assert!(options(&[], &[]).wants_case("anything") && options(&[], &[]).is_everything());
    }

    #[test]
    fn unknown_cases_and_media_are_named_with_those_that_there_are() {
        let error = options(&["rand1k"], &[]).check().unwrap_err().to_string();
        assert!(error.contains("rand1k") && error.contains("rand110k_qd1"), "{error}");
        let error = options(&[], &["ntfs"]).check().unwrap_err().to_string();
        assert!(error.contains("ntfs") && error.contains("xfs"), "{error}");
    }
}
