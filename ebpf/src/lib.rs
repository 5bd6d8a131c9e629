//! The probes, compiled for the kernel by `cargo xtask ebpf`. Empty on the host.
//!
//! One file a hook family: `pages` (BTF tracepoints of the page cache, tier B and all faults on 6.12 and later),
//! `calls` (fentry, tier A). Each only finds the inode and the range; `touch` does the rest, once for all. In every tier:
//! `resident` (what is in the page cache), `device` (how fast the store's disks are), `roundtrip` (how fast we are). And
//! `openings` (fentry), attached only while somebody traces.
//!
//! Rules
//! - Filter first: everything that is not of our mount leaves after four loads (the tracepoint costs the host 54 ns
//!   by itself, the filter 5 more; Linux 6.18).
//! - No helper call on the way of an ordinary hit but two cheap ones (current task, ticks). Array lookups are
//!   inlined by the verifier; hash lookups happen only where a thread leaves a file unfinished.
//! - Reserve last: a ring record is reserved when everything that goes in is known. A full ring is counted.
//! - Fields of kernel structs are read directly, at offsets that the daemon found in the running kernel's BTF.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]
#![cfg_attr(target_arch = "bpf", allow(unstable_features))]

#[cfg(target_arch = "bpf")]
mod calls;
#[cfg(target_arch = "bpf")]
mod device;
#[cfg(target_arch = "bpf")]
mod latency;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod openings;
#[cfg(target_arch = "bpf")]
mod pages;
#[cfg(target_arch = "bpf")]
mod resident;
#[cfg(target_arch = "bpf")]
mod roundtrip;
#[cfg(target_arch = "bpf")]
mod settings;
#[cfg(target_arch = "bpf")]
mod structs;
#[cfg(target_arch = "bpf")]
mod thread;
#[cfg(target_arch = "bpf")]
mod touch;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; if something did, the verifier would refuse the endless loop.
    loop {}
}

/// Only GPL-compatible programs may load through typed pointers or ask for the current task, and "Dual MIT/GPL" is one of
/// the names for such a licence that the kernel knows (include/linux/license.h). It covers the compiled probes only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
