//! ETags: how they are spelt, compared and asked for.
//!
//! Origins do not agree with themselves: Azure lists `0x8D..` and replies with `"0x8D.."`, proxies turn
//! `"a"` into `W/"a"` when they compress. So every ETag is brought to one spelling when it enters
//! (quoted, `W/` kept), and two are compared by what is between the quotes.
//!
//! Objects listed without an ETag get one made of the modification time, in seconds, and the size. It is
//! never sent; the reply is compared instead, which protects as well as such an origin allows: not from
//! a replacement of the same size within the same second.

use std::time::SystemTime;

use crate::object::Etag;

const MADE: &str = "\"mtime-";

/// The spelling that is kept: as the origin sends it, with quotes added where it left them out.
pub fn canonical(sent: &str) -> Etag {
    let sent = sent.trim();
    match sent.strip_prefix("W/") {
        Some(weak) if !is_quoted(weak) => Etag::new(format!("W/\"{weak}\"")),
        None if !is_quoted(sent) => Etag::new(format!("\"{sent}\"")),
        _ => Etag::new(sent),
    }
}

/// The ETag of a version: the origin's, or one made of `modified` and `size_bytes` if it has none.
pub fn of_version(sent: Option<&str>, modified: SystemTime, size_bytes: u64) -> Etag {
    match sent {
        Some(sent) if !sent.trim().is_empty() => canonical(sent),
        _ => made(modified, size_bytes),
    }
}

/// Whether `asked` names the version that is now there, with what a reply says about it.
///
/// A made ETag is compared with one made of the reply: some servers (s3s-fs 0.14) reply with ETags that
/// their listings leave out.
pub fn is_version(asked: &Etag, sent: Option<&str>, modified: SystemTime, size_bytes: u64) -> bool {
    match asked.as_str().starts_with(MADE) {
        true => *asked == made(modified, size_bytes),
        false => sent.is_some_and(|sent| same(sent, asked.as_str())),
    }
}

/// Whether `a` and `b` name the same version, weak or not, quoted or not.
pub fn same(a: &str, b: &str) -> bool {
    opaque(a) == opaque(b)
}

fn made(modified: SystemTime, size_bytes: u64) -> Etag {
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Seconds: listings carry fractions, `Last-Modified` headers do not.
    Etag::new(format!("{MADE}{}-{size_bytes}\"", since.as_secs()))
}

/// What `If-Match` may ask for; none for weak and made ETags, which it can never match (RFC 9110 13.1.1).
pub fn if_match(etag: &Etag) -> Option<&str> {
    let text = etag.as_str();
    (!text.starts_with("W/") && !text.starts_with(MADE)).then_some(text)
}

fn is_quoted(text: &str) -> bool {
    text.len() >= 2 && text.starts_with('"') && text.ends_with('"')
}

fn opaque(etag: &str) -> &str {
    let strong = etag.trim().strip_prefix("W/").unwrap_or(etag.trim());
    if is_quoted(strong) { &strong[1..strong.len() - 1] } else { strong }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weak_and_made_etags_are_never_asked_for() {
        assert_eq!(if_match(&canonical("0x8D")), Some("\"0x8D\""));
        assert_eq!(if_match(&canonical("W/\"a\"")), None);
        let made = of_version(None, SystemTime::UNIX_EPOCH + Duration::from_millis(1500), 7);
        assert_eq!((made.as_str(), if_match(&made)), ("\"mtime-1-7\"", None));
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(is_version(&made, Some("\"reply-only\""), at(1), 7));
        assert!(!is_version(&made, None, at(2), 7) && !is_version(&made, None, at(1), 8));
        assert!(!is_version(&canonical("a"), None, at(1), 7));
    }

    proptest! {
        #[test]
        fn every_spelling_of_one_version_is_the_same_and_canonical_is_stable(tag in "[a-zA-Z0-9-]{1,40}") {
            let spellings = [tag.clone(), format!("\"{tag}\""), format!("W/\"{tag}\""), format!("W/{tag}")];
            for a in &spellings {
                let once = canonical(a);
                prop_assert_eq!(&canonical(once.as_str()), &once);
                for b in &spellings {
                    prop_assert!(same(once.as_str(), b), "{} {}", once, b);
                }
                let other = format!("{tag}x");
                prop_assert!(!same(a, &other));
            }
        }
    }
}
