//! What only io_uring does: blocked operations that are cancelled, limits, filters, and its report.

use super::*;
use crate::io::{DeviceOffset, EngineKind, engine};

fn options(depth: usize) -> EngineOptions {
    EngineOptions { depth, ..EngineOptions::default() }
}

/// A ring, or a printed reason why there is none.
fn ring(pool: &BufferPool, options: &EngineOptions) -> Option<UringEngine> {
    UringEngine::new(pool, options).inspect_err(|error| eprintln!("skipped: no io_uring here: {error}")).ok()
}

fn read(engine: &mut UringEngine, pool: &BufferPool, token: u64, file: FileSlot) {
    let buffer = pool.take().unwrap();
    engine.submit(Token(token), file, Operation::Read { buffer, len: 4096, at: DeviceOffset(0) });
}

#[test]
fn reads_that_would_block_for_ever_are_cancelled_by_the_drop() {
    let pool = BufferPool::new(8, 4096).unwrap();
    for started in [true, false] {
        let Some(mut engine) = ring(&pool, &options(8)) else { return };
        let (empty, writer) = nix::unistd::pipe().unwrap();
        let file = engine.register(empty.into()).unwrap();
        (0..8).for_each(|n| read(&mut engine, &pool, n, file));
        if started {
            let mut done = Vec::new();
            engine.complete(Duration::from_millis(1), &mut done).unwrap();
            assert!(done.is_empty());
        }
        drop(engine);
        drop(writer);
        assert_eq!(
            std::iter::from_fn(|| pool.take()).collect::<Vec<_>>().len(),
            8,
            "buffers are in the kernel's hands"
        );
    }
}

#[test]
fn a_blocked_read_holds_nobody_up() {
    let pool = BufferPool::new(4, 4096).unwrap();
    let Some(mut engine) = ring(&pool, &options(4)) else { return };
    let (empty, writer) = nix::unistd::pipe().unwrap();
    let pipe = engine.register(empty.into()).unwrap();
    let file = engine.register(tempfile::tempfile().unwrap().into()).unwrap();
    read(&mut engine, &pool, 1, pipe);
    read(&mut engine, &pool, 2, file);
    let mut done = Vec::new();
    while done.is_empty() {
        engine.complete(Duration::from_secs(60), &mut done).unwrap();
    }
    assert_eq!(done.pop().unwrap().token, Token(2));
    nix::unistd::write(&writer, &[5; 100]).unwrap();
    while done.is_empty() {
        engine.complete(Duration::from_secs(60), &mut done).unwrap();
    }
    let completion = done.pop().unwrap();
    assert_eq!((completion.token, completion.result.unwrap()), (Token(1), 100));
}

#[test]
fn the_report_names_what_could_not_be_had_and_nothing_else() {
    let pool = BufferPool::new(4, 4096).unwrap();
    for sqpoll in [false, true] {
        let Some(engine) = ring(&pool, &EngineOptions { sqpoll, ..options(4) }) else { return };
        let report = engine.report();
        eprintln!("{report:?}");
        let all = report.registered_buffers && report.registered_files;
        assert_eq!(all, report.reasons.is_empty(), "{report:?}");
        assert_eq!(report.flags.contains(&"SQPOLL"), sqpoll);
        assert!(!sqpoll || !report.flags.contains(&"DEFER_TASKRUN"), "the kernel refuses both together");
    }
}

#[test]
fn a_timeout_left_over_from_an_interrupted_wait_does_not_lengthen_the_next() {
    let pool = BufferPool::new(1, 4096).unwrap();
    let Ok(mut engine) = UringEngine::oldest(&pool, &options(1)) else { return };
    // What a signal leaves behind: an armed timeout that nobody waits for.
    engine.arm_timeout(WAIT_MAX);
    engine.enter(0, Duration::ZERO).unwrap();
    let mut done = Vec::new();
    for _ in 0..3 {
        engine.complete(Duration::from_millis(1), &mut done).unwrap();
    }
    assert!(done.is_empty());
}

#[test]
fn an_error_of_the_device_is_the_result() {
    let pool = BufferPool::new(1, 4096).unwrap();
    let Some(mut engine) = ring(&pool, &options(1)) else { return };
    let read_only = std::fs::File::open("/proc/self/exe").unwrap();
    let file = engine.register(read_only.into()).unwrap();
    let buffer = pool.take().unwrap();
    engine.submit(Token(1), file, Operation::Write { buffer, len: 4096, at: DeviceOffset(0) });
    let mut done = Vec::new();
    while done.is_empty() {
        engine.complete(Duration::from_secs(60), &mut done).unwrap();
    }
    let completion = done.pop().unwrap();
    assert_eq!(completion.result.unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert!(completion.buffer.is_some());
}

#[test]
fn the_second_thread_of_a_ring_is_refused_and_its_drop_frees_nothing_in_use() {
    let pool = BufferPool::new(1, 4096).unwrap();
    let Some(mut engine) = ring(&pool, &options(1)) else { return };
    if !engine.report().flags.contains(&"SINGLE_ISSUER") {
        eprintln!("skipped: this kernel knows no SINGLE_ISSUER");
        return;
    }
    let (empty, _writer) = nix::unistd::pipe().unwrap();
    let file = engine.register(empty.into()).unwrap();
    read(&mut engine, &pool, 1, file);
    engine.complete(Duration::ZERO, &mut Vec::new()).unwrap();
    std::thread::spawn(move || {
        let refused = engine.complete(Duration::ZERO, &mut Vec::new()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EEXIST));
    })
    .join()
    .unwrap();
    assert!(pool.take().is_none(), "the buffer that the kernel may write to was leaked");
}

#[test]
fn polling_is_refused_for_files_on_queues_that_do_not_poll() {
    let pool = BufferPool::new(1, 4096).unwrap();
    let Some(mut engine) = ring(&pool, &EngineOptions { iopoll: true, ..options(1) }) else {
        return;
    };
    let file = tempfile::tempfile().unwrap();
    if queue_polls(&file).unwrap() {
        eprintln!("skipped: this queue does poll");
        return;
    }
    assert_eq!(engine.register(file.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    // And its waits end, with nothing to poll for.
    engine.complete(Duration::from_millis(1), &mut Vec::new()).unwrap();
    engine.waker().wake();
    engine.complete(Duration::from_secs(60), &mut Vec::new()).unwrap();
}

#[test]
fn without_room_to_lock_memory_the_ring_works_unregistered_and_says_so() {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).unwrap().0;
    if limit > 64 << 20 {
        eprintln!("skipped: RLIMIT_MEMLOCK is {limit}");
        return;
    }
    // Capabilities belong to a thread, so only this one loses the right to lock memory.
    std::thread::spawn(|| {
        drop_capability(CAP_IPC_LOCK);
        let pool = BufferPool::new(65, 1 << 20).unwrap();
        let Some(mut engine) = ring(&pool, &options(2)) else { return };
        let report = engine.report().clone();
        assert!(!report.registered_buffers);
        assert!(report.reasons.iter().any(|reason| reason.contains("RLIMIT_MEMLOCK")), "{report:?}");
        let file = engine.register(tempfile::tempfile().unwrap().into()).unwrap();
        read(&mut engine, &pool, 1, file);
        let mut done = Vec::new();
        while done.is_empty() {
            engine.complete(Duration::from_secs(60), &mut done).unwrap();
        }
        assert_eq!(done[0].result.as_ref().unwrap(), &0);
    })
    .join()
    .unwrap();
}

#[test]
fn where_a_filter_forbids_io_uring_auto_takes_psync_and_says_why() {
    for (errno, word) in [(libc::EPERM, "forbidden"), (libc::ENOSYS, "no io_uring")] {
        // A filter belongs to the thread that installs it, and dies with it.
        std::thread::spawn(move || {
            forbid_io_uring(errno);
            let pool = BufferPool::new(1, 4096).unwrap();
            let (auto, report) = engine(EngineKind::Auto, &pool, &options(1)).unwrap();
            assert_eq!(auto.name(), "psync");
            assert!(report.reason.unwrap().contains(word));
            let error = engine(EngineKind::Uring, &pool, &options(1)).err().unwrap();
            assert_eq!(error.raw_os_error(), Some(errno));
        })
        .join()
        .unwrap();
    }
}

/// capability.h
const CAP_IPC_LOCK: u32 = 14;

fn drop_capability(capability: u32) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: header and sets have the layout of capget(2), version 3: two sets of three words.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    assert_eq!(got, 0);
    sets[0][0] &= !(1 << capability);
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    assert_eq!(set, 0);
}

/// Makes io_uring_setup fail with `errno` in this thread, as a container's seccomp profile does.
fn forbid_io_uring(errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = [
        // The system call's number is the first word of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { code: equal as u16, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes no pointer.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(no_new_privileges, 0);
    // SAFETY: the program and its filter live across the call, which copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0);
}
