//! Functions that every access passes, by fentry: where the kernel lets its text be patched.
//!
//! `rw_verify_area` sees each read of the VFS before it happens, under the file's own inode: cached, direct,
//! passthrough, spliced, from io_uring, with the count that was *asked for*.
//! <https://elixir.bootlin.com/linux/v6.18/source/fs/read_write.c>

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::fentry;
use aya_ebpf::programs::FEntryContext;

use crate::structs::{Buffers, Fault, File, Request};
use crate::touch::{Access, Kind, touched};

/// `READ` of include/linux/kernel.h.
const READ: i32 = 0;

#[fentry(function = "rw_verify_area")]
pub fn read_verified(ctx: FEntryContext) -> i32 {
    if ctx.arg::<i32>(0) != READ {
        return 0;
    }
    let inode = File(ctx.arg(1)).inode();
    if inode.is_ours() {
        let position: *const i64 = ctx.arg(2);
        // SAFETY: the helper checks the address. `loff_t *` is untyped to the verifier: no direct load.
        if let Ok(first) = unsafe { bpf_probe_read_kernel(position) } {
            let (first, count) = (first as u64, ctx.arg::<u64>(3));
            touched(inode, Access { kind: Kind::Call, first, end: first.saturating_add(count) });
        }
    }
    0
}

/// For kernels before 5.12 or so, whose verifier gives no program a `loff_t *`: the function that every read of a FUSE file
/// comes to there, cached, direct or spliced. From 6.5 on splices go by another.
/// <https://elixir.bootlin.com/linux/v5.10/source/mm/filemap.c>
#[fentry(function = "generic_file_read_iter")]
pub fn read_entered(ctx: FEntryContext) -> i32 {
    let request = Request(ctx.arg(0));
    let inode = request.inode();
    if inode.is_ours() {
        let first = request.position();
        let end = first.saturating_add(Buffers(ctx.arg(1)).len());
        touched(inode, Access { kind: Kind::Call, first, end });
    }
    0
}

#[fentry(function = "filemap_map_pages")]
pub fn map_pages_entered(ctx: FEntryContext) -> i32 {
    let inode = Fault(ctx.arg(0)).inode();
    if inode.is_ours() {
        touched(inode, Access::of_pages(Kind::Fault, ctx.arg(1), ctx.arg(2)));
    }
    0
}

#[fentry(function = "filemap_fault")]
pub fn fault_entered(ctx: FEntryContext) -> i32 {
    let fault = Fault(ctx.arg(0));
    let inode = fault.inode();
    if inode.is_ours() {
        touched(inode, Access::of_pages(Kind::Fault, fault.page(), fault.page()));
    }
    0
}
