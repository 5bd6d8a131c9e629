//! Keys as paths: the one rule that says which objects are shown, and where.
//!
//! An object store's keys are text, a mount's paths are names between slashes, and not every key is a
//! path. The rule:
//! - `a/b/c` is a file `c` in the directories `a` and `b`.
//! - `a/b/` is a *marker*: it makes the directory `a/b`, empty or not. So does the key that is the prefix
//!   itself, for the root. What a marker holds is not shown; if that is not nothing, it is counted.
//! - Where a key is a file and a directory at once (`a` beside `a/b` or `a/`), the directory is shown.
//! - A key with a name that no path can spell (empty as in `a//b`, `.`, `..`, longer than 255 bytes), that
//!   object_store cannot ask for (control characters, `PathPart::parse`), or of a size that no file here can have, is hidden.
//! - A key listed twice (it was replaced while the listing went on) counts once: the newest.
//!
//! Whatever is hidden is counted by reason; nothing about a key is ever an error.

use std::fmt;

use crate::object::CHUNK_BYTES;

/// The longest name: `NAME_MAX` of Linux (`include/uapi/linux/limits.h`), which every reader's libc relies on.
pub const NAME_BYTES_MAX: usize = 255;

/// The first size that is too large: chunks of an object are numbered by 32 bits.
pub const SIZE_BYTES_END: u64 = CHUNK_BYTES << 32;

/// Why a key, or what it holds, is not shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HiddenReason {
    /// An empty name in it: `a//b`, `/a`.
    EmptyName,
    /// A name `.` or `..`.
    DotName,
    /// An ASCII control character: object_store's paths refuse it, so that the object could not be read.
    ControlCharacter,
    /// A name longer than [`NAME_BYTES_MAX`].
    NameTooLong,
    /// 4 PiB or more.
    ObjectTooLarge,
    /// A file where there is a directory of the same name.
    BesideDirectory,
    /// A marker `a/` that holds bytes: the directory is shown, the bytes are not.
    MarkerContent,
    /// Listed more than once: the newest is shown.
    ListedTwice,
    /// No number or no room is left: 4 Gi nodes, 4 GiB of names.
    CatalogFull,
}

impl HiddenReason {
    /// All of them, in the order in which they are shown to users.
    pub const ALL: [Self; 9] = [
        Self::EmptyName,
        Self::DotName,
        Self::ControlCharacter,
        Self::NameTooLong,
        Self::ObjectTooLarge,
        Self::BesideDirectory,
        Self::MarkerContent,
        Self::ListedTwice,
        Self::CatalogFull,
    ];
}

impl fmt::Display for HiddenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyName => "with an empty name (a//b)",
            Self::DotName => "with a name . or ..",
            Self::ControlCharacter => "with a control character",
            Self::NameTooLong => "with a name of more than 255 bytes",
            Self::ObjectTooLarge => "of 4 PiB or more",
            Self::BesideDirectory => "beside a directory of the same name",
            Self::MarkerContent => "of directories (a/) that hold bytes",
            Self::ListedTwice => "listed more than once",
            Self::CatalogFull => "beyond what a catalog can hold",
        })
    }
}

/// How many keys are hidden, by reason. Displayed as the end of a sentence that begins "hidden keys: ".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HiddenCounts([u64; HiddenReason::ALL.len()]);

impl HiddenCounts {
    pub(super) fn add(&mut self, reason: HiddenReason) {
        self.0[reason as usize] += 1;
    }

    /// Keys hidden for `reason`.
    pub fn get(&self, reason: HiddenReason) -> u64 {
        self.0[reason as usize]
    }

    /// Keys hidden.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (HiddenReason, u64)> + '_ {
        HiddenReason::ALL.into_iter().map(|reason| (reason, self.get(reason))).filter(|&(_, count)| count > 0)
    }
}

impl fmt::Display for HiddenCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (reason, count)) in self.iter().enumerate() {
            write!(f, "{}{count} {reason}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Whether `key` can be shown, by its names alone. A marker's slash and the empty key (the root's marker) are fine.
pub(super) fn check_names(key: &str) -> Result<(), HiddenReason> {
    if key.is_empty() {
        return Ok(());
    }
    key.strip_suffix('/').unwrap_or(key).split('/').try_for_each(|name| check_name(name.as_bytes()))
}

/// Whether `name` can stand between two slashes.
pub(super) fn check_name(name: &[u8]) -> Result<(), HiddenReason> {
    match name {
        b"" => Err(HiddenReason::EmptyName),
        b"." | b".." => Err(HiddenReason::DotName),
        _ if name.len() > NAME_BYTES_MAX => Err(HiddenReason::NameTooLong),
        _ if name.iter().any(u8::is_ascii_control) => Err(HiddenReason::ControlCharacter),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_paths_are_told_apart_by_reason() {
        let long = "x".repeat(256);
        for (key, reason) in [
            ("/", HiddenReason::EmptyName),
            ("/a", HiddenReason::EmptyName),
            ("a//b", HiddenReason::EmptyName),
            ("a//", HiddenReason::EmptyName),
            (".", HiddenReason::DotName),
            ("a/../b", HiddenReason::DotName),
            ("a/./", HiddenReason::DotName),
            ("a\0b", HiddenReason::ControlCharacter),
            ("a/new\nline", HiddenReason::ControlCharacter),
            (long.as_str(), HiddenReason::NameTooLong),
        ] {
            assert_eq!(check_names(key), Err(reason), "{key:?}");
        }
        for key in ["", "a", "a/", "a/b", "...", "a/.b", "\u{fe}\\ *", &long[1..]] {
            assert_eq!(check_names(key), Ok(()), "{key:?}");
        }
    }

    #[test]
    fn every_reason_has_a_count_of_its_own() {
        let mut counts = HiddenCounts::default();
        for (place, reason) in HiddenReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            (0..=place).for_each(|_| counts.add(reason));
        }
        assert_eq!(counts.iter().count(), HiddenReason::ALL.len());
        assert_eq!((counts.get(HiddenReason::CatalogFull), counts.total()), (9, 45));
        assert!(counts.to_string().starts_with("1 with an empty name (a//b), 2 with a name . or .., 3 "));
    }
}
