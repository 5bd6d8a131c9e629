//! What the daemon tells the probes: once before the load, and while they run.

/// Constants of one load, in .rodata. aya freezes it, so the verifier takes each field as a known number:
/// offsets are accepted in direct loads through typed pointers, and branches on flags cost nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// A reader's pause in a file after which it begins a new reading of it, in ticks.
    pub pause_ticks: u64,
    /// The mount's device number as the kernel keeps it: `(major << 20) | minor`.
    pub device: u32,
    /// [`SettingsFlags`].
    pub flags: u32,
    /// `struct address_space`: `host`.
    pub mapping_host: u32,
    /// `struct inode`: `i_sb`.
    pub inode_sb: u32,
    /// `struct inode`: `i_ino`.
    pub inode_ino: u32,
    /// `struct inode`: `i_size`.
    pub inode_size: u32,
    /// `struct inode`: `i_mode`.
    pub inode_mode: u32,
    /// `struct super_block`: `s_dev`.
    pub sb_dev: u32,
    /// `struct file`: `f_inode`.
    pub file_inode: u32,
    /// `struct vm_fault`: `vma`.
    pub fault_vma: u32,
    /// `struct vm_fault`: `pgoff`.
    pub fault_pgoff: u32,
    /// `struct vm_area_struct`: `vm_file`.
    pub vma_file: u32,
    /// `struct task_struct`: `pid`, which is the thread's id.
    pub task_pid: u32,
    /// `struct task_struct`: `tgid`.
    pub task_tgid: u32,
    /// `struct task_struct`: `ioac.syscr`, the number of read system calls so far.
    pub task_syscr: u32,
    /// `struct kiocb`: `ki_filp`.
    pub iocb_file: u32,
    /// `struct kiocb`: `ki_pos`.
    pub iocb_pos: u32,
    /// `struct iov_iter`: `count`.
    pub iter_count: u32,
    /// `struct folio`, or `struct page` before it: `mapping`.
    pub folio_mapping: u32,
    /// `struct folio`, or `struct page` before it: `flags`.
    pub folio_flags: u32,
    /// The number of the bit in `flags` that says that a folio has several pages.
    pub folio_head_bit: u32,
    /// `struct folio`: `_nr_pages`, its number of pages.
    pub folio_pages: u32,
    /// `struct request`: `q`.
    pub request_queue: u32,
    /// `struct request_queue`: `disk`.
    pub queue_disk: u32,
    /// `struct request`: `rq_disk`, before 5.17.
    pub request_disk: u32,
    /// `struct request`: `mq_hctx`.
    pub request_hctx: u32,
    /// `struct request`: `tag`.
    pub request_tag: u32,
    /// `struct request`: `cmd_flags`.
    pub request_flags: u32,
    /// `struct request`: `__data_len`.
    pub request_len: u32,
    /// `struct blk_mq_hw_ctx`: `queue_num`.
    pub hctx_queue: u32,
    /// `struct gendisk`: `major`.
    pub disk_major: u32,
    /// `struct gendisk`: `first_minor`.
    pub disk_minor: u32,
    /// `struct fuse_req`: `fm`.
    pub fuse_mount: u32,
    /// `struct fuse_mount`: `fc`.
    pub fuse_conn: u32,
    /// `struct fuse_conn`: `dev`.
    pub fuse_dev: u32,
    /// `struct fuse_req`: `in.h.unique`.
    pub fuse_unique: u32,
    /// `struct fuse_req`: `in.h.opcode`.
    pub fuse_opcode: u32,
    /// `struct fuse_req`: `in.h.pid`.
    pub fuse_pid: u32,
    /// `struct fuse_req`: `out.h.len`.
    pub fuse_out_len: u32,
    /// Openings are reported while the ring holds less than this: the rest is for beginnings and ends.
    pub openings_bytes: u32,
    /// The disks that the store is on, as the kernel keeps device numbers; 0 where there are fewer.
    pub disks: [u32; DISKS],
}

/// Disks of the store that can be watched.
pub const DISKS: usize = 8;

/// Bits of [`Settings::flags`].
pub struct SettingsFlags;

impl SettingsFlags {
    /// The kernel has `bpf_get_current_task_btf` (5.11), and `task_pid`, `task_tgid` are set.
    pub const TASK: u32 = 1;
    /// `task_syscr` is set.
    pub const SYSCR: u32 = 2;
    /// `rw_verify_area` is called for a sendfile as a whole and again for its parts (before 6.8).
    pub const VERIFIED_TWICE: u32 = 4;
    /// `folio_head_bit` and `folio_pages` are set: folios of several pages are told from single pages.
    pub const LARGE_FOLIOS: u32 = 8;
    /// `request_disk` is set, else `request_queue` and `queue_disk`.
    pub const DISK_IN_REQUEST: u32 = 16;
    /// The request is the second argument of its tracepoints (before 5.11).
    pub const REQUEST_SECOND: u32 = 32;
    /// The daemon numbers processes as the probes do: it is in the initial pid namespace.
    pub const INITIAL_PIDS: u32 = 64;
}

/// What the daemon may change while the probes run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Copied into [`crate::Heat::epoch`] where a reading begins.
    pub epoch: u32,
    /// Explicit padding.
    pub padding: u32,
}

/// One moment on two clocks: ties the kernel's ticks, whose count costs one load, to the monotonic clock, which costs
/// 20 ns. A tick's length is the resolution of `CLOCK_MONOTONIC_COARSE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// `jiffies` when a reading first began.
    pub ticks: u64,
    /// Monotonic clock then, ns. 0: not yet.
    pub ns: u64,
}

const _: () = assert!(size_of::<Settings>() == 200 && size_of::<Control>() == 8 && size_of::<Clock>() == 16);
