//! Versions in few bytes: an ETag that looks like an MD5 takes 16 instead of 34.
//!
//! S3 and its likes name a version by the MD5 of the bytes in hex and quotes, in lower case (S3) or upper
//! case (OSS), followed by `-N` where the object was uploaded in N parts. Everything else (Azure's
//! `"0x8D…"`, a file's inode and time) is kept as text in an arena.
//!
//! Invariant: an ETag has one form only, so that two of them are equal exactly if their forms are.

use std::fmt;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const PACKED: u8 = 1;
const QUOTED: u8 = 2;
const UPPER_CASE: u8 = 4;
const FORMS: u8 = PACKED | QUOTED | UPPER_CASE;

/// An ETag as seen, wherever it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version<'a> {
    /// An MD5, and the number of parts if it ends in one.
    Md5 { digest: [u8; 16], parts: Option<u32>, quoted: bool, upper_case: bool },
    /// Any other text.
    Text(&'a str),
}

impl<'a> Version<'a> {
    /// The version that `etag` names.
    pub fn of(etag: &'a str) -> Self {
        parse_md5(etag).unwrap_or(Self::Text(etag))
    }
}

fn parse_md5(etag: &str) -> Option<Version<'static>> {
    let bare = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let (hex, tail) = bare.unwrap_or(etag).as_bytes().split_at_checked(32)?;
    let upper_case = hex.iter().any(u8::is_ascii_uppercase);
    let mut digest = [0; 16];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0], upper_case)? << 4 | nibble(pair[1], upper_case)?;
    }
    Some(Version::Md5 { digest, parts: parse_parts(tail)?, quoted: bare.is_some(), upper_case })
}

fn nibble(digit: u8, upper_case: bool) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' if !upper_case => Some(digit - b'a' + 10),
        b'A'..=b'F' if upper_case => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// `Some(None)` without a tail, `None` for one that would not come back as it was (`-0`, `-01`).
fn parse_parts(tail: &[u8]) -> Option<Option<u32>> {
    match tail {
        [] => Some(None),
        [b'-', digits @ ..] if digits.first().is_some_and(|first| (b'1'..=b'9').contains(first)) => {
            std::str::from_utf8(digits).ok()?.parse().ok().map(Some)
        }
        _ => None,
    }
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, parts, quoted, upper_case) = match *self {
            Self::Text(text) => return f.write_str(text),
            Self::Md5 { digest, parts, quoted, upper_case } => {
                (u128::from_be_bytes(digest), parts, quoted, upper_case)
            }
        };
        let quote = if quoted { "\"" } else { "" };
        f.write_str(quote)?;
        if upper_case {
            write!(f, "{digest:032X}")?
        } else {
            write!(f, "{digest:032x}")?
        }
        if let Some(parts) = parts {
            write!(f, "-{parts}")?;
        }
        f.write_str(quote)
    }
}

/// An ETag as stored: 21 bytes, and for text an arena.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct StoredVersion {
    /// The MD5; for text, 4 bytes of its offset in the arena.
    pub bytes: [u8; 16],
    /// Parts, 0 for none; for text, its length.
    more: U32,
    form: u8,
}

impl StoredVersion {
    /// Stores `version`; `None` if it is text and the arena has no room.
    pub fn store(version: Version<'_>, arena: &mut Vec<u8>) -> Option<Self> {
        match version {
            Version::Md5 { digest, parts, quoted, upper_case } => {
                let form = PACKED | if quoted { QUOTED } else { 0 } | if upper_case { UPPER_CASE } else { 0 };
                Some(Self { bytes: digest, more: parts.unwrap_or(0).into(), form })
            }
            Version::Text(text) => {
                let offset = u32::try_from(arena.len()).ok()?;
                let len = u32::try_from(text.len()).ok()?;
                arena.extend_from_slice(text.as_bytes());
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&offset.to_le_bytes());
                Some(Self { bytes, more: len.into(), form: 0 })
            }
        }
    }

    /// The version stored; `None` if this is not what [`StoredVersion::store`] wrote with this arena.
    pub fn read<'a>(&self, arena: &'a [u8]) -> Option<Version<'a>> {
        if self.form & PACKED != 0 {
            return (self.form & !FORMS == 0).then(|| Version::Md5 {
                digest: self.bytes,
                parts: Some(self.more.get()).filter(|&parts| parts > 0),
                quoted: self.form & QUOTED != 0,
                upper_case: self.form & UPPER_CASE != 0,
            });
        }
        let [a, b, c, d, ..] = self.bytes;
        let start = u32::from_le_bytes([a, b, c, d]) as usize;
        let text = arena.get(start..start.checked_add(self.more.get() as usize)?)?;
        (self.form == 0).then_some(Version::Text(std::str::from_utf8(text).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MD5: &str = "0123456789abcdef0123456789abcdef";

    fn stored_arena_bytes(etag: &str) -> usize {
        let mut arena = vec![b'x'; 3];
        let stored = StoredVersion::store(Version::of(etag), &mut arena).expect("the arena has room");
        assert_eq!(stored.read(&arena).map(|version| version.to_string()), Some(etag.to_owned()));
        arena.len() - 3
    }

    #[test]
    fn md5s_need_no_arena() {
        let upper = MD5.to_uppercase();
        for etag in [
            format!("\"{MD5}\""),
            MD5.to_owned(),
            format!("\"{upper}\""),
            format!("\"{MD5}-1\""),
            format!("{upper}-4294967295"),
            "0".repeat(32),
        ] {
            assert_eq!(stored_arena_bytes(&etag), 0, "{etag}");
        }
    }

    #[test]
    fn what_only_looks_like_an_md5_comes_back_as_it_was() {
        for etag in [
            String::new(),
            "\"".to_owned(),
            format!("\"{MD5}"),
            format!("{MD5}-0"),
            format!("{MD5}-01"),
            format!("{MD5}-"),
            format!("{MD5}-+1"),
            format!("{MD5}-4294967296"),
            format!("aB{}", &MD5[2..]),
            format!("W/\"{MD5}\""),
            "0x8DA9".to_owned(),
            "é".repeat(16),
        ] {
            assert_eq!(stored_arena_bytes(&etag), etag.len(), "{etag}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(etag in "\"?[0-9a-fA-F]{30,34}(-[0-9]{0,11})?\"?|\\PC*") {
            stored_arena_bytes(&etag);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in any::<[u8; 21]>(), arena in any::<Vec<u8>>()) {
            let stored = StoredVersion::read_from_bytes(&bytes).expect("21 bytes are one");
            let _ = stored.read(&arena).map(|version| version.to_string());
        }
    }
}
