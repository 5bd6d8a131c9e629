//! From the command line to a [`Config`]: every value parsed, every contradiction refused.

use std::time::Duration;

use super::args::MountArgs;
use super::memory::Memory;
use super::place::{self, Machine};
use super::{
    Config, ConfigError, IoMode, Limits, MountOptions, OriginOptions, PageCacheSize, PrefetchOptions,
    ProcessOptions, Revalidate, ServeChoice, StoreOptions,
};
use crate::store::PAGE_BYTES;
use crate::store::layout::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// Two segments of 64 MiB are the least that can be appended to while one is reclaimed.
const CACHE_SIZE_BYTES_MIN: u64 = 128 << 20;
/// Beyond it the arithmetic of device offsets is untested: 1 PiB.
const CACHE_SIZE_BYTES_MAX: u64 = 1 << 50;
const THREADS_MAX: usize = 256;
const ORIGIN_REQUESTS_MAX: usize = 4096;
const REVALIDATE_DEFAULT: Duration = Duration::from_secs(300);
const REVALIDATE_MIN: Duration = Duration::from_secs(1);

impl Config {
    /// Checks `args`, and this machine, without changing anything on it.
    pub fn new(args: &MountArgs) -> Result<Self, ConfigError> {
        Self::on(args, &Machine::this()?)
    }

    pub(super) fn on(args: &MountArgs, machine: &Machine) -> Result<Self, ConfigError> {
        if args.sqpoll && args.engine == super::EngineChoice::Psync {
            return Err(ConfigError::Conflict(
                "--sqpoll needs io_uring: leave out --engine psync or --sqpoll",
            ));
        }
        if args.iopoll && args.engine == super::EngineChoice::Psync {
            return Err(ConfigError::Conflict(
                "--iopoll needs io_uring: leave out --engine psync or --iopoll",
            ));
        }
        if args.anonymous && args.profile.is_some() {
            return Err(ConfigError::Conflict(
                "--anonymous sends no credentials: leave out --profile or --anonymous",
            ));
        }
        if args.io_mode == IoMode::DirectIo && args.serve == ServeChoice::NoOpen {
            return Err(ConfigError::Conflict(
                "--io-mode direct_io is told to the kernel when a file is opened: leave out --serve noopen or --io-mode",
            ));
        }
        let origin = origin(args)?;
        let page_cache = page_cache(args)?;
        let size_bytes = cache_size(&args.cache_size)?;
        let file_from = file_from(&args.file_from)?;
        let segment_bytes = segment_bytes(&args.segment_size)?;
        let limits = limits(args)?;
        let revalidate = revalidate(args)?;
        let process = process(args)?;
        let (file_mode, dir_mode) =
            (mode("--file-mode", &args.file_mode)?, mode("--dir-mode", &args.dir_mode)?);

        machine.can_mount(args.allow_other)?;
        let mountpoint = machine.mountpoint(&args.mountpoint)?;
        let cache_dir = machine.cache_dir(&args.cache_dir, &mountpoint)?;
        let prefetch = PrefetchOptions::new(&args.prefetch, &cache_dir)?;
        let may_be_lost = !args.format && crate::store::was_opened(&cache_dir);
        let places = machine.places(&cache_dir, &args.cache_dev, &mountpoint, may_be_lost)?;
        place::has_room(&places, size_bytes)?;

        let log_file =
            process.log_file.clone().or_else(|| args.daemon.then(|| cache_dir.join("epochcache.log")));
        Ok(Self {
            origin,
            mount: MountOptions {
                mountpoint,
                serve: args.serve,
                io_mode: args.io_mode,
                verify: args.verify,
                page_cache,
                allow_other: args.allow_other,
                uid: args.uid.unwrap_or(machine.uid),
                gid: args.gid.unwrap_or(machine.gid),
                file_mode,
                dir_mode,
                early: args.mount_early,
            },
            store: StoreOptions {
                cache_dir,
                places,
                size_bytes,
                file_from,
                segment_bytes,
                policy: args.policy,
                save: args.save,
                format: args.format,
                engine: args.engine,
                sqpoll: args.sqpoll,
                iopoll: args.iopoll,
            },
            prefetch,
            revalidate,
            probes: args.probes,
            process: ProcessOptions { log_file, ..process },
            limits,
        })
    }
}

fn refused(option: &'static str, given: &str, why: impl Into<String>) -> ConfigError {
    ConfigError::Value { option, given: given.to_owned(), why: why.into() }
}

fn origin(args: &MountArgs) -> Result<OriginOptions, ConfigError> {
    if let Some(endpoint) = &args.endpoint {
        let url = url::Url::parse(endpoint)
            .map_err(|error| refused("--endpoint", endpoint, format!("{error}; give http(s)://host:port")))?;
        if !["http", "https"].contains(&url.scheme()) {
            let why = format!("{} is not a protocol of an endpoint; give http(s)://host:port", url.scheme());
            return Err(refused("--endpoint", endpoint, why));
        }
    }
    let deadline = duration("--origin-deadline", &args.origin_deadline)?;
    if deadline < Duration::from_secs(1) {
        let why = "is shorter than a request takes; give at least 1s";
        return Err(refused("--origin-deadline", &args.origin_deadline, why));
    }
    Ok(OriginOptions {
        url: args.url.clone(),
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        path_style: args.path_style,
        anonymous: args.anonymous,
        profile: args.profile.clone(),
        allow_http: args.allow_http,
        deadline,
    })
}

fn limits(args: &MountArgs) -> Result<Limits, ConfigError> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut limits = Limits::on(cores);
    if let Some(threads) = args.threads {
        limits.fuse_threads = within("--threads", threads, THREADS_MAX)?;
    }
    if let Some(requests) = args.origin_requests {
        limits.origin_requests_max = within("--origin-requests", requests, ORIGIN_REQUESTS_MAX)?;
    }
    Ok(limits)
}

fn within(option: &'static str, given: usize, max: usize) -> Result<usize, ConfigError> {
    if (1..=max).contains(&given) {
        return Ok(given);
    }
    Err(refused(option, &given.to_string(), format!("give 1 to {max}")))
}

fn cache_size(given: &str) -> Result<u64, ConfigError> {
    let bytes = parse_size::parse_size(given)
        .map_err(|_| refused("--cache-size", given, "is not a size; give bytes or a size such as 500GiB"))?;
    if bytes < CACHE_SIZE_BYTES_MIN {
        return Err(refused("--cache-size", given, "is less than two segments; give at least 128MiB"));
    }
    if bytes > CACHE_SIZE_BYTES_MAX {
        return Err(refused("--cache-size", given, "is more than 1PiB; give what the device has"));
    }
    Ok(bytes)
}

fn file_from(given: &str) -> Result<u64, ConfigError> {
    parse_size::parse_size(given)
        .map_err(|_| refused("--file-from", given, "is not a size; give bytes or a size such as 4MiB, or 0"))
}

fn segment_bytes(given: &str) -> Result<u32, ConfigError> {
    let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
    let bytes = parse_size::parse_size(given).ok().and_then(|bytes| u32::try_from(bytes).ok());
    let bytes = bytes.filter(|bytes| range.contains(bytes) && bytes.is_multiple_of(PAGE_BYTES));
    bytes
        .ok_or_else(|| refused("--segment-size", given, "is no size of segments; give 8KiB to 1GiB in pages"))
}

fn duration(option: &'static str, given: &str) -> Result<Duration, ConfigError> {
    humantime::parse_duration(given).map_err(|_| {
        refused(option, given, "is not a duration; give a number with a unit such as 30s, 5min, 2h")
    })
}

fn revalidate(args: &MountArgs) -> Result<Revalidate, ConfigError> {
    let every = args.revalidate.as_ref().map(|given| interval(given)).transpose()?;
    match (args.immutable, args.io_mode, every) {
        (true, _, _) => Ok(Revalidate::Never),
        (false, IoMode::KernelCache, Some(_)) => Err(ConfigError::Conflict(
            "--io-mode kernel_cache keeps what was read and looks for no changes: leave out --revalidate or --io-mode",
        )),
        (false, IoMode::KernelCache, None) => Ok(Revalidate::AtStart),
        (false, _, every) => Ok(Revalidate::Every(every.unwrap_or(REVALIDATE_DEFAULT))),
    }
}

fn interval(given: &str) -> Result<Duration, ConfigError> {
    let every = duration("--revalidate", given)?;
    if every < REVALIDATE_MIN {
        let why =
            "would list without end; give at least 1s, or --immutable for a data set that never changes";
        return Err(refused("--revalidate", given, why));
    }
    Ok(every)
}

fn page_cache(args: &MountArgs) -> Result<PageCacheSize, ConfigError> {
    if args.io_mode == IoMode::DirectIo {
        let why = "nothing is pushed: with --io-mode direct_io no page is kept".to_owned();
        return Ok(PageCacheSize { bytes: 0, why, is_cut: false });
    }
    let asked = args.page_cache_size.as_ref().map(|given| {
        parse_size::parse_size(given).map_err(|_| {
            refused("--page-cache-size", given, "is not a size; give bytes or a size such as 16GiB, or 0")
        })
    });
    Ok(Memory::this().page_cache(asked.transpose()?))
}

fn mode(option: &'static str, given: &str) -> Result<u16, ConfigError> {
    let digits = given.strip_prefix("0o").unwrap_or(given);
    match u16::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(refused(option, given, "is not a mode; give octal permissions such as 0444")),
    }
}

fn process(args: &MountArgs) -> Result<ProcessOptions, ConfigError> {
    tracing_subscriber::EnvFilter::try_new(&args.log_level).map_err(|error| {
        refused("--log-level", &args.log_level, format!("{error}; give error, warn, info, debug or trace"))
    })?;
    // A daemon's working directory is the root: a relative log file is meant where it was typed.
    let log_file = args.log_file.as_deref().map(std::path::absolute).transpose().map_err(|error| {
        refused(
            "--log-file",
            &args.log_file.as_deref().unwrap_or("".as_ref()).to_string_lossy(),
            error.to_string(),
        )
    })?;
    Ok(ProcessOptions { daemon: args.daemon, log_file, log_filter: args.log_level.clone() })
}
