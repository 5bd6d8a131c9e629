//! The mode of a mount: whether the kernel sends OPEN at all.
//!
//! `noopen` is for data sets of small files: OPEN and OPENDIR are answered ENOSYS once, the kernel then
//! opens without asking and keeps what it has cached, and a warm file costs no request. `open` sends OPEN and
//! RELEASE for each file, which only passthrough and direct I/O need. The choice is the connection's, made in
//! INIT, because the kernel remembers the ENOSYS for as long as the mount lives.
//!
//! Pure: an offer in, a mode and its reason out.

use std::fmt;

/// What the user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServeMode {
    /// The mode that serves this data set best; no-open until passthrough exists.
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
}

/// The mode for a mount that `wanted` one of a kernel that offers `offer`, and why, for a person.
pub fn choose(wanted: ServeMode, offer: Offer) -> (Mode, String) {
    let missing = match (offer.no_open, offer.no_opendir) {
        (true, true) => None,
        (false, _) => Some("FUSE_NO_OPEN_SUPPORT (Linux 4.6)"),
        (true, false) => Some("FUSE_NO_OPENDIR_SUPPORT (Linux 5.1)"),
    };
    match (wanted, missing) {
        (ServeMode::Open, _) => (Mode::Open, "asked for".into()),
        (ServeMode::NoOpen, None) => (Mode::NoOpen, "asked for".into()),
        (ServeMode::Auto, None) => (Mode::NoOpen, "a file then costs at most one request".into()),
        (ServeMode::NoOpen | ServeMode::Auto, Some(flag)) => {
            (Mode::Open, format!("this kernel does not offer {flag}, which noopen needs"))
        }
    }
}

/// What INIT agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreement {
    /// The mode.
    pub mode: Mode,
    /// Why this mode.
    pub mode_reason: String,
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

    const ALL: Offer = Offer { no_open: true, no_opendir: true };

    #[test]
    fn auto_is_no_open_where_the_kernel_offers_it() {
        assert_eq!(choose(ServeMode::Auto, ALL).0, Mode::NoOpen);
        assert_eq!(choose(ServeMode::NoOpen, ALL).0, Mode::NoOpen);
        assert_eq!(choose(ServeMode::Open, ALL).0, Mode::Open);
    }

    #[test]
    fn a_kernel_without_either_flag_gets_open_mode_and_the_reason_names_the_flag() {
        for wanted in [ServeMode::Auto, ServeMode::NoOpen] {
            let (mode, reason) = choose(wanted, Offer { no_open: false, ..ALL });
            assert_eq!(mode, Mode::Open);
            assert!(reason.contains("FUSE_NO_OPEN_SUPPORT"), "{reason}");
            let (mode, reason) = choose(wanted, Offer { no_opendir: false, ..ALL });
            assert_eq!(mode, Mode::Open);
            assert!(reason.contains("FUSE_NO_OPENDIR_SUPPORT"), "{reason}");
        }
    }
}
