//! Files that are opened and mapped, by fentry. Attached only while somebody traces: every open and every mmap of the host
//! enters them.
//!
//! `security_file_open` is called by `do_dentry_open` for every file that is opened to be read or written, by whichever call; one
//! opened with O_PATH returns before. `security_mmap_file` is called for every mapping, of no file too. Both before the deed:
//! one that then fails is reported too. FUSE's own functions would not do: they may be in a module, and see no open in
//! no-open mode. Kernels without CONFIG_SECURITY have neither.
//! <https://elixir.bootlin.com/linux/v6.18/source/fs/open.c>, <https://elixir.bootlin.com/linux/v6.18/source/mm/util.c>

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::fentry;
use aya_ebpf::programs::FEntryContext;
use ebpf_common::{Event, EventFlags};

use crate::maps;
use crate::structs::File;

#[fentry(function = "security_file_open")]
pub fn file_opened(ctx: FEntryContext) -> i32 {
    report(File(ctx.arg(0)), EventFlags::OPEN);
    0
}

#[fentry(function = "security_mmap_file")]
pub fn file_mapped(ctx: FEntryContext) -> i32 {
    let file = File(ctx.arg(0));
    // Most mappings of a host are of no file. Without this, older kernels would take a fault for the load.
    if !file.is_null() {
        report(file, EventFlags::MMAP);
    }
    0
}

#[inline(always)]
fn report(file: File, flags: u32) {
    let inode = file.inode();
    // A directory may be opened as well, and somebody may try to map it.
    if !inode.is_ours() || !inode.is_regular() {
        return;
    }
    let both = bpf_get_current_pid_tgid();
    maps::report_opening(Event {
        // SAFETY: a helper without preconditions.
        at_ns: unsafe { bpf_ktime_get_ns() },
        ino: inode.number(),
        first: 0,
        end: 0,
        tgid: (both >> 32) as u32,
        tid: both as u32,
        flags,
        padding: 0,
    });
}
