//! The kernel's structs, as far as they are read: typed pointers whose fields lie where [`crate::settings`] says.
//!
//! A load through such a pointer is an ordinary load to the verifier, because the pointer came from a typed argument and
//! the offset is a constant; a bad pointer reads as zero. `bpf_probe_read_kernel` would cost 30 ns each.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use ebpf_common::SettingsFlags;

use crate::settings::{is_set, setting};

macro_rules! pointer {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub(crate) struct $name(pub(crate) *const u8);
    };
}

pointer! {
    /// `struct address_space`
    Mapping
}
pointer! {
    /// `struct inode`
    Inode
}
pointer! {
    /// `struct file`
    File
}
pointer! {
    /// `struct kiocb`
    Request
}
pointer! {
    /// `struct folio`, or `struct page` before it
    Folio
}
pointer! {
    /// `struct request`
    DiskRequest
}
pointer! {
    /// `struct fuse_req`
    FuseRequest
}
pointer! {
    /// `struct iov_iter`
    Buffers
}
pointer! {
    /// `struct vm_fault`
    Fault
}
pointer! {
    /// `struct task_struct`
    Task
}

/// Reads the field at `offset`.
#[inline(always)]
fn field<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: the verifier checks that a field of this size is there, and the kernel handles a bad address.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}

impl Mapping {
    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        Inode(field(self.0, setting!(mapping_host)))
    }
}

impl Folio {
    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        Mapping(field(self.0, setting!(folio_mapping))).inode()
    }

    #[inline(always)]
    pub(crate) fn pages(self) -> u32 {
        if !is_set(SettingsFlags::LARGE_FOLIOS) {
            return 1;
        }
        let is_large = field::<u64>(self.0, setting!(folio_flags)) >> setting!(folio_head_bit) & 1 != 0;
        if is_large { field(self.0, setting!(folio_pages)) } else { 1 }
    }
}

impl DiskRequest {
    /// The number of the whole disk, as the kernel keeps device numbers.
    #[inline(always)]
    pub(crate) fn disk(self) -> u32 {
        let disk: *const u8 = if is_set(SettingsFlags::DISK_IN_REQUEST) {
            field(self.0, setting!(request_disk))
        } else {
            let queue: *const u8 = field(self.0, setting!(request_queue));
            field(queue, setting!(queue_disk))
        };
        let minor: u32 = field(disk, setting!(disk_minor));
        field::<u32>(disk, setting!(disk_major)) << 20 | minor
    }

    /// `REQ_OP_READ` is 0 and `REQ_OP_WRITE` is 1 (include/linux/blk_types.h).
    #[inline(always)]
    pub(crate) fn operation(self) -> u32 {
        field::<u32>(self.0, setting!(request_flags)) & 0xff
    }

    /// Where it lies among the requests of its disk: hardware queue, and tag within it.
    #[inline(always)]
    pub(crate) fn place(self) -> u32 {
        let hctx: *const u8 = field(self.0, setting!(request_hctx));
        let tag: u32 = field(self.0, setting!(request_tag));
        field::<u32>(hctx, setting!(hctx_queue)) << 16 | tag & 0xffff
    }

    /// Bytes that are not done yet.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        field(self.0, setting!(request_len))
    }
}

impl FuseRequest {
    #[inline(always)]
    pub(crate) fn is_ours(self) -> bool {
        let mount: *const u8 = field(self.0, setting!(fuse_mount));
        let connection: *const u8 = field(mount, setting!(fuse_conn));
        field::<u32>(connection, setting!(fuse_dev)) == setting!(device)
    }

    #[inline(always)]
    pub(crate) fn unique(self) -> u64 {
        field(self.0, setting!(fuse_unique))
    }

    #[inline(always)]
    pub(crate) fn opcode(self) -> u32 {
        field(self.0, setting!(fuse_opcode))
    }

    /// The thread that asks, as the daemon's pid namespace numbers it.
    #[inline(always)]
    pub(crate) fn asker(self) -> u32 {
        field(self.0, setting!(fuse_pid))
    }

    /// The answer's length with its header.
    #[inline(always)]
    pub(crate) fn out_len(self) -> u32 {
        field(self.0, setting!(fuse_out_len))
    }
}

impl Inode {
    /// Whether it is of the mount that is watched.
    #[inline(always)]
    pub(crate) fn is_ours(self) -> bool {
        let sb: *const u8 = field(self.0, setting!(inode_sb));
        field::<u32>(sb, setting!(sb_dev)) == setting!(device)
    }

    #[inline(always)]
    pub(crate) fn number(self) -> u64 {
        field(self.0, setting!(inode_ino))
    }

    #[inline(always)]
    pub(crate) fn size_bytes(self) -> u64 {
        field(self.0, setting!(inode_size))
    }

    /// Whether it is a regular file: `S_ISREG` of include/uapi/linux/stat.h.
    #[inline(always)]
    pub(crate) fn is_regular(self) -> bool {
        field::<u16>(self.0, setting!(inode_mode)) & 0o170_000 == 0o100_000
    }
}

impl File {
    #[inline(always)]
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        Inode(field(self.0, setting!(file_inode)))
    }
}

impl Request {
    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        File(field(self.0, setting!(iocb_file))).inode()
    }

    #[inline(always)]
    pub(crate) fn position(self) -> u64 {
        field(self.0, setting!(iocb_pos))
    }
}

impl Buffers {
    #[inline(always)]
    pub(crate) fn len(self) -> u64 {
        field(self.0, setting!(iter_count))
    }
}

impl Fault {
    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        let vma: *const u8 = field(self.0, setting!(fault_vma));
        File(field(vma, setting!(vma_file))).inode()
    }

    #[inline(always)]
    pub(crate) fn page(self) -> u64 {
        field(self.0, setting!(fault_pgoff))
    }
}

impl Task {
    /// The number of read system calls, of a task whose pointer has no type.
    #[inline(always)]
    pub(crate) fn read_calls_copied(self) -> u64 {
        let calls = self.0.wrapping_add(setting!(task_syscr) as usize).cast();
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(calls) }.unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        field(self.0, setting!(task_pid))
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        field(self.0, setting!(task_tgid))
    }

    #[inline(always)]
    pub(crate) fn read_calls(self) -> u64 {
        field(self.0, setting!(task_syscr))
    }
}
