//! Conformance: what every engine promises, run over each of them on real files or their stand-in.
//!
//! A new engine gets one line in [`conformance!`]; a new promise gets one function and one line.

use std::fs::OpenOptions;
use std::io;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::sim::{Faults, SimDevice, SimEngine};
use super::*;

/// Long enough that only a hang reaches it.
const LONG: Duration = Duration::from_secs(60);

/// An engine to be tested, and files for it.
struct Bench {
    pool: BufferPool,
    engine: Box<dyn Engine>,
    new_file: fn(u64) -> DeviceFile,
}

/// How an engine under test is made, and its files of a given size.
trait Subject {
    fn engine(pool: &BufferPool, depth: usize) -> io::Result<Box<dyn Engine>>;

    fn new_file(size_bytes: u64) -> DeviceFile {
        let dir = tempfile::tempdir().unwrap();
        let mut options = OpenOptions::new();
        let path = dir.path().join("file");
        let file = open_direct(&path, options.read(true).write(true).create_new(true)).unwrap();
        file.as_file().unwrap().set_len(size_bytes).unwrap();
        file
    }
}

impl Bench {
    const BUFFER_BYTES: usize = 16 * ALIGN_BYTES;

    fn new<S: Subject>(depth: usize) -> Self {
        let pool = BufferPool::new(u16::try_from(depth).unwrap() + 4, Self::BUFFER_BYTES).unwrap();
        let engine = S::engine(&pool, depth).unwrap();
        Self { pool, engine, new_file: S::new_file }
    }

    fn file(&mut self, size_bytes: u64) -> FileSlot {
        let file = (self.new_file)(size_bytes);
        self.engine.register(file).unwrap()
    }

    fn buffer(&self, byte: u8) -> Buffer {
        let mut buffer = self.pool.take().unwrap();
        buffer.fill(byte);
        buffer
    }

    fn read(&mut self, token: u64, file: FileSlot, len: usize, at: u64) {
        let buffer = self.buffer(0xEE);
        self.engine.submit(Token(token), file, Operation::Read { buffer, len, at: DeviceOffset(at) });
    }

    fn write(&mut self, token: u64, file: FileSlot, byte: u8, len: usize, at: u64) {
        let buffer = self.buffer(byte);
        self.engine.submit(Token(token), file, Operation::Write { buffer, len, at: DeviceOffset(at) });
    }

    /// Waits for `count` completions, in the order of their tokens.
    fn wait(&mut self, count: usize) -> Vec<Completion> {
        let deadline = Instant::now() + LONG;
        let mut done = Vec::new();
        while done.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} completed", done.len());
            self.engine.complete(LONG, &mut done).unwrap();
        }
        assert_eq!(done.len(), count);
        done.sort_by_key(|completion| completion.token);
        done
    }

    fn wait_one(&mut self) -> Completion {
        self.wait(1).pop().unwrap()
    }

    /// Nothing is over that nobody asked for, and every buffer is back in the pool.
    fn assert_idle(&mut self) {
        let mut done = Vec::new();
        self.engine.complete(Duration::ZERO, &mut done).unwrap();
        assert!(done.is_empty(), "{done:?}");
        let free: Vec<_> = std::iter::from_fn(|| self.pool.take()).collect();
        assert_eq!(free.len(), self.engine.depth() + 4, "buffers are missing");
    }
}

fn what_was_written_is_read<S: Subject>() {
    let mut bench = Bench::new::<S>(4);
    let file = bench.file(1 << 20);
    bench.write(1, file, 7, 8192, 4096);
    assert_eq!(bench.wait_one().result.unwrap(), 8192);
    bench.read(2, file, 16384, 0);
    let read = bench.wait_one();
    assert_eq!((read.token, read.result.unwrap()), (Token(2), 16384));
    let bytes = read.buffer.unwrap();
    assert!(bytes[..4096].iter().all(|byte| *byte == 0));
    assert!(bytes[4096..12288].iter().all(|byte| *byte == 7));
    assert!(bytes[12288..16384].iter().all(|byte| *byte == 0));
    assert!(bytes[16384..].iter().all(|byte| *byte == 0xEE), "bytes past the length were touched");
}

fn every_operation_completes_once_and_gives_its_buffer_back<S: Subject>() {
    let mut bench = Bench::new::<S>(32);
    let file = bench.file(1 << 20);
    for round in 0..20 {
        for n in 0..32 {
            match n % 3 {
                0 => bench.read(n, file, 4096, n * 4096),
                1 => bench.write(n, file, round, 4096, n * 4096),
                _ => bench.engine.submit(Token(n), file, Operation::Sync),
            }
        }
        let done = bench.wait(32);
        for (n, completion) in (0..).zip(done) {
            assert_eq!(completion.token, Token(n));
            assert_eq!(completion.result.unwrap(), if n % 3 == 2 { 0 } else { 4096 });
            assert_eq!(completion.buffer.is_some(), n % 3 != 2);
        }
    }
    bench.assert_idle();
}

fn reads_across_and_past_the_end_are_short<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    let file = bench.file(8192);
    bench.read(1, file, 16384, 4096);
    bench.read(2, file, 4096, 8192);
    let done = bench.wait(2);
    assert_eq!(done[0].result.as_ref().unwrap(), &4096);
    assert_eq!(done[1].result.as_ref().unwrap(), &0);
}

fn a_wake_from_another_thread_ends_the_wait<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    for _ in 0..200 {
        let waker = bench.engine.waker();
        let thread = std::thread::spawn(move || waker.wake());
        let mut done = Vec::new();
        bench.engine.complete(LONG, &mut done).unwrap();
        assert!(done.is_empty());
        thread.join().unwrap();
    }
}

fn a_wake_before_the_wait_is_not_lost<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    let file = bench.file(1 << 20);
    for n in 0..100 {
        bench.engine.waker().wake();
        bench.engine.complete(LONG, &mut Vec::new()).unwrap();
        // With I/O in between, whose completion must not swallow the next wake.
        bench.read(n, file, 4096, 0);
        bench.wait_one();
    }
}

fn a_wait_ends_with_its_timeout<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    let file = bench.file(1 << 20);
    for timeout_ms in [0, 1, 5, 1] {
        let mut done = Vec::new();
        bench.engine.complete(Duration::from_millis(timeout_ms), &mut done).unwrap();
        assert!(done.is_empty());
        bench.read(1, file, 4096, 0);
        bench.wait_one();
    }
    // A clock of 64 bits in nanoseconds ends long before this.
    bench.read(2, file, 4096, 0);
    let mut done = Vec::new();
    bench.engine.complete(Duration::MAX, &mut done).unwrap();
}

fn an_operation_beyond_the_depth_panics<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    let file = bench.file(1 << 20);
    assert_eq!(bench.engine.depth(), 2);
    bench.read(1, file, 4096, 0);
    bench.read(2, file, 4096, 0);
    let beyond = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.read(3, file, 4096, 0)));
    assert!(beyond.is_err());
    bench.wait(2);
}

fn a_dropped_engine_has_let_go_of_every_buffer<S: Subject>() {
    for _ in 0..20 {
        let mut bench = Bench::new::<S>(16);
        let file = bench.file(1 << 20);
        for n in 0..16 {
            bench.write(n, file, 1, 65536, n * 65536);
        }
        let Bench { pool, mut engine, .. } = bench;
        engine.complete(Duration::ZERO, &mut Vec::new()).unwrap();
        drop(engine);
        assert_eq!(std::iter::from_fn(|| pool.take()).collect::<Vec<_>>().len(), 20);
    }
}

fn an_engine_may_be_built_in_one_thread_and_used_in_another<S: Subject>() {
    let pool = BufferPool::new(4, 8192).unwrap();
    let mut engine = S::engine(&pool, 2).unwrap();
    let file = engine.register(S::new_file(8192)).unwrap();
    let used = std::thread::spawn(move || {
        let buffer = pool.take().unwrap();
        engine.submit(Token(1), file, Operation::Read { buffer, len: 8192, at: DeviceOffset(0) });
        let mut done = Vec::new();
        while done.is_empty() {
            engine.complete(LONG, &mut done).unwrap();
        }
        done.pop().unwrap().result.unwrap()
    });
    assert_eq!(used.join().unwrap(), 8192);
}

fn a_forgotten_slot_serves_the_next_file<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    let (first, second) = (bench.file(4096), bench.file(8192));
    bench.read(0, first, 4096, 0);
    assert_eq!(bench.wait_one().result.unwrap(), 4096);
    bench.engine.forget(first);
    let third = bench.file(12288);
    assert_eq!(third, first);
    bench.read(1, third, 16384, 0);
    assert_eq!(bench.wait_one().result.unwrap(), 12288);
    bench.read(2, second, 16384, 0);
    assert_eq!(bench.wait_one().result.unwrap(), 8192);
}

fn forgetting_a_file_with_an_operation_in_flight_panics<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    let file = bench.file(4096);
    bench.read(1, file, 4096, 0);
    let engine = &mut bench.engine;
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.forget(file))).is_err());
}

fn hundreds_of_files_work<S: Subject>() {
    let mut bench = Bench::new::<S>(8);
    let files: Vec<_> = (0..300).map(|_| bench.file(4096)).collect();
    for batch in files.chunks(8) {
        for (n, file) in (0..).zip(batch) {
            bench.write(n, *file, file.0 as u8, 4096, 0);
        }
        assert!(bench.wait(batch.len()).iter().all(|write| write.result.as_ref().unwrap() == &4096));
    }
    for file in files {
        bench.read(1, file, 4096, 0);
        assert!(bench.wait_one().buffer.unwrap()[..4096].iter().all(|byte| *byte == file.0 as u8));
    }
}

fn buffers_of_another_pool_work<S: Subject>() {
    let mut bench = Bench::new::<S>(2);
    let file = bench.file(8192);
    let other = BufferPool::new(1, 8192).unwrap();
    let mut buffer = other.take().unwrap();
    buffer.fill(9);
    bench.engine.submit(Token(1), file, Operation::Write { buffer, len: 8192, at: DeviceOffset(0) });
    assert_eq!(bench.wait_one().result.unwrap(), 8192);
    bench.read(2, file, 8192, 0);
    assert!(bench.wait_one().buffer.unwrap()[..8192].iter().all(|byte| *byte == 9));
}

/// Random operations against an array: no two in flight overlap, so the array knows every answer.
fn ten_thousand_random_operations_match_an_array<S: Subject>() {
    const BLOCKS: usize = 64;
    const DEPTH: usize = 16;
    let seed = 0x10_000;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bench = Bench::new::<S>(DEPTH);
    let file = bench.file((BLOCKS * ALIGN_BYTES) as u64);
    let mut oracle = [0u8; BLOCKS];
    let mut busy = [false; BLOCKS];
    let mut in_flight = std::collections::HashMap::new();
    let mut submitted = 0;
    while submitted < 10_000 || !in_flight.is_empty() {
        while submitted < 10_000 && in_flight.len() < DEPTH {
            let first = rng.random_range(0..BLOCKS);
            let blocks = rng.random_range(1..=4).min(BLOCKS - first);
            let range = first..first + blocks;
            if busy[range.clone()].iter().any(|busy| *busy) {
                break;
            }
            busy[range.clone()].fill(true);
            let (len, at) = (blocks * ALIGN_BYTES, (first * ALIGN_BYTES) as u64);
            let written = rng.random_bool(0.5).then(|| rng.random());
            match written {
                Some(byte) => bench.write(submitted, file, byte, len, at),
                None => bench.read(submitted, file, len, at),
            }
            in_flight.insert(Token(submitted), (range, written));
            submitted += 1;
        }
        let mut done = Vec::new();
        bench.engine.complete(LONG, &mut done).unwrap();
        for completion in done {
            let (range, written) = in_flight.remove(&completion.token).expect("completed once");
            busy[range.clone()].fill(false);
            assert_eq!(completion.result.unwrap(), range.len() * ALIGN_BYTES, "seed {seed}");
            let buffer = completion.buffer.unwrap();
            for (block, bytes) in range.zip(buffer.chunks(ALIGN_BYTES)) {
                oracle[block] = written.unwrap_or(oracle[block]);
                assert!(bytes.iter().all(|byte| *byte == oracle[block]), "seed {seed}, block {block}");
            }
        }
    }
    bench.assert_idle();
}

macro_rules! conformance {
    ($($name:ident => $subject:ident;)*) => { $(mod $name {
        use super::*;
        conformance!(@promises $subject
            what_was_written_is_read,
            every_operation_completes_once_and_gives_its_buffer_back,
            reads_across_and_past_the_end_are_short,
            a_wake_from_another_thread_ends_the_wait,
            a_wake_before_the_wait_is_not_lost,
            a_wait_ends_with_its_timeout,
            an_operation_beyond_the_depth_panics,
            a_dropped_engine_has_let_go_of_every_buffer,
            an_engine_may_be_built_in_one_thread_and_used_in_another,
            a_forgotten_slot_serves_the_next_file,
            forgetting_a_file_with_an_operation_in_flight_panics,
            hundreds_of_files_work,
            buffers_of_another_pool_work,
            ten_thousand_random_operations_match_an_array,
        );
    })* };
    (@promises $subject:ident $($promise:ident,)*) => { $(
        #[test]
        fn $promise() {
            if let Some(reason) = unavailable::<$subject>() {
                eprintln!("skipped: {reason}");
                return;
            }
            super::$promise::<$subject>();
        }
    )* };
}

conformance! {
    psync => Psync;
    uring => Uring;
    uring_of_the_oldest_kernel => OldestUring;
    uring_with_a_submission_thread => SqpollUring;
    sim => Sim;
    sim_that_reorders => ReorderingSim;
}

/// Why `S` cannot be had here, if it cannot.
fn unavailable<S: Subject>() -> Option<String> {
    let pool = BufferPool::new(1, 4096).unwrap();
    S::engine(&pool, 1).err().map(|error| format!("no such engine here: {error}"))
}

struct Psync;
struct Uring;
struct OldestUring;
struct SqpollUring;
struct Sim;
struct ReorderingSim;

impl Subject for Psync {
    fn engine(_: &BufferPool, depth: usize) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(PsyncEngine::new(depth)?))
    }
}

impl Subject for Uring {
    fn engine(pool: &BufferPool, depth: usize) -> io::Result<Box<dyn Engine>> {
        let options = EngineOptions { depth, ..EngineOptions::default() };
        Ok(Box::new(UringEngine::new(pool, &options)?))
    }
}

impl Subject for OldestUring {
    fn engine(pool: &BufferPool, depth: usize) -> io::Result<Box<dyn Engine>> {
        let options = EngineOptions { depth, ..EngineOptions::default() };
        Ok(Box::new(UringEngine::oldest(pool, &options)?))
    }
}

impl Subject for SqpollUring {
    fn engine(pool: &BufferPool, depth: usize) -> io::Result<Box<dyn Engine>> {
        let options = EngineOptions { depth, sqpoll: true, ..EngineOptions::default() };
        Ok(Box::new(UringEngine::new(pool, &options)?))
    }
}

impl Subject for Sim {
    fn engine(_: &BufferPool, depth: usize) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(SimEngine::new(depth, 1)?))
    }

    fn new_file(size_bytes: u64) -> DeviceFile {
        SimDevice::new(size_bytes, 2).into()
    }
}

impl Subject for ReorderingSim {
    fn engine(pool: &BufferPool, depth: usize) -> io::Result<Box<dyn Engine>> {
        Sim::engine(pool, depth)
    }

    fn new_file(size_bytes: u64) -> DeviceFile {
        let device = SimDevice::new(size_bytes, 2);
        device.set_faults(Faults { latency_ticks_max: 20, ..Faults::default() });
        device.into()
    }
}

#[test]
fn engines_refuse_files_of_the_other_world() {
    let pool = BufferPool::new(1, 4096).unwrap();
    let real = Psync::new_file(4096);
    let refused = Sim::engine(&pool, 1).unwrap().register(real).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
    for engine in [Psync::engine(&pool, 1), Uring::engine(&pool, 1)] {
        let Ok(mut engine) = engine else { continue };
        let refused = engine.register(Sim::new_file(4096)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
    }
}
