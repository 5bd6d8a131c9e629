//! Readers: the processes that read the mount, summed over their threads.

use std::collections::HashMap;

use ebpf_common::{Reader, ReaderTotals};
use serde::{Deserialize, Serialize};

/// One process that read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReaderRow {
    /// The process, as the host numbers it. It may have ended.
    #[serde(rename = "pid")]
    pub tgid: u32,
    /// Name of its thread that read last.
    pub command: String,
    /// Cgroup id (v2), the inode number of the group's directory: tells jobs apart.
    pub cgroup: u64,
    /// Threads that read, of those whose place is not taken by another since.
    pub threads: u32,
    /// Readings of files begun: files, where each is read once.
    pub files: u64,
    /// Read accesses.
    pub reads: u64,
    /// Page faults of mappings.
    pub faults: u64,
    /// Bytes read, as in [`super::Heat`].
    pub bytes: u64,
    /// Requests to the daemon that it made, as far as the kernel tells (`fuse_request_end`, 6.10).
    #[serde(default)]
    pub requests: u64,
    /// Bytes that the READs among them brought it: the rest of what it read was in the page cache.
    #[serde(default)]
    pub asked_bytes: u64,
    /// Time of these requests. Of those that overlap each counts, so it may exceed the time that passed.
    #[serde(default)]
    pub waited_us: u64,
    /// When it last read, monotonic clock, ns, to the kernel's tick.
    pub touched_ns: u64,
}

/// Sums by process, the last to read first; `ns` translates ticks.
pub(super) fn by_process(
    threads: impl Iterator<Item = Reader>,
    retired: impl Iterator<Item = (u32, ReaderTotals)>,
    ns: impl Fn(u64) -> u64,
) -> Vec<ReaderRow> {
    let mut rows = HashMap::new();
    for (tgid, totals) in retired {
        add(&mut rows, tgid, &totals, 0, ns(totals.touched_ticks));
    }
    for reader in threads.filter(|reader| reader.tid != 0) {
        let totals = ReaderTotals {
            bytes: reader.bytes,
            reads: reader.reads.into(),
            faults: reader.faults.into(),
            begins: reader.begins.into(),
            touched_ticks: reader.touched_ticks,
            cgroup: reader.cgroup,
            comm: reader.comm,
            waited_ns: reader.waited_ns,
            asked_bytes: reader.asked_bytes,
            requests: reader.requests,
        };
        add(&mut rows, reader.tgid, &totals, 1, ns(totals.touched_ticks));
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_unstable_by_key(|row| (std::cmp::Reverse(row.touched_ns), row.tgid));
    rows
}

fn add(rows: &mut HashMap<u32, ReaderRow>, tgid: u32, totals: &ReaderTotals, threads: u32, touched_ns: u64) {
    let row = rows.entry(tgid).or_insert_with(|| ReaderRow { tgid, ..ReaderRow::default() });
    row.threads += threads;
    row.files += totals.begins;
    row.reads += totals.reads;
    row.faults += totals.faults;
    row.bytes += totals.bytes;
    row.requests += totals.requests;
    row.asked_bytes += totals.asked_bytes;
    row.waited_us += totals.waited_ns / 1000;
    if row.command.is_empty() || touched_ns >= row.touched_ns {
        let name = totals.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        row.command = String::from_utf8_lossy(name).into_owned();
        row.cgroup = totals.cgroup;
        row.touched_ns = touched_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(tid: u32, tgid: u32, name: &[u8], touched_ticks: u64) -> Reader {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        Reader {
            tid,
            tgid,
            comm,
            touched_ticks,
            bytes: 10,
            reads: 2,
            begins: 1,
            cgroup: 5,
            waited_ns: 3_000,
            ..Reader::default()
        }
    }

    #[test]
    fn threads_of_a_process_are_one_row_and_keep_the_sums_of_those_that_lost_their_place() {
        let threads = [
            Reader::default(),
            reader(7, 7, b"main", 3),
            reader(8, 7, b"pt_data", 9),
            reader(20, 20, b"cat", 4),
        ];
        let retired = [(7, ReaderTotals { bytes: 100, reads: 1, ..ReaderTotals::default() })];
        let rows = by_process(threads.into_iter(), retired.into_iter(), |ticks| ticks * 1000);
        assert_eq!(rows.iter().map(|row| row.tgid).collect::<Vec<_>>(), [7, 20]);
        let row = &rows[0];
        assert_eq!((row.threads, row.files, row.reads, row.bytes), (2, 2, 5, 120));
        assert_eq!(row.waited_us, 6);
        assert_eq!((row.command.as_str(), row.cgroup, row.touched_ns), ("pt_data", 5, 9000));
    }
}
