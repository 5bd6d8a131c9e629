//! INIT: what we ask of the kernel, and what comes of it.
//!
//! What fuser 0.18 cannot ask for: a `max_readahead` above the 128 KiB that the kernel offers (the mount's BDI is raised
//! instead, `session/readahead.rs`), a request timeout, FUSE-over-io_uring.

use std::io;

use fuser::{InitFlags, KernelConfig};

use crate::negotiate::{Agreement, Mode, NoPassthrough, Offer, ServeMode, choose};
use crate::transport::passthrough::permitted;

/// INIT flags asked for beyond fuser's own (ASYNC_READ, BIG_WRITES, MAX_PAGES). READDIRPLUS_AUTO is not: it
/// would send plain READDIRs for parts of a walk, whose names then cost a LOOKUP each. EXPORT_SUPPORT is not: a node
/// cannot be found by its number once the kernel forgot it; NO_EXPORT_SUPPORT makes that an early error.
const WANTED: [(InitFlags, &str); 6] = [
    (InitFlags::FUSE_DO_READDIRPLUS, "FUSE_DO_READDIRPLUS"),
    (InitFlags::FUSE_PARALLEL_DIROPS, "FUSE_PARALLEL_DIROPS"),
    (InitFlags::FUSE_CACHE_SYMLINKS, "FUSE_CACHE_SYMLINKS"),
    (InitFlags::FUSE_NO_OPEN_SUPPORT, "FUSE_NO_OPEN_SUPPORT"),
    (InitFlags::FUSE_NO_OPENDIR_SUPPORT, "FUSE_NO_OPENDIR_SUPPORT"),
    (InitFlags::FUSE_NO_EXPORT_SUPPORT, "FUSE_NO_EXPORT_SUPPORT"),
];

/// With direct I/O: shared mappings are allowed all the same (Linux 6.6), by pages of the page cache; private ones always are.
const SHARED_MMAP: (InitFlags, &str) = (InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, "FUSE_DIRECT_IO_ALLOW_MMAP");

/// How many file systems deep a backing file may lie below the mount: 1, so not on a stacked one. With 2 it might be on
/// overlayfs, but then nothing could be stacked on the mount, such as a container's overlay
/// (`FILESYSTEM_MAX_STACK_DEPTH` is 2, and the mount's own depth is this number).
const MAX_STACK_DEPTH: u32 = 1;

/// What INIT is to ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub serve: ServeMode,
    pub direct_io: bool,
    pub max_read_bytes: u32,
    pub max_background: u16,
    pub congestion_threshold: Option<u16>,
    pub passthrough: bool,
    pub large_share: f64,
}

/// Settles the connection's parameters in `config`.
pub(super) fn agree(wanted: &Wanted, config: &mut KernelConfig) -> io::Result<Agreement> {
    let offered = config.capabilities();
    let offer = Offer {
        no_open: offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
        no_opendir: offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
        passthrough: match (wanted.passthrough, offered.contains(InitFlags::FUSE_PASSTHROUGH)) {
            _ if wanted.direct_io => Err(NoPassthrough::DirectIo),
            (false, _) => Err(NoPassthrough::TurnedOff),
            (true, false) => Err(NoPassthrough::Kernel),
            (true, true) => permitted(),
        },
    };
    let (mode, mode_reason) = match wanted.direct_io {
        true => (Mode::Open, "direct I/O is told to the kernel in the answer to OPEN".to_owned()),
        false => choose(wanted.serve, offer, wanted.large_share),
    };
    let passthrough = match mode {
        Mode::Open => offer.passthrough,
        // What stands in the way first.
        Mode::NoOpen => offer.passthrough.and(Err(NoPassthrough::NoOpen)),
    };
    if passthrough.is_ok() {
        config.set_max_stack_depth(MAX_STACK_DEPTH).map_err(out_of_range)?;
        config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .map_err(|_| io::Error::other("FUSE_PASSTHROUGH was offered and is refused"))?;
    }
    let direct = wanted.direct_io.then_some(&SHARED_MMAP);
    let missing: Vec<_> = WANTED
        .iter()
        .chain(direct)
        .filter(|(flag, _)| config.add_capabilities(*flag).is_err())
        .map(|&(_, name)| name)
        .collect();
    // fuser derives max_pages, which bounds READs, from max_write; writes never come.
    let max_read_bytes = match offered.contains(InitFlags::FUSE_MAX_PAGES) {
        true => wanted.max_read_bytes,
        false => wanted.max_read_bytes.min(128 * 1024),
    };
    config.set_max_write(max_read_bytes).map_err(out_of_range)?;
    config.set_max_background(wanted.max_background).map_err(out_of_range)?;
    if let Some(threshold) = wanted.congestion_threshold {
        config.set_congestion_threshold(threshold).map_err(out_of_range)?;
    }
    let version = config.kernel_abi();
    Ok(Agreement {
        mode,
        mode_reason,
        passthrough,
        protocol: (version.0, version.1),
        max_read_bytes,
        max_background: wanted.max_background,
        missing,
    })
}

fn out_of_range<N: std::fmt::Display>(nearest: N) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the nearest possible value is {nearest}"))
}
