//! The remover: removes files, on a thread of its own, so that nobody waits for a file system to free blocks.
//!
//! unlink(2) frees the blocks of a file that nobody has open before it returns: a tenth of a second for a
//! large one, and several of them wait for each other in one thread. Here several are under way at once for the
//! price of one thread, through tokio-uring, whose io-uring is an older version and stays inside this file;
//! where io_uring is forbidden the thread makes blocking calls. The numbers: docs/decisions/0004-tokio-uring.md.
//!
//! Removals are not ordered among themselves: who needs an order waits for the answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::EngineKind;

/// Removals that wait for their turn; more block whoever asks.
const QUEUED_MAX: usize = 256;

/// Removals under way at once.
const RUNNING_MAX: u32 = 16;

/// Is told that the files are gone, their blocks included unless somebody has them open; or why not.
pub type Removed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A handle to the thread; dropping it waits until everything asked for is done.
#[derive(Debug)]
pub struct Remover {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Job {
    /// Removed one after the other.
    paths: Vec<PathBuf>,
    done: Removed,
}

impl Remover {
    /// Starts the thread, as `name`.
    pub fn start(name: String, kind: EngineKind) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUED_MAX);
        let thread = std::thread::Builder::new().name(name).spawn(move || serve(kind, queue))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }

    /// Removes the files at `paths` in this order, up to the first that cannot be; one that is gone already
    /// is no error. `done` is called once, on the remover's thread.
    ///
    /// Not for threads of an async runtime: waits while the queue is full.
    pub fn remove(&self, paths: Vec<PathBuf>, done: Removed) {
        let job = Job { paths, done };
        let jobs = self.jobs.lock().clone();
        let refused = match jobs {
            Some(jobs) => jobs.blocking_send(job).err().map(|refused| refused.0),
            None => Some(job),
        };
        if let Some(Job { done, .. }) = refused {
            done(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the remover has ended")));
        }
    }

    /// Takes no more and waits up to `wait` for what was asked; if a device does not answer, the thread is left behind.
    pub fn close(&self, wait: Duration) {
        self.jobs.lock().take();
        let Some(thread) = self.thread.lock().take() else { return };
        let until = Instant::now() + wait;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            join(thread);
        }
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.jobs.get_mut().take();
        self.thread.get_mut().take().into_iter().for_each(join);
    }
}

fn join(thread: JoinHandle<()>) {
    // What it was, the panic hook has said.
    if thread.join().is_err() {
        tracing::error!("the thread that removes files panicked");
    }
}

fn serve(kind: EngineKind, mut queue: mpsc::Receiver<Job>) {
    let runtime = (kind != EngineKind::Psync).then(|| tokio_uring::Runtime::new(&tokio_uring::builder()));
    match runtime {
        Some(Ok(runtime)) => return runtime.block_on(serve_in_ring(queue)),
        Some(Err(error)) => {
            tracing::info!(%error, "no io_uring to remove files with: blocking calls instead")
        }
        None => {}
    }
    while let Some(Job { paths, done }) = queue.blocking_recv() {
        done(paths.iter().try_for_each(|path| gone(std::fs::remove_file(path))));
    }
}

async fn serve_in_ring(mut queue: mpsc::Receiver<Job>) {
    let running = Arc::new(Semaphore::new(RUNNING_MAX as usize));
    while let Some(Job { paths, done }) = queue.recv().await {
        let permit = running.clone().acquire_owned().await;
        tokio_uring::spawn(async move {
            let _permit = permit;
            done(remove_in_ring(&paths).await);
        });
    }
    let _all = running.acquire_many(RUNNING_MAX).await;
}

async fn remove_in_ring(paths: &[PathBuf]) -> io::Result<()> {
    for path in paths {
        gone(unlink(path).await)?;
    }
    Ok(())
}

/// Rings of kernels before 5.11 have no unlink: then a call that blocks.
async fn unlink(path: &Path) -> io::Result<()> {
    match tokio_uring::fs::remove_file(path).await {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            std::fs::remove_file(path)
        }
        removed => removed,
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const KINDS: [EngineKind; 2] = [EngineKind::Auto, EngineKind::Psync];

    fn start(kind: EngineKind) -> Remover {
        Remover::start("remover".to_owned(), kind).unwrap()
    }

    /// Asks for a removal and waits for its answer.
    fn removed(remover: &Remover, paths: &[&Path]) -> io::Result<()> {
        let (done, answer) = mpsc::channel();
        let paths = paths.iter().map(|path| path.to_path_buf()).collect();
        remover.remove(paths, Box::new(move |removed| done.send(removed).unwrap()));
        answer.recv_timeout(Duration::from_secs(60)).expect("every removal is answered")
    }

    #[test]
    fn files_are_gone_when_it_says_so_and_those_that_were_gone_are_no_error() {
        for kind in KINDS {
            let (dir, remover) = (tempfile::tempdir().unwrap(), start(kind));
            let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
            for _ in 0..2 {
                std::fs::write(&second, [1; 100_000]).unwrap();
                removed(&remover, &[&first, &second]).unwrap();
                assert!(!second.exists());
                std::fs::write(&first, []).unwrap();
            }
        }
    }

    #[test]
    fn what_cannot_be_removed_is_said_and_what_was_to_follow_it_stays() {
        for kind in KINDS {
            let (dir, remover) = (tempfile::tempdir().unwrap(), start(kind));
            let [directory, file] = ["directory", "file"].map(|name| dir.path().join(name));
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(&file, [1]).unwrap();
            let error = removed(&remover, &[&directory, &file]).unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::EISDIR | libc::EPERM)), "{error}");
            assert!(directory.exists() && file.exists());
        }
    }

    #[test]
    fn a_drop_and_a_close_wait_for_everything_that_was_asked_and_nothing_is_taken_after_it() {
        for kind in KINDS {
            for close in [false, true] {
                let (dir, remover) = (tempfile::tempdir().unwrap(), start(kind));
                let (done, answers) = mpsc::channel();
                for number in 0..400 {
                    let path = dir.path().join(number.to_string());
                    std::fs::write(&path, [1; 1000]).unwrap();
                    let done = done.clone();
                    remover.remove(vec![path], Box::new(move |removed| done.send(removed.is_ok()).unwrap()));
                }
                if close {
                    remover.close(Duration::from_secs(60));
                    let refused = removed(&remover, &[dir.path()]).unwrap_err();
                    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
                }
                drop(remover);
                assert_eq!(answers.try_iter().filter(|removed| *removed).count(), 400);
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            }
        }
    }
}
