//! Keys that are no paths: hidden or shown by one documented rule, counted, and never a crash.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use epochcache_tests::bed::data_set::{DataSet, Shape};
use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

fn paths(root: &Path, directory: &Path, found: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            paths(root, &path, found)?;
        } else {
            found.insert(path.strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

#[test]
fn one_odd_key_among_5_000_hides_none_of_the_others() -> Outcome {
    needs_fuse!();
    let shape = Shape { mean_bytes: 64, sigma: 0.0, ..Shape::of(5_000) };
    let bed = Bed::new(&shape, &Weather::default())?;
    bed.origin.put(DataSet::BUCKET, "train/n00000003//odd", b"odd")?;
    let mount = bed.mount(&[])?;
    let mut found = BTreeSet::new();
    paths(mount.path(), mount.path(), &mut found)?;
    let expected: BTreeSet<_> =
        bed.data_set.manifest.files.iter().map(|sample| sample.path.clone()).collect();
    assert!(found.is_superset(&expected), "{} of 5000 are there", found.intersection(&expected).count());
    Ok(())
}

#[test]
fn no_key_of_any_shape_keeps_the_mount_from_serving_the_rest() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(30), &Weather::default())?;
    let long = "x".repeat(300);
    let odd = [
        "marker/",
        "/lead",
        "a/./b",
        "a/../b",
        "..",
        ".",
        "both",
        "both/file",
        "both/file/deeper",
        "q?x=1&y",
        "sp ace+plus%25",
        "\u{1F980}/\u{00e9}",
        "back\\slash",
        "new\nline",
        ".epochcache/x",
        &long,
    ];
    for key in odd {
        bed.origin.put(DataSet::BUCKET, &format!("{}/{key}", DataSet::PREFIX), key.as_bytes())?;
    }
    let mount = bed.mount(&[])?;
    let mut found = BTreeSet::new();
    paths(mount.path(), mount.path(), &mut found)?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(30)?;
    // Whatever is shown has the bytes of the key that it is named after.
    for path in found.iter().filter(|path| odd.contains(&path.as_str())) {
        let bytes =
            std::fs::read(mount.path().join(path)).with_context(|| format!("{path:?}\n{}", mount.log()))?;
        assert_eq!(bytes, path.as_bytes(), "{path}");
    }
    for plain in ["q?x=1&y", "sp ace+plus%25", "\u{1F980}/\u{00e9}", "back\\slash"] {
        assert!(found.contains(plain), "{plain} is a name that Linux can have: {found:?}");
    }
    Ok(())
}
