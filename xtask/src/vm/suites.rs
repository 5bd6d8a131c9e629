//! Which tests run where in a guest.

use super::disks::NAMESPACES;
use super::initramfs::modules_of;
use super::modules::Loadable;
use super::programs::Programs;
use super::protocol::{Holds, Plan, Skip, Suite};

/// A suite as it is written down here.
struct Row {
    name: &'static str,
    executable: &'static str,
    on: Holds,
    only: &'static [&'static str],
    /// The same in the quick run; nothing: the suite is not in it.
    quick: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// After which it hangs. Nothing is asserted about speed: ten times of what it takes on a quiet machine.
    limit_minutes: u64,
}

impl Row {
    const fn of(
        name: &'static str,
        executable: &'static str,
        on: Holds,
        only: &'static [&'static str],
    ) -> Self {
        Self { name, executable, on, only, quick: &[], environment: &[], limit_minutes: 30 }
    }
}

const SUITES: &[Row] = &[
    Row::of("io on ext4", "cache_daemon", Holds::Ext4, &["io::"]),
    Row::of("io on xfs", "cache_daemon", Holds::Xfs, &["io::"]),
    Row::of("store on ext4", "cache_daemon", Holds::Ext4, &["store::"]),
    Row {
        quick: &["store::tests::what_is_appended", "store::tests::killed", "store::files::tests::what_is_in"],
        ..Row::of("store on xfs", "cache_daemon", Holds::Xfs, &["store::"])
    },
    Row {
        quick: &["store::tests::devices::"],
        ..Row::of("store on raw", "cache_daemon", Holds::Raw, &["store::tests::devices::"])
    },
    Row::of("fuse", "mounted", Holds::Ext4, &[]),
    Row {
        // No probes are a failure here: every kernel of the table can have them.
        environment: &[("PROBES_REQUIRED", "1")],
        quick: &["ground_truth::", "openings::", "others::", "readings::", "rights::"],
        ..Row::of("probes", "probes", Holds::Ext4, &[])
    },
    Row {
        limit_minutes: 60,
        // Epochs of small and of large files are read anyway, when the daemon is asked what it uses.
        quick: &["files::complete_shards", "observed::trace_shows_opens", "replaced::an_object_that_shrinks"],
        ..Row::of("e2e", "e2e", Holds::Ext4, &[])
    },
];

const SIMULATED: &str = "simulated devices are the same on every kernel, and slow on an emulated processor";

/// Tests that are not run in guests: the beginnings of their names, and why.
const NOT_HERE: &[(&str, &str)] = &[
    ("io::conformance::sim", SIMULATED),
    ("io::sim::", SIMULATED),
    ("store::tests::churn::", SIMULATED),
    ("store::tests::crash::", SIMULATED),
    ("store::tests::damage::", SIMULATED),
    ("store::tests::model::", SIMULATED),
    ("store::tests::pace::", SIMULATED),
    ("store::tests::silent::", SIMULATED),
];

/// The plan of a guest: all suites, or the quick part of some.
pub fn plan(programs: &Programs, modules: &[Loadable], filter: Option<String>, quick: bool) -> Plan {
    let built = |row: &&Row| programs.tests.iter().any(|test| test.name == row.executable);
    assert!(SUITES.iter().all(|row| built(&row)), "`programs` builds what the suites run");
    Plan {
        target_tmp: programs.target_tmp.clone(),
        modules: modules_of(modules),
        namespaces: NAMESPACES.to_vec(),
        suites: SUITES
            .iter()
            .filter(|row| !quick || !row.quick.is_empty())
            .map(|row| suite(row, quick))
            .collect(),
        filter,
    }
}

fn suite(row: &Row, quick: bool) -> Suite {
    let only = if quick { row.quick } else { row.only };
    let mine = NOT_HERE.iter().filter(|(test, _)| only.iter().any(|prefix| test.starts_with(prefix)));
    let skip = mine.map(|(test, why)| Skip { test: (*test).to_owned(), why: (*why).to_owned() });
    Suite {
        name: row.name.to_owned(),
        executable: row.executable.to_owned(),
        on: row.on,
        only: only.iter().map(|prefix| (*prefix).to_owned()).collect(),
        skip: skip.collect(),
        environment: row
            .environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        limit_s: row.limit_minutes * 60,
    }
}
