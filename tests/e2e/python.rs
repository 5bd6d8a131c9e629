//! A reader in Python, as training scripts are: `os.walk`, then a pool of processes.

use std::path::Path;
use std::process::Command;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, PATIENCE};
use epochcache_tests::bed::programs::run_within;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

#[test]
fn a_python_pool_finds_and_reads_what_the_local_copy_has() -> Outcome {
    needs_fuse!();
    if Command::new("python3").arg("--version").output().is_err() {
        println!("SKIP: python3 is not in PATH (apt-get install python3)");
        return Ok(());
    }
    let bed = Bed::new(&Shape::awkward(200), &Weather::default())?;
    let mount = bed.mount(&[])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/reader.py");
    let said = run_within(
        PATIENCE,
        Command::new("python3").arg(script).arg(mount.path()).arg(&bed.data_set.directory),
    )?;
    assert!(said.status.success(), "{}\n{}", said.err, mount.log());
    assert_eq!(said.out.trim(), "200 files, 2 epochs, equal");
    Ok(())
}
