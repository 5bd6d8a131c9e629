//! Threads that the kernel may have to wait for must not wait for the kernel's reclaim of what they serve.
//!
//! A thread that answers READs and allocates memory may be made to free some first, and among what can be freed are inodes of the
//! mount that it serves: evicting one waits for folios that an unanswered READ has locked. From Linux 6.9 (e26ee4efbc79)
//! until "fuse: fix readahead reclaim deadlock" of January 2026 that can happen in no-open mode, where no open file
//! holds the inode. PR_SET_IO_FLUSHER (Linux 5.6) makes every allocation of a thread GFP_NOIO, which leaves inodes alone; it was
//! made for this (block devices in user space). It takes CAP_SYS_RESOURCE, and threads inherit it.
//!
//! Only for threads that replies depend on: a thread that may not free inodes cannot make room in a memory
//! cgroup that is full of them.

use std::io;

/// `PR_SET_IO_FLUSHER` of include/uapi/linux/prctl.h.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Makes this thread, and those that it starts from now on, such a thread; or why not.
pub fn become_io_flusher() -> Result<(), String> {
    // SAFETY: the call takes numbers only, and changes how this thread allocates.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    Err(match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EPERM) => "CAP_SYS_RESOURCE is missing".to_owned(),
        error if error.raw_os_error() == Some(libc::EINVAL) => "this kernel is older than 5.6".to_owned(),
        error => format!("prctl: {error}"),
    })
}
