//! What the catalog promises, by example. `model.rs` holds it against an oracle, `damage.rs` breaks its snapshots.

mod concurrent;
mod damage;
mod model;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::object::Etag;

const URL: &str = "memory:///train";

fn item(key: &str, etag: &str, size_bytes: u64, modified_s: u64) -> Item {
    Item { key: key.to_owned(), size_bytes, modified: at(modified_s), etag: Etag::new(etag) }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn listing(items: impl IntoIterator<Item = Item>) -> Builder {
    let mut builder = Builder::new(URL);
    items.into_iter().for_each(|item| builder.add(item));
    builder
}

fn keys(keys: &[&str]) -> Builder {
    listing(keys.iter().map(|key| item(key, "e", 1, 1)))
}

fn names(catalog: &Catalog, dir: Ino) -> Vec<String> {
    let mut names = Vec::new();
    let all = catalog.entries(dir, 0, &mut |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).expect("names are UTF-8"));
        Walk::Continue
    });
    all.expect("it is a directory");
    names
}

fn ino(catalog: &Catalog, path: &str) -> Ino {
    catalog.resolve(path.as_bytes()).unwrap_or_else(|| panic!("no {path}"))
}

#[test]
fn an_empty_listing_is_an_empty_root() {
    let (catalog, report) = keys(&[]).finish(None);
    assert_eq!((report, catalog.files(), catalog.bytes()), (ListingReport::default(), 0, 0));
    assert_eq!(names(&catalog, Ino::ROOT), [""; 0]);
    let root = catalog.attributes(Ino::ROOT).expect("the root is always there");
    assert_eq!((root.links, root.modified, root.kind), (2, UNIX_EPOCH, NodeKind::Directory));
    assert_eq!(catalog.parent(Ino::ROOT), Some(Ino::ROOT));
    assert_eq!(catalog.path(Ino::ROOT), Some(Vec::new()));
}

#[test]
fn directories_come_from_keys_and_siblings_are_sorted_by_name() {
    // In the order of bytes `a-b` lies between `a` and `a/x`; in the tree it does not.
    let (catalog, report) = keys(&["a-b", "a/x", "a/b/c", "a.c", "ab/", "a/b.d"]).finish(None);
    assert_eq!((report.files, report.directories, report.bytes), (5, 3, 5));
    assert_eq!(names(&catalog, Ino::ROOT), ["a", "a-b", "a.c", "ab"]);
    assert_eq!(names(&catalog, ino(&catalog, "a")), ["b", "b.d", "x"]);
    assert_eq!(names(&catalog, ino(&catalog, "/ab/")), [""; 0]);
    assert_eq!(catalog.attributes(ino(&catalog, "a")).expect("it is there").links, 3);
    assert_eq!(catalog.attributes(Ino::ROOT).expect("it is there").links, 4);
    assert_eq!(catalog.path(ino(&catalog, "a/b/c")), Some(b"a/b/c".to_vec()));
    assert_eq!(catalog.parent(ino(&catalog, "a/b")), Some(ino(&catalog, "a")));
    assert_eq!(catalog.lookup(ino(&catalog, "a-b"), b"x"), Err(NoDirectory::File));
    assert_eq!(catalog.lookup(Ino(1 << 40), b"x"), Err(NoDirectory::Stale));
    assert_eq!(catalog.lookup(Ino::ROOT, b"b"), Ok(None));
}

#[test]
fn what_cannot_be_shown_is_hidden_and_counted_by_reason() {
    let mut builder = keys(&["", "train", "train/a", "train//a", "./a", "../a", "a\0b", "deep/../../etc"]);
    builder.add(item("marker/", "e", 7, 1));
    builder.add(item("twice", "old", 1, 1));
    builder.add(item("twice", "new", 2, 2));
    builder.add(item("huge", "e", SIZE_BYTES_END, 1));
    builder.add(item(&"x".repeat(256), "e", 1, 1));
    let (catalog, report) = builder.finish(None);
    let hidden: Vec<_> = report.hidden.iter().collect();
    assert_eq!(
        hidden,
        [
            (HiddenReason::EmptyName, 1),
            (HiddenReason::DotName, 3),
            (HiddenReason::ControlCharacter, 1),
            (HiddenReason::NameTooLong, 1),
            (HiddenReason::ObjectTooLarge, 1),
            (HiddenReason::BesideDirectory, 1),
            (HiddenReason::MarkerContent, 2),
            (HiddenReason::ListedTwice, 1),
        ]
    );
    assert_eq!(names(&catalog, Ino::ROOT), ["marker", "train", "twice"]);
    assert_eq!(catalog.object(ino(&catalog, "twice")).expect("a file").etag.as_str(), "new");
    assert_eq!(catalog.object(ino(&catalog, "marker")), None);
}

#[test]
fn an_object_has_its_key_version_and_fingerprint() {
    let etag = "\"0123456789ABCDEF0123456789abcdef-12\"";
    let md5 = "\"0123456789abcdef0123456789abcdef-12\"";
    let (catalog, _) = listing([item("a/1", etag, 10, 1), item("a/2", md5, 20, 2)]).finish(None);
    for (path, etag, size_bytes) in [("a/1", etag, 10), ("a/2", md5, 20)] {
        let object = catalog.object(ino(&catalog, path)).expect("a file");
        assert_eq!((object.key.as_str(), object.etag.as_str(), object.size_bytes), (path, etag, size_bytes));
        assert_eq!(object.fingerprint, Fingerprint::of(URL, path, etag, size_bytes));
    }
    assert_eq!(catalog.attributes(ino(&catalog, "a")).expect("it is there").modified, at(2));
}

#[test]
fn a_replaced_version_keeps_its_number_until_the_kernel_forgets_it() {
    let (catalog, _) = listing([item("d/f", "one", 10, 1)]).finish(None);
    let dir = ino(&catalog, "d");
    let old = catalog.lookup_counted(dir, b"f").expect("a directory").expect("a file");
    let before = catalog.object(old.ino);

    let replacement = catalog.replace(old.ino, &item("d/f", "two", 30, 5)).expect("another version");
    assert_eq!((replacement.old, replacement.parent, &replacement.name[..]), (old.ino, dir, &b"f"[..]));
    assert_ne!(replacement.new, old.ino);
    assert_eq!(catalog.lookup(dir, b"f"), Ok(Some(replacement.new)));
    assert_eq!(catalog.replace(old.ino, &item("d/f", "two", 30, 5)), None, "another reader was faster");
    assert_eq!(catalog.attributes(old.ino), Some(old));
    assert_eq!((catalog.object(old.ino), catalog.bytes(), catalog.retired()), (before, 30, (1, 0)));
    assert_eq!(catalog.path(old.ino), Some(b"d/f".to_vec()));

    let again = catalog.replace(replacement.new, &item("d/f", "three", 1, 6)).expect("another version");
    assert_eq!(catalog.lookup(dir, b"f"), Ok(Some(again.new)));
    assert_eq!(catalog.attributes(replacement.new), None, "no one has ever seen it");

    catalog.forget(old.ino, 1);
    assert_eq!((catalog.attributes(old.ino), catalog.retired()), (None, (0, 2)));
    assert_eq!((catalog.bytes(), catalog.files()), (1, 1));
}

#[test]
fn a_number_rests_for_two_listings_before_it_is_another_versions() {
    let (catalog, _) = listing([item("f", "0", 1, 1)]).finish(None);
    let mut seen = vec![ino(&catalog, "f")];
    for version in 1..12 {
        catalog.apply(listing([item("f", &version.to_string(), 1, 1)]));
        let now = ino(&catalog, "f");
        assert!(!seen[seen.len().saturating_sub(3)..].contains(&now), "{seen:?} {now:?}");
        seen.push(now);
    }
    let highest = seen.iter().max().expect("there are some");
    assert!(highest.0 <= 6, "numbers are used again: {seen:?}");
}

#[test]
fn a_listing_says_once_what_became_of_a_tree() {
    let (catalog, first) = keys(&["a/1", "a/2", "gone/x/1", "gone/x/2", "swap/f", "z"]).finish(None);
    assert_eq!((first.new, first.gone), (6, 0));
    let swap = ino(&catalog, "swap");
    let kept = [ino(&catalog, "a/1"), ino(&catalog, "a"), ino(&catalog, "z")];
    let items = ["a/1", "a/2", "new/y/1", "new/y/2", "swap", "z"].map(|key| {
        let etag = if key == "a/2" { "other" } else { "e" };
        item(key, etag, 1, if key == "z" { 9 } else { 1 })
    });
    let (changes, report) = catalog.apply(listing(items.clone()));
    assert_eq!((report.files, report.changed, report.new, report.gone), (6, 1, 3, 3));
    let told = changes.iter().map(|change| match change {
        Change::Replaced(Replacement { name, .. }) => {
            ("replaced", String::from_utf8_lossy(name).into_owned())
        }
        Change::Added { name, .. } => ("added", String::from_utf8_lossy(name).into_owned()),
        Change::Removed { name, .. } => ("removed", String::from_utf8_lossy(name).into_owned()),
        Change::Touched { ino } => ("touched", format!("{}", *ino == kept[2])),
    });
    let told: Vec<_> = told.collect();
    let told: Vec<_> = told.iter().map(|(what, name)| (*what, name.as_str())).collect();
    assert_eq!(
        told,
        [("replaced", "2"), ("removed", "gone"), ("added", "new"), ("replaced", "swap"), ("touched", "true"),]
    );
    assert_eq!(kept, [ino(&catalog, "a/1"), ino(&catalog, "a"), ino(&catalog, "z")]);
    assert_ne!(swap, ino(&catalog, "swap"));
    assert_eq!(catalog.apply(listing(items)).0, []);
}

#[test]
fn a_large_directory_read_in_pieces_yields_each_name_once_across_changes() {
    let all: Vec<_> = (0..100_000).map(|n| item(&format!("d/{n:06}.jpg"), "e", 1, 1)).collect();
    let (catalog, _) = listing(all.clone()).finish(None);
    let dir = ino(&catalog, "d");
    let (mut seen, mut position) = (Vec::new(), 0);
    loop {
        let (mut room, mut went) = (777, false);
        let piece = catalog.entries(dir, position, &mut |entry| {
            if room == 0 {
                return Walk::Stop;
            }
            room -= 1;
            went = true;
            position = entry.next;
            seen.push(entry.name.to_vec());
            Walk::Continue
        });
        piece.expect("it is a directory");
        if !went {
            break;
        }
        // The very entry at which the walk stopped gets another number, and so do others before and after.
        if seen.len() % 5 == 0 {
            let place = catalog.replace(Ino(position), &item("", &format!("r{position}"), 2, 2));
            place.expect("it is a live file");
        }
        if seen.len() == 777 * 50 {
            let rest = all.iter().enumerate().map(|(n, item)| match n % 100 {
                7 => Item { etag: Etag::new("new"), ..item.clone() },
                _ => item.clone(),
            });
            // Without the very entry at which the walk stopped, and with one between that and the next.
            let rest = rest.filter(|item| item.key.as_bytes()[2..] != seen[seen.len() - 1][..]);
            let between = format!("d/{}x", String::from_utf8_lossy(&seen[seen.len() - 1]));
            catalog.apply(listing(rest.chain([item(&between, "e", 1, 1)])));
        }
    }
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(seen.len(), 100_001);
}

#[test]
fn a_file_takes_at_most_100_bytes_besides_its_name() {
    let all = (0..20_000).map(|n| item(&format!("n{:03}/{n:08}", n % 100), &format!("\"{n:032x}\""), 1, 1));
    let (catalog, report) = listing(all).finish(None);
    let name_bytes = 8 * report.files + 4 * 100;
    // Counts are made in blocks, for any number of files up to a quarter of a million.
    let fixed_bytes = (1 << 20) + (1 << 19);
    let each = (catalog.memory_bytes() - name_bytes).saturating_sub(fixed_bytes) / report.files + 4;
    assert!(each <= 100, "{each} bytes");
}

#[test]
fn arrays_indexed_by_numbers_have_headroom() {
    let (catalog, _) = keys(&["a", "b"]).finish(None);
    assert!(catalog.len() > 4 + 4000);
}

#[test]
fn what_is_unchanged_keeps_its_number_when_a_catalog_is_made_anew() {
    let (old, _) = keys(&["a/1", "a/2", "b"]).finish(None);
    let (new, report) = keys(&["0", "a/1", "a/3", "b"]).finish(Some(&old));
    assert_eq!((report.new, report.gone, report.changed), (2, 1, 0));
    for path in ["a", "a/1", "b"] {
        assert_eq!(ino(&old, path), ino(&new, path));
    }
    assert_ne!(ino(&new, "0"), ino(&old, "a/2"));
    assert_ne!(ino(&new, "a/3"), ino(&old, "a/2"));
}
