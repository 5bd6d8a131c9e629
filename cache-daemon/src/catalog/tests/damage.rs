//! Snapshots that are not what was written: cut, changed, of another time or another data set.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::base::SnapshotBytes;
use super::snapshot::sign;
use super::*;

const VERSION_AT: usize = 8;

fn saved() -> (TempDir, std::path::PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("catalog");
    let md5 = "\"0123456789abcdef0123456789abcdef\"";
    let items = [item("a/1", md5, 1, 1), item("a/b/2", "text", 2, 2), item("c", md5, 3, 3)];
    let (catalog, _) = listing(items).finish(None);
    catalog.save(&path).expect("it can be written");
    let bytes = fs::read(&path).expect("it can be read");
    (dir, path, bytes)
}

/// Writes as the catalog does: a file in use is never written over.
fn load(path: &Path, bytes: &[u8]) -> Result<Catalog, SnapshotError> {
    let beside = path.with_extension("test");
    fs::write(&beside, bytes).expect("it can be written");
    fs::rename(&beside, path).expect("it can be renamed");
    Catalog::load(path, URL)
}

#[test]
fn a_snapshot_says_what_it_is_not() {
    let (_dir, path, mut bytes) = saved();
    assert!(matches!(Catalog::load(&path.with_extension("no"), URL), Err(SnapshotError::Missing)));
    let other = Catalog::load(&path, "memory:///validate").err().expect("it is another's");
    assert_eq!(other.to_string(), "the catalog snapshot is of \"memory:///train\"");
    bytes[VERSION_AT] += 1;
    assert!(matches!(load(&path, &bytes), Err(SnapshotError::Newer(2))));
    bytes[VERSION_AT] = 0;
    assert!(matches!(load(&path, &bytes), Err(SnapshotError::Corrupt(_))));
}

#[test]
fn a_snapshot_cut_anywhere_is_corrupt() {
    let (_dir, path, bytes) = saved();
    // Sections are smaller than a page here, so that each is cut at its beginning, within, and at its end.
    let cuts = (0..160).chain((1..6).flat_map(|page| (page * 4096 - 2)..(page * 4096 + 60)));
    let last = bytes.len() - 4096 + "text".len();
    for cut in cuts.filter(|&cut| cut < last) {
        assert!(matches!(load(&path, &bytes[..cut]), Err(SnapshotError::Corrupt(_))), "{cut}");
    }
}

#[test]
fn a_snapshot_with_one_wrong_byte_is_refused_or_reads_the_same() {
    let (_dir, path, bytes) = saved();
    let (good, _) = saved_tree(&path);
    let near_sections = (0..160).chain((1..6).flat_map(|page| (page * 4096)..(page * 4096 + 400)));
    for at in near_sections.filter(|&at| at < bytes.len()) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        match load(&path, &bytes) {
            Err(SnapshotError::Corrupt(_) | SnapshotError::Newer(_)) => {}
            // Padding is not covered.
            Ok(catalog) => assert_eq!(tree(&catalog), good, "{at}"),
            Err(error) => panic!("{at}: {error}"),
        }
    }
}

fn saved_tree(path: &Path) -> (Vec<(Ino, Fingerprint)>, Catalog) {
    let catalog = Catalog::load(path, URL).expect("it is good");
    (tree(&catalog), catalog)
}

fn tree(catalog: &Catalog) -> Vec<(Ino, Fingerprint)> {
    let mut all = Vec::new();
    catalog.fingerprints(&mut |ino, fingerprint| all.push((ino, fingerprint)));
    all
}

#[test]
fn a_snapshot_is_replaced_while_it_is_mapped() {
    let (_dir, path, _) = saved();
    let (before, mapped) = saved_tree(&path);
    mapped.replace(ino(&mapped, "c"), &item("c", "other", 9, 9)).expect("another version");
    mapped.save(&path).expect("it can be written");
    let (after, again) = saved_tree(&path);
    assert_eq!(before.len(), after.len());
    assert_eq!(ino(&mapped, "c"), ino(&again, "c"));
    assert_eq!(mapped.object(ino(&mapped, "c")), again.object(ino(&again, "c")));
    let strays: Vec<_> = fs::read_dir(path.parent().expect("it has one")).expect("it is there").collect();
    assert_eq!(strays.len(), 1, "{strays:?}");
}

/// Where a field of a node lies in the snapshot of [`saved`], and the other sections of it.
fn field(number: usize, offset: usize) -> usize {
    2 * 4096 + 48 * number + offset
}
const PARENT: usize = 0;
const NAME: usize = 4;
const SIZE: usize = 8;
const VERSION: usize = 24;
const NAME_BYTES: usize = 45;
const KIND: usize = 46;
const CHILDREN: usize = 3 * 4096;
const NAMES: usize = 4 * 4096;

#[test]
fn a_snapshot_that_is_no_tree_is_refused_though_its_checksums_are_right() {
    // Numbers: `a` 2, `a/1` 3, `a/b` 4, `a/b/2` 5, `c` 6. Children: of the root 2 6, of `a` 3 4, of `b` 5.
    let (_dir, _, good) = saved();
    let damages: [(usize, &[u8], &str); 20] = [
        (field(1, KIND), &[0], "no root"),
        (field(1, KIND), &[2], "the root is not a root"),
        (field(1, PARENT), &[2], "the root is not a root"),
        (field(1, VERSION + 8), &[0], "subdirectories miscounted"),
        (field(1, VERSION + 8), &[2], "subdirectories miscounted"),
        (field(2, VERSION), &[100], "children beyond their column"),
        (field(2, VERSION), &[0xff; 8], "children beyond their column"),
        (field(4, VERSION + 4), &[0], "a node that no directory has"),
        (field(0, KIND), &[2], "a node that no directory has"),
        (field(6, PARENT), &[2], "a child of two directories"),
        (CHILDREN, &[6], "a child of two directories"),
        (CHILDREN, &[1], "a child of two directories"),
        (CHILDREN, &[6, 0, 0, 0, 2], "children out of order"),
        (CHILDREN, &[0, 1], "a child that is not in use"),
        (field(6, KIND), &[9], "a node of an unknown kind"),
        (field(6, NAME), &[0xff; 4], "a name beyond its arena"),
        (field(6, NAME_BYTES), &[0], "a name that no path can spell"),
        (NAMES, b"/", "a name that is none"),
        (field(5, VERSION), &[1], "an ETag beyond its arena"),
        (field(6, SIZE + 6), &[0x10], "a file that is too large"),
    ];
    for (at, change, why) in damages {
        let mut bytes = good.clone();
        bytes[at..][..change.len()].copy_from_slice(change);
        sign(&mut bytes);
        match Catalog::of_bytes(SnapshotBytes::Memory(bytes), Some(URL)) {
            Err(SnapshotError::Corrupt(found)) => assert_eq!(found, why, "{at}"),
            Err(error) => panic!("{at}: {error}"),
            Ok(_) => panic!("{why} at {at} was not found"),
        }
    }
    assert!(Catalog::of_bytes(SnapshotBytes::Memory(good), Some(URL)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With checksums put right, so that the structure itself is what must be checked.
    #[test]
    fn no_damage_makes_a_lookup_panic(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        use std::sync::OnceLock;
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = BYTES.get_or_init(|| saved().2).clone();
        // Where there is something: padding would take most of the changes.
        let places: Vec<_> = (0..bytes.len()).filter(|at| at % 4096 < 336).collect();
        for (at, byte) in changes {
            bytes[*at.get(&places)] = byte;
        }
        Catalog::decode_for_fuzzing(&bytes);
    }
}
