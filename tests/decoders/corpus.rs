//! The committed corpus of `tests/fuzz`, run without a fuzzer: real encodings, and what was once found.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use cache_daemon::fuzzing::TARGETS;

/// Where the fuzzers are.
pub fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The names in `dir`, without their extensions.
fn names(dir: &Path) -> BTreeSet<String> {
    let stem = |entry: fs::DirEntry| entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.filter_map(|entry| stem(entry.unwrap())).collect()
}

#[test]
fn every_target_has_a_fuzzer_and_a_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz_dir().join("fuzz_targets")), targets);
    assert_eq!(names(&fuzz_dir().join("corpus")), targets);
}

#[test]
fn every_decoder_survives_the_corpus() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let dir = fuzz_dir().join("corpus").join(name);
        let inputs: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() >= 3, "{}: {} inputs", dir.display(), inputs.len());
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            // The panic's own message is above, in what the test prints.
            if catch_unwind(|| target(&bytes)).is_err() {
                failed.push(input);
            }
        }
        target(b"");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
