//! The mode of a mount: whether the kernel sends OPEN at all.
//!
//! `noopen` is for data sets of small files: OPEN and OPENDIR are answered ENOSYS once, the kernel then
//! opens without asking and keeps what it has cached, and a warm file costs no request. `open` sends OPEN and
//! RELEASE for each file, which only passthrough and direct I/O need: a local file is handed over in the answer to OPEN.
//! The choice is the connection's, made in INIT, because the kernel remembers the ENOSYS for as long as the mount lives.
//!
//! The rule of `auto`: `open` if passthrough is to be had and objects that get a local file have most of the bytes, else
//! `noopen`. Measured: a passthrough read runs at ext4's speed and one by copy at .1 to .2 of it, while OPEN and RELEASE
//! take a small file from .25 of ext4 (no-open) to .15, or to .44 if it is passed through as well. An epoch reads every byte once,
//! so its time goes where the bytes are (docs/decisions/0015-passthrough.md).
//!
//! Pure: an offer in, a mode and its reason out.

use std::fmt;

/// What the user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServeMode {
    /// The mode that serves most of this data set's bytes best.
    #[default]
    Auto,
    /// No-open, or `open` with a reason where the kernel does not offer it.
    NoOpen,
    /// Every OPEN is sent.
    Open,
}

/// What the mount does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// OPEN and OPENDIR are answered ENOSYS, once.
    NoOpen,
    /// OPEN and OPENDIR are answered, with the kernel's caches kept.
    Open,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoOpen => "noopen",
            Self::Open => "open",
        })
    }
}

/// What the kernel offers in INIT, as far as the mode depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// `FUSE_NO_OPEN_SUPPORT`: since Linux 4.6.
    pub no_open: bool,
    /// `FUSE_NO_OPENDIR_SUPPORT`: since Linux 5.1.
    pub no_opendir: bool,
    /// `FUSE_PASSTHROUGH` (Linux 6.9), and whether we may and want to use it.
    pub passthrough: Result<(), NoPassthrough>,
}

/// Why local files are not handed to the kernel; the message is one line for the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum NoPassthrough {
    #[error("this kernel does not offer FUSE_PASSTHROUGH: it takes Linux 6.9 with CONFIG_FUSE_PASSTHROUGH")]
    Kernel,
    #[error("CAP_SYS_ADMIN is missing: run as root, or add the capability (docker run --cap-add SYS_ADMIN)")]
    Capability,
    #[error(
        "this process is in a user namespace, whose CAP_SYS_ADMIN the kernel does not accept for it: run outside of \
         the rootless container"
    )]
    UserNamespace,
    #[error("the kernel refused to register a file (EPERM): CAP_SYS_ADMIN was lost after the start")]
    Refused,
    #[error("it was turned off")]
    TurnedOff,
    #[error("with direct I/O each read comes to the daemon")]
    DirectIo,
    #[error("in no-open mode no OPEN is sent whose answer could carry a file")]
    NoOpen,
}

/// Share of the bytes in objects with a local file from which `auto` opens files.
const LARGE_SHARE_MIN: f64 = 0.5;

/// The mode for a mount that `wanted` one of a kernel that offers `offer`, and why, for a person. `large_share` of the
/// data set's bytes, 0 to 1, are in objects that get a local file.
pub fn choose(wanted: ServeMode, offer: Offer, large_share: f64) -> (Mode, String) {
    let missing = match (offer.no_open, offer.no_opendir) {
        (true, true) => None,
        (false, _) => Some("FUSE_NO_OPEN_SUPPORT (Linux 4.6)"),
        (true, false) => Some("FUSE_NO_OPENDIR_SUPPORT (Linux 5.1)"),
    };
    match (wanted, missing) {
        (ServeMode::Open, _) => (Mode::Open, "asked for".into()),
        (ServeMode::NoOpen, None) => (Mode::NoOpen, "asked for".into()),
        (ServeMode::Auto, None) => choose_by_bytes(offer.passthrough, large_share),
        (ServeMode::NoOpen | ServeMode::Auto, Some(flag)) => {
            (Mode::Open, format!("this kernel does not offer {flag}, which noopen needs"))
        }
    }
}

fn choose_by_bytes(passthrough: Result<(), NoPassthrough>, large_share: f64) -> (Mode, String) {
    let percent = large_share * 100.0;
    match passthrough {
        Ok(()) if large_share > LARGE_SHARE_MIN => (
            Mode::Open,
            format!(
                "{percent:.0} % of the bytes are in large objects, which the kernel reads from local files itself"
            ),
        ),
        Ok(()) => (
            Mode::NoOpen,
            format!(
                "{percent:.0} % of the bytes are in large objects, not most: a small file then costs at most one request"
            ),
        ),
        Err(why) => (Mode::NoOpen, format!("passthrough is not to be had: {why}")),
    }
}

/// What INIT agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreement {
    /// The mode.
    pub mode: Mode,
    /// Why this mode.
    pub mode_reason: String,
    /// Whether local files are handed to the kernel, or why not.
    pub passthrough: Result<(), NoPassthrough>,
    /// The kernel's FUSE protocol, major and minor.
    pub protocol: (u32, u32),
    /// The most bytes that one READ asks for.
    pub max_read_bytes: u32,
    /// Reads ahead that the kernel may have under way at once; further ones wait in the kernel.
    pub max_background: u16,
    /// INIT flags that we asked for and this kernel does not know.
    pub missing: Vec<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offer = Offer { no_open: true, no_opendir: true, passthrough: Ok(()) };

    #[test]
    fn what_is_asked_for_is_given_where_the_kernel_offers_it() {
        assert_eq!(choose(ServeMode::NoOpen, ALL, 1.0).0, Mode::NoOpen);
        assert_eq!(choose(ServeMode::Open, ALL, 0.0).0, Mode::Open);
    }

    #[test]
    fn auto_opens_files_only_if_most_bytes_can_be_passed_through() {
        for (share, mode) in [(0.0, Mode::NoOpen), (0.5, Mode::NoOpen), (0.51, Mode::Open), (1.0, Mode::Open)]
        {
            let (chosen, reason) = choose(ServeMode::Auto, ALL, share);
            assert_eq!(chosen, mode, "{share}");
            assert!(reason.contains(&format!("{:.0} % of the bytes", share * 100.0)), "{reason}");
        }
        let without = Offer { passthrough: Err(NoPassthrough::Capability), ..ALL };
        let (chosen, reason) = choose(ServeMode::Auto, without, 1.0);
        assert_eq!(chosen, Mode::NoOpen);
        assert!(reason.contains("CAP_SYS_ADMIN"), "{reason}");
    }

    #[test]
    fn a_kernel_without_either_flag_gets_open_mode_and_the_reason_names_the_flag() {
        for wanted in [ServeMode::Auto, ServeMode::NoOpen] {
            let (mode, reason) = choose(wanted, Offer { no_open: false, ..ALL }, 0.0);
            assert_eq!(mode, Mode::Open);
            assert!(reason.contains("FUSE_NO_OPEN_SUPPORT"), "{reason}");
            let (mode, reason) = choose(wanted, Offer { no_opendir: false, ..ALL }, 0.0);
            assert_eq!(mode, Mode::Open);
            assert!(reason.contains("FUSE_NO_OPENDIR_SUPPORT"), "{reason}");
        }
    }
}
