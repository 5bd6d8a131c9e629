//! What is fetched ahead of the readers, as typed and as checked.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};

use super::ConfigError;
use crate::policy::readahead::Mode;

/// The options about fetching ahead.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct PrefetchArgs {
    /// Fetches ahead of the readers: auto (what it recognises), told (only what an order tells), off.
    #[arg(long, value_enum, default_value_t, help_heading = "Cache")]
    pub prefetch: PrefetchChoice,
    /// Fetches at most so many bytes an hour ahead: 500GiB.
    #[arg(long, value_name = "SIZE", help_heading = "Cache")]
    pub prefetch_hourly: Option<String>,
    /// Directory where training scripts tell the order of an epoch [default: CACHE_DIR/orders].
    #[arg(long, value_name = "DIR", help_heading = "Cache")]
    pub order_dir: Option<PathBuf>,
}

/// `--prefetch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PrefetchChoice {
    /// What is recognised, and what is told.
    #[default]
    Auto,
    /// Only what an order tells.
    Told,
    /// Nothing.
    Off,
}

impl std::fmt::Display for PrefetchChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Told => "told",
            Self::Off => "off",
        })
    }
}

/// What is fetched ahead, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefetchOptions {
    /// What.
    pub choice: PrefetchChoice,
    /// Bytes an hour at most.
    pub bytes_per_hour_max: Option<u64>,
    /// Where orders are told; absolute.
    pub order_dir: PathBuf,
}

impl PrefetchOptions {
    pub(super) fn new(args: &PrefetchArgs, cache_dir: &Path) -> Result<Self, ConfigError> {
        let hourly = args.prefetch_hourly.as_deref();
        let bytes = hourly.map(|given| {
            parse_size::parse_size(given).map_err(|_| ConfigError::Value {
                option: "--prefetch-hourly",
                given: given.to_owned(),
                why: "is not a size; give bytes or a size such as 500GiB".to_owned(),
            })
        });
        let order_dir = match &args.order_dir {
            // A daemon's working directory is the root: a relative one is meant where it was typed.
            Some(dir) => std::path::absolute(dir).map_err(|error| ConfigError::Value {
                option: "--order-dir",
                given: dir.display().to_string(),
                why: error.to_string(),
            })?,
            None => cache_dir.join("orders"),
        };
        Ok(Self { choice: args.prefetch, bytes_per_hour_max: bytes.transpose()?, order_dir })
    }

    /// As the policy takes it.
    pub fn mode(&self) -> Mode {
        match self.choice {
            PrefetchChoice::Off => Mode::Off,
            PrefetchChoice::Told => Mode::Told,
            PrefetchChoice::Auto => Mode::Auto,
        }
    }
}
