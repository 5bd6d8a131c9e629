//! The kernel's structs, as far as they are read: typed pointers whose fields lie where [`crate::settings`] says.
//!
//! A load through such a pointer is an ordinary load to the verifier, because the pointer came from a typed argument and
//! the offset is a constant; a bad pointer reads as zero. `bpf_probe_read_kernel` would cost 30 ns each.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::settings::setting;

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
}

impl File {
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
