//! The programs of the object: where each is put, and which fields of the kernel it reads.

use super::offsets::{self, Field};

/// Where a program is put.
#[derive(Clone, Copy)]
pub(super) enum Hook {
    /// The entry of a function of the kernel.
    Fentry(&'static str),
    /// A tracepoint whose arguments are typed.
    Tracepoint(&'static str),
}

/// A program of the object, and the fields that it reads.
pub(super) struct Probe {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) needs: &'static [Field],
}

const MAPPING: &[Field] =
    &[offsets::MAPPING_HOST, offsets::INODE_SB, offsets::INODE_INO, offsets::INODE_SIZE, offsets::SB_DEV];
const FILE: &[Field] =
    &[offsets::FILE_INODE, offsets::INODE_SB, offsets::INODE_INO, offsets::INODE_SIZE, offsets::SB_DEV];
const FAULT: &[Field] = &[
    offsets::FAULT_VMA,
    offsets::FAULT_PGOFF,
    offsets::VMA_FILE,
    offsets::FILE_INODE,
    offsets::INODE_SB,
    offsets::INODE_INO,
    offsets::INODE_SIZE,
    offsets::SB_DEV,
];

pub(super) const READ_CALLS: Probe =
    Probe { name: "read_verified", hook: Hook::Fentry("rw_verify_area"), needs: FILE };
/// Where `read_verified` is refused because its `loff_t *` has no type that the verifier knows, before 5.12 or so.
pub(super) const READ_ENTERED: Probe = Probe {
    name: "read_entered",
    hook: Hook::Fentry("generic_file_read_iter"),
    needs: &[
        offsets::IOCB_FILE,
        offsets::IOCB_POS,
        offsets::ITER_COUNT,
        offsets::FILE_INODE,
        offsets::INODE_SB,
        offsets::INODE_INO,
        offsets::INODE_SIZE,
        offsets::SB_DEV,
    ],
};
pub(super) const READ_PAGES: Probe =
    Probe { name: "pages_got", hook: Hook::Tracepoint("mm_filemap_get_pages"), needs: MAPPING };
pub(super) const FAULTS_TRACED: [Probe; 2] = [
    Probe { name: "pages_mapped", hook: Hook::Tracepoint("mm_filemap_map_pages"), needs: MAPPING },
    Probe { name: "page_faulted", hook: Hook::Tracepoint("mm_filemap_fault"), needs: MAPPING },
];
pub(super) const FAULTS_ENTERED: [Probe; 2] = [
    Probe { name: "map_pages_entered", hook: Hook::Fentry("filemap_map_pages"), needs: FAULT },
    Probe { name: "fault_entered", hook: Hook::Fentry("filemap_fault"), needs: FAULT },
];

const PAGE: &[Field] =
    &[offsets::FOLIO_MAPPING, offsets::MAPPING_HOST, offsets::INODE_SB, offsets::INODE_INO, offsets::SB_DEV];
const DISK: &[Field] = &[
    offsets::REQUEST_QUEUE,
    offsets::QUEUE_DISK,
    offsets::REQUEST_HCTX,
    offsets::REQUEST_TAG,
    offsets::REQUEST_FLAGS,
    offsets::REQUEST_LEN,
    offsets::HCTX_QUEUE,
    offsets::DISK_MAJOR,
    offsets::DISK_MINOR,
];
const FUSE: &[Field] = &[
    offsets::FUSE_MOUNT,
    offsets::FUSE_CONN,
    offsets::FUSE_DEV,
    offsets::FUSE_UNIQUE,
    offsets::FUSE_OPCODE,
    offsets::FUSE_PID,
    offsets::FUSE_OUT_LEN,
];

/// Pages that come and go. Without either the other says nothing; so with the groups below.
pub(super) const RESIDENTS: [Probe; 2] = [
    Probe { name: "page_added", hook: Hook::Tracepoint("mm_filemap_add_to_page_cache"), needs: PAGE },
    Probe { name: "page_removed", hook: Hook::Tracepoint("mm_filemap_delete_from_page_cache"), needs: PAGE },
];
/// The store's disks.
pub(super) const DISKS: [Probe; 3] = [
    Probe { name: "request_issued", hook: Hook::Tracepoint("block_rq_issue"), needs: DISK },
    Probe { name: "request_completed", hook: Hook::Tracepoint("block_rq_complete"), needs: DISK },
    Probe { name: "request_requeued", hook: Hook::Tracepoint("block_rq_requeue"), needs: DISK },
];
/// Requests to the daemon.
pub(super) const ROUND_TRIPS: [Probe; 2] = [
    Probe { name: "asked", hook: Hook::Tracepoint("fuse_request_send"), needs: FUSE },
    Probe { name: "answered", hook: Hook::Tracepoint("fuse_request_end"), needs: FUSE },
];

const OPENING: &[Field] =
    &[offsets::FILE_INODE, offsets::INODE_SB, offsets::INODE_INO, offsets::INODE_MODE, offsets::SB_DEV];

/// Files that are opened. Attached only while somebody listens, as is the next.
pub(super) const OPENED: Probe =
    Probe { name: "file_opened", hook: Hook::Fentry("security_file_open"), needs: OPENING };
/// Files that are mapped.
pub(super) const MAPPED: Probe =
    Probe { name: "file_mapped", hook: Hook::Fentry("security_mmap_file"), needs: OPENING };
