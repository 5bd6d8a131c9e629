//! What passthrough did: opens by how they were served, ids, and what the kernel refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Opening, Revoke};
use crate::figures::{Row, RowValue};

/// Kernel memory that one idle id keeps, in bytes: 500 of its own (measured on Linux 6.18: `struct file` 192, credentials
/// 192, `struct fuse_backing` 64, the rest security and id tables), and the file's ext4 inode (1128) and name (192)
/// with what hangs on them, which it pins.
pub const KERNEL_BYTES_PER_ID: u64 = 1_900;

/// Refusals of FUSE_DEV_IOC_BACKING_OPEN that have a row of their own; any other goes to the last.
const REFUSALS: [(i32, &str, &str); 6] = [
    (libc::EPERM, "fuse_backing_error_eperm", "files refused because CAP_SYS_ADMIN is missing"),
    (libc::ELOOP, "fuse_backing_error_eloop", "files refused because they are on a stacked file system"),
    (libc::EINVAL, "fuse_backing_error_einval", "files refused because they are not regular files"),
    (libc::ENOMEM, "fuse_backing_error_enomem", "files refused for want of kernel memory"),
    (libc::ENOSPC, "fuse_backing_error_enospc", "files refused because the connection has no id left"),
    (0, "fuse_backing_error_other", "files refused for another reason"),
];

/// Counts of one mount.
#[derive(Debug, Default)]
pub(super) struct PassthroughFigures {
    opened_passthrough: AtomicU64,
    opened_copy: AtomicU64,
    opened_full: AtomicU64,
    opened_stale: AtomicU64,
    registered: AtomicU64,
    closed: AtomicU64,
    revoked_gone: AtomicU64,
    revoked_damaged: AtomicU64,
    mismatches: AtomicU64,
    panics: AtomicU64,
    refusals: [AtomicU64; REFUSALS.len()],
}

impl PassthroughFigures {
    pub fn opened(&self, opening: Opening) {
        match opening {
            Opening::Passthrough(_) => add(&self.opened_passthrough),
            Opening::Stale => add(&self.opened_stale),
            Opening::Copy | Opening::Ask => self.copied(),
            Opening::Full => {
                add(&self.opened_full);
                self.copied();
            }
        }
    }

    pub fn copied(&self) {
        add(&self.opened_copy);
    }

    pub fn registered(&self) {
        add(&self.registered);
    }

    pub fn closed(&self) {
        add(&self.closed);
    }

    pub fn revoked(&self, why: Revoke) {
        add(match why {
            Revoke::Gone => &self.revoked_gone,
            Revoke::Damaged => &self.revoked_damaged,
        });
    }

    pub fn mismatched(&self) {
        add(&self.mismatches);
    }

    pub fn panicked(&self) {
        add(&self.panics);
    }

    pub fn failed(&self, errno: i32) {
        let known = REFUSALS.iter().position(|&(refusal, _, _)| refusal == errno);
        add(&self.refusals[known.unwrap_or(REFUSALS.len() - 1)]);
    }

    pub fn rows(&self, ids: u64) -> Vec<Row> {
        let row = |name, unit, meaning, value| Row { name, unit, meaning, value: RowValue::Count(value) };
        let count = |name, unit, meaning, value: &AtomicU64| row(name, unit, meaning, value.load(Relaxed));
        let mut rows = vec![
            count(
                "fuse_opened_passthrough",
                "opens",
                "opens whose reads the kernel serves from a local file",
                &self.opened_passthrough,
            ),
            count("fuse_opened_copy", "opens", "opens whose reads come to the daemon", &self.opened_copy),
            count(
                "fuse_opened_full",
                "opens",
                "of these, because every backing id was in use",
                &self.opened_full,
            ),
            count(
                "fuse_opened_stale",
                "opens",
                "opens refused with ESTALE beside open files found damaged",
                &self.opened_stale,
            ),
            row("fuse_backing_ids", "ids", "local files registered with the kernel now", ids),
            row(
                "fuse_backing_kernel_bytes",
                "bytes",
                "kernel memory that these keep, estimated",
                ids * KERNEL_BYTES_PER_ID,
            ),
            count("fuse_backing_registered", "ids", "local files registered", &self.registered),
            count("fuse_backing_closed", "ids", "registrations taken back", &self.closed),
            count(
                "fuse_backing_revoked_gone",
                "ids",
                "registrations revoked because the object left the store",
                &self.revoked_gone,
            ),
            count(
                "fuse_backing_revoked_damaged",
                "ids",
                "registrations revoked because the file was damaged",
                &self.revoked_damaged,
            ),
            count(
                "fuse_backing_mismatches",
                "files",
                "files offered that were not what their object is",
                &self.mismatches,
            ),
            count(
                "fuse_backing_panics",
                "errors",
                "opens at which the source panicked; they were served by copies",
                &self.panics,
            ),
        ];
        let refusals = REFUSALS.iter().zip(&self.refusals);
        rows.extend(refusals.map(|(&(_, name, meaning), value)| count(name, "files", meaning, value)));
        rows
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::RequestCounts;

    #[test]
    fn names_are_unique_among_all_rows_of_a_mount() {
        let mut names: Vec<_> = PassthroughFigures::default().rows(0).iter().map(|row| row.name).collect();
        names.extend(RequestCounts::default().snapshot().iter().map(|row| row.name));
        let rows = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows);
    }

    #[test]
    fn an_open_for_want_of_ids_is_a_copy_as_well_and_an_unknown_errno_is_other() {
        let figures = PassthroughFigures::default();
        figures.opened(Opening::Full);
        figures.failed(libc::EXDEV);
        let rows = figures.rows(3);
        let value = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.value);
        assert_eq!(value("fuse_opened_copy"), Some(RowValue::Count(1)));
        assert_eq!(value("fuse_backing_error_other"), Some(RowValue::Count(1)));
        assert_eq!(value("fuse_backing_kernel_bytes"), Some(RowValue::Count(3 * KERNEL_BYTES_PER_ID)));
    }
}
