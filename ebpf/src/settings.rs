//! The constants that the daemon sets before the load.

use ebpf_common::{DISKS, Settings};

#[unsafe(no_mangle)]
pub(crate) static SETTINGS_4: Settings = Settings {
    pause_ticks: 0,
    device: 0,
    flags: 0,
    mapping_host: 0,
    inode_sb: 0,
    inode_ino: 0,
    inode_size: 0,
    inode_mode: 0,
    sb_dev: 0,
    file_inode: 0,
    fault_vma: 0,
    fault_pgoff: 0,
    vma_file: 0,
    task_pid: 0,
    task_tgid: 0,
    task_syscr: 0,
    iocb_file: 0,
    iocb_pos: 0,
    iter_count: 0,
    folio_mapping: 0,
    folio_flags: 0,
    folio_head_bit: 0,
    folio_pages: 0,
    request_queue: 0,
    queue_disk: 0,
    request_disk: 0,
    request_hctx: 0,
    request_tag: 0,
    request_flags: 0,
    request_len: 0,
    hctx_queue: 0,
    disk_major: 0,
    disk_minor: 0,
    fuse_mount: 0,
    fuse_conn: 0,
    fuse_dev: 0,
    fuse_unique: 0,
    fuse_opcode: 0,
    fuse_pid: 0,
    fuse_out_len: 0,
    openings_bytes: 0,
    disks: [0; DISKS],
};

const _: () = assert!(ebpf_common::LAYOUT_VERSION == 4, "the symbol's name follows the layout");

/// One field, read where the verifier sees it: a plain read would be replaced by the zero above.
macro_rules! setting {
    ($field:ident $([$index:literal])?) => {
        // SAFETY: a static is readable; volatile only keeps the compiler from knowing its value.
        unsafe { core::ptr::read_volatile(&raw const $crate::settings::SETTINGS_4.$field $([$index])?) }
    };
}
pub(crate) use setting;

/// Whether a bit of `SettingsFlags` is set; the verifier drops the branch that is not taken.
#[inline(always)]
pub(crate) fn is_set(flag: u32) -> bool {
    setting!(flags) & flag != 0
}
