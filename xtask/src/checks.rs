//! The checks of `ci` before the tests: formatting, clippy, documentation, and whether the committed probes are what their
//! source builds to.

use crate::command::{cargo, must, step};
use crate::ebpf;

/// Runs them; stops at the first that fails.
pub fn run() -> anyhow::Result<()> {
    step("formatting", || must(&mut cargo(["fmt", "--all", "--check"])))?;
    step("clippy", || {
        must(&mut cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("documentation", || {
        let mut doc = cargo(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        must(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("probes' object", ebpf::check_if_possible)
}
