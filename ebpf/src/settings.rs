//! The constants that the daemon sets before the load.

use ebpf_common::Settings;

#[unsafe(no_mangle)]
pub(crate) static SETTINGS_2: Settings = Settings {
    pause_ticks: 0,
    device: 0,
    flags: 0,
    mapping_host: 0,
    inode_sb: 0,
    inode_ino: 0,
    inode_size: 0,
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
    padding: 0,
};

const _: () = assert!(ebpf_common::LAYOUT_VERSION == 2, "the symbol's name follows the layout");

/// One field, read where the verifier sees it: a plain read would be replaced by the zero above.
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: a static is readable; volatile only keeps the compiler from knowing its value.
        unsafe { core::ptr::read_volatile(&raw const $crate::settings::SETTINGS_2.$field) }
    };
}
pub(crate) use setting;

/// Whether a bit of `SettingsFlags` is set; the verifier drops the branch that is not taken.
#[inline(always)]
pub(crate) fn is_set(flag: u32) -> bool {
    setting!(flags) & flag != 0
}
