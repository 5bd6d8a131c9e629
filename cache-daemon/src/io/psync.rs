//! psync: the engine where io_uring is not: threads that block in pread, pwrite and fdatasync.
//!
//! Containers often forbid io_uring (Docker's and containerd's default seccomp profiles since 2023).
//! A few threads keep a depth above one real, which one thread that performs the operations in
//! `complete` would not. They belong to the engine: it joins them when dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::file::os_file;
use super::slots::Slots;
use super::{Completion, DeviceFile, Engine, FileSlot, Operation, Token, Waker};

/// Threads of one engine at most. Beyond that their switches cost more than the device's depth gives.
const THREADS_MAX: usize = 16;

/// How long a drop waits for threads that are blocked in the kernel.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// Blocking system calls on a few threads.
#[derive(Debug)]
pub struct PsyncEngine {
    files: Slots<Arc<File>>,
    in_flight: usize,
    depth: usize,
    /// `None` only while being dropped: threads end when it closes.
    jobs: Option<Sender<Job>>,
    over: Receiver<(FileSlot, Completion)>,
    /// Used by the threads too: whatever happened, the engine's thread looks.
    wakes: Waker,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    token: Token,
    slot: FileSlot,
    file: Arc<File>,
    operation: Operation,
}

impl PsyncEngine {
    /// An engine of `depth`, with a thread for each operation in flight up to a bound.
    pub fn new(depth: usize) -> io::Result<Self> {
        assert!(depth > 0, "an engine has a depth");
        let (jobs, take) = bounded(depth);
        let (done, over) = bounded(depth);
        let wakes = Waker::new()?;
        let threads = (0..depth.min(THREADS_MAX))
            .map(|n| {
                let (take, done, wakes) = (take.clone(), done.clone(), wakes.clone());
                let name = format!("psync-{n}");
                std::thread::Builder::new().name(name).spawn(move || work(&take, &done, &wakes))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { files: Slots::new(), in_flight: 0, depth, jobs: Some(jobs), over, wakes, threads })
    }

    /// Moves what is over to `done`.
    fn take_over(&mut self, done: &mut Vec<Completion>) -> bool {
        let before = done.len();
        for (slot, completion) in self.over.try_iter() {
            self.files.end(slot);
            self.in_flight -= 1;
            done.push(completion);
        }
        done.len() > before
    }
}

impl Engine for PsyncEngine {
    fn register(&mut self, file: DeviceFile) -> io::Result<FileSlot> {
        Ok(self.files.insert(os_file(file)?))
    }

    fn forget(&mut self, slot: FileSlot) {
        self.files.remove(slot);
    }

    fn submit(&mut self, token: Token, slot: FileSlot, operation: Operation) {
        assert!(self.in_flight < self.depth, "more than the engine's depth in flight");
        operation.check();
        let file = self.files.begin(slot).clone();
        self.in_flight += 1;
        let jobs = self.jobs.as_ref().expect("open until the drop");
        jobs.try_send(Job { token, slot, file, operation })
            .expect("the channel has room for the whole depth");
    }

    fn complete(&mut self, timeout: Duration, done: &mut Vec<Completion>) -> io::Result<()> {
        // The wake is taken first: what its thread did before is then seen by `take_over`.
        let woken = self.wakes.take();
        if self.take_over(done) || woken || timeout.is_zero() {
            return Ok(());
        }
        self.wakes.wait(timeout)?;
        self.take_over(done);
        Ok(())
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn waker(&self) -> Waker {
        self.wakes.clone()
    }

    fn name(&self) -> &'static str {
        "psync"
    }
}

impl Drop for PsyncEngine {
    /// Waits for the threads; one that the kernel does not let go (a dead device, an empty pipe) is left
    /// behind. That is safe: its job owns the buffer and the file until the call returns.
    fn drop(&mut self) {
        self.jobs = None;
        let deadline = Instant::now() + DROP_WAIT;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                thread.join().expect("the threads do not panic");
            }
        }
    }
}

fn work(take: &Receiver<Job>, done: &Sender<(FileSlot, Completion)>, wakes: &Waker) {
    for job in take {
        let file = &job.file;
        let (result, buffer) = job.operation.by(
            |into, at| uninterrupted(|| file.read_at(into, at)),
            |from, at| uninterrupted(|| file.write_at(from, at)),
            || uninterrupted(|| file.sync_data()).map(|()| 0),
        );
        // Never blocks: the channel has room for the whole depth. Fails when the engine is gone.
        let _ = done.try_send((job.slot, Completion { token: job.token, result, buffer }));
        wakes.wake();
    }
}

/// Calls again while a signal interrupts: nothing was done then.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
