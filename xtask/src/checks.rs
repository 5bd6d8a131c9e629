//! The checks of `ci` before the tests: formatting, clippy, documentation.

use crate::command::{cargo, must, step};

/// Runs them; stops at the first that fails.
pub fn run() -> anyhow::Result<()> {
    step("formatting", || must(&mut cargo(["fmt", "--all", "--check"])))?;
    step("clippy", || {
        must(&mut cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("documentation", || {
        let mut doc = cargo(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        must(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })
}
