//! io_uring: whether a ring can be had, and with which of the flags that make it cheaper.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::{Check, read};

/// `io_uring_params` of linux/io_uring.h: all that matters here is its length and where `flags` is.
#[repr(C)]
struct Params {
    entries: [u32; 2],
    flags: u32,
    rest: [u32; 27],
}

const _: () = assert!(size_of::<Params>() == 120);

const SQPOLL: u32 = 1 << 1;
const COOP_TASKRUN: u32 = 1 << 8;
const SINGLE_ISSUER: u32 = 1 << 12;
const DEFER_TASKRUN: u32 = 1 << 13;

/// Flags that are worth having, with the kernel that brought them.
const FLAGS: [(&str, u32); 4] = [
    ("SQPOLL", SQPOLL),
    ("COOP_TASKRUN (5.19)", COOP_TASKRUN),
    ("SINGLE_ISSUER (6.0)", SINGLE_ISSUER),
    ("DEFER_TASKRUN (6.1)", SINGLE_ISSUER | DEFER_TASKRUN),
];

pub(super) fn look() -> Vec<Check> {
    let sysctl = read("/proc/sys/kernel/io_uring_disabled");
    let plain = setup(0);
    let mut checks = vec![ring(plain.as_ref().err(), sysctl.as_deref())];
    if plain.is_ok() {
        checks.push(flags(FLAGS.map(|(name, bits)| (name, setup(bits).is_ok()))));
    }
    checks
}

/// Makes a ring of two entries and gives it back at once.
fn setup(flags: u32) -> io::Result<()> {
    let mut params = Params { entries: [0; 2], flags, rest: [0; 27] };
    // SAFETY: io_uring_setup(2) reads and writes one io_uring_params, 120 bytes, which `params` is.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, &raw mut params) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

fn ring(error: Option<&io::Error>, sysctl: Option<&str>) -> Check {
    const EFFECT: &str = "the store falls back to psync: threads that call pread, at more CPU a read";
    let Some(error) = error else { return Check::ok("io_uring", "a ring can be made") };
    match (error.raw_os_error(), sysctl) {
        (Some(libc::ENOSYS), _) => Check::off(
            "io_uring",
            "not in this kernel, or filtered by seccomp",
            EFFECT,
            "in a container allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile",
        ),
        (Some(libc::EPERM), Some("1")) => Check::off(
            "io_uring",
            "sysctl kernel.io_uring_disabled = 1: only for root and one group",
            EFFECT,
            "sysctl kernel.io_uring_disabled=0, or put the daemon's group into kernel.io_uring_group",
        ),
        (Some(libc::EPERM), Some("2")) => Check::off(
            "io_uring",
            "sysctl kernel.io_uring_disabled = 2: for nobody",
            EFFECT,
            "sysctl kernel.io_uring_disabled=0",
        ),
        (Some(libc::EPERM), _) => Check::off(
            "io_uring",
            "not permitted: filtered by seccomp, as in a container with Docker's default profile",
            EFFECT,
            "run the container with a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        ),
        (Some(libc::ENOMEM), _) => Check::off(
            "io_uring",
            "no memory for a ring",
            EFFECT,
            "raise RLIMIT_MEMLOCK (LimitMEMLOCK= of the unit)",
        ),
        _ => Check::off("io_uring", error.to_string(), EFFECT, "report this line as a bug"),
    }
}

fn flags(flags: [(&str, bool); 4]) -> Check {
    let missing: Vec<&str> = flags.iter().filter(|(_, works)| !works).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Check::ok("io_uring_flags", flags.map(|(name, _)| name).join(", "));
    }
    Check::off(
        "io_uring_flags",
        format!("missing: {}", missing.join(", ")),
        "a few more interrupts and system calls a read",
        "boot a newer kernel (6.1 has them all); nothing else depends on it",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn each_way_of_forbidding_io_uring_has_its_own_cure() {
        let cure = |errno, sysctl| {
            let check = ring(Some(&io::Error::from_raw_os_error(errno)), sysctl);
            assert_eq!(check.state, State::Off);
            check.do_what
        };
        assert!(cure(libc::EPERM, Some("1")).contains("io_uring_group"));
        assert!(cure(libc::EPERM, Some("2")).contains("io_uring_disabled=0"));
        assert!(cure(libc::EPERM, Some("0")).contains("seccomp"));
        assert!(cure(libc::EPERM, None).contains("seccomp"));
        assert!(cure(libc::ENOSYS, None).contains("io_uring_setup"));
        assert!(cure(libc::ENOMEM, None).contains("MEMLOCK"));
        assert_eq!(ring(None, None).state, State::Ok);
    }

    #[test]
    fn missing_flags_are_named() {
        let check = flags([
            ("SQPOLL", true),
            ("COOP_TASKRUN", true),
            ("SINGLE_ISSUER", false),
            ("DEFER_TASKRUN", false),
        ]);
        assert_eq!(check.found, "missing: SINGLE_ISSUER, DEFER_TASKRUN");
    }
}
