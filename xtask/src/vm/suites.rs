//! Which tests run where in a guest.

use super::disks::NAMESPACES;
use super::initramfs::modules_of;
use super::modules::Loadable;
use super::programs::Programs;
use super::protocol::{Holds, Plan, Skip, Suite};
use crate::command::root;

/// A suite as it is written down here.
struct Row {
    name: &'static str,
    executable: &'static str,
    on: Holds,
    only: &'static [&'static str],
    limit_minutes: u64,
}

const SUITES: &[Row] = &[
    Row {
        name: "io on ext4",
        executable: "cache_daemon",
        on: Holds::Ext4,
        only: &["io::"],
        limit_minutes: 5,
    },
    Row { name: "io on xfs", executable: "cache_daemon", on: Holds::Xfs, only: &["io::"], limit_minutes: 5 },
    Row {
        name: "store on ext4",
        executable: "cache_daemon",
        on: Holds::Ext4,
        only: &["store::"],
        limit_minutes: 5,
    },
    Row {
        name: "store on xfs",
        executable: "cache_daemon",
        on: Holds::Xfs,
        only: &["store::"],
        limit_minutes: 5,
    },
    Row { name: "fuse", executable: "mounted", on: Holds::Ext4, only: &[], limit_minutes: 10 },
    Row { name: "e2e", executable: "e2e", on: Holds::Ext4, only: &[], limit_minutes: 15 },
];

/// Tests that cannot pass in a guest: a test's name, and why.
const CANNOT: &[(&str, &str)] = &[];

/// The plan of a guest.
pub fn plan(programs: &Programs, modules: &[Loadable], filter: Option<String>) -> Plan {
    let built = |row: &&Row| programs.tests.iter().any(|test| test.name == row.executable);
    assert!(SUITES.iter().all(|row| built(&row)), "`programs` builds what the suites run");
    Plan {
        workspace: root().to_path_buf(),
        modules: modules_of(modules),
        namespaces: NAMESPACES.to_vec(),
        suites: SUITES.iter().map(suite).collect(),
        filter,
    }
}

fn suite(row: &Row) -> Suite {
    let skip = CANNOT.iter().map(|(test, why)| Skip { test: (*test).to_owned(), why: (*why).to_owned() });
    Suite {
        name: row.name.to_owned(),
        executable: row.executable.to_owned(),
        on: row.on,
        only: row.only.iter().map(|prefix| (*prefix).to_owned()).collect(),
        skip: skip.collect(),
        limit_s: row.limit_minutes * 60,
    }
}
