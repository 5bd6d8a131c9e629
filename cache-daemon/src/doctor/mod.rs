//! The doctor: what this machine has and lacks for a mount, what that costs, and what to do.
//!
//! Each check is a pure function from what was read (a line of /proc, a number, an errno) to a
//! [`Check`]; [`examine`] and the `look` functions beside them do the reading. Nothing is changed, and a
//! file that cannot be read is itself a finding, never a failure.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

mod cache_dir;
mod fuse;
mod kernel;
mod probes;
mod process;
pub mod resident;
mod uring;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, slower or with a risk.
    Warn,
    /// Something that is not needed is not there.
    Off,
    /// A mount will not work.
    Bad,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Off => "off",
            Self::Bad => "bad",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: stable, for scripts.
    pub name: String,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What that means for a mount; empty if it is as it should be.
    pub effect: String,
    /// What to do; empty if nothing.
    #[serde(rename = "do")]
    pub do_what: String,
}

impl Check {
    fn new(state: State, name: &str, found: impl Into<String>, effect: &str, do_what: &str) -> Self {
        Self { name: name.into(), state, found: found.into(), effect: effect.into(), do_what: do_what.into() }
    }

    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self::new(State::Ok, name, found, "", "")
    }

    fn warn(name: &str, found: impl Into<String>, effect: &str, do_what: &str) -> Self {
        Self::new(State::Warn, name, found, effect, do_what)
    }

    fn off(name: &str, found: impl Into<String>, effect: &str, do_what: &str) -> Self {
        Self::new(State::Off, name, found, effect, do_what)
    }

    fn bad(name: &str, found: impl Into<String>, effect: &str, do_what: &str) -> Self {
        Self::new(State::Bad, name, found, effect, do_what)
    }
}

/// Looks at the machine, and at a cache directory and a mount if they are named.
pub fn examine(cache_dir: Option<&Path>, mountpoint: Option<&Path>) -> Vec<Check> {
    let mut checks = kernel::look();
    checks.extend(fuse::look(mountpoint));
    checks.extend(uring::look());
    checks.extend(process::look());
    checks.extend(probes::look());
    if let Some(cache_dir) = cache_dir {
        checks.extend(cache_dir::look(cache_dir));
    }
    checks
}

/// The text of a file of /proc or /sys, without blanks around it; `None` if it cannot be read.
fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_well_says_what_to_do_and_names_are_unique() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let checks = examine(Some(dir.path()), Some(dir.path()));
        for check in &checks {
            let silent = check.effect.is_empty() || check.do_what.is_empty();
            assert_eq!(silent, check.state == State::Ok, "{check:?}");
        }
        let mut names: Vec<_> = checks.iter().map(|check| &check.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), checks.len());
    }

    #[test]
    fn the_json_of_a_check_is_stable() {
        let check = Check::warn("memlock", "64 KiB", "slower", "raise it");
        let expected = serde_json::json!(
            {"name": "memlock", "state": "warn", "found": "64 KiB", "effect": "slower", "do": "raise it"}
        );
        assert_eq!(serde_json::to_value(&check).expect("string keys only"), expected);
    }
}
