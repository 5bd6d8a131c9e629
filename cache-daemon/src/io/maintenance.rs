//! Maintenance: the store's rare calls, on one tokio-uring thread of their own.
//!
//! fallocate, fsync, rename and unlink take milliseconds on a busy file system, which a thread that serves
//! reads must not wait for. Here several are under way at once for the price of one thread. tokio-uring
//! brings an io-uring of its own, older version; it stays inside this file. Measured (ext4, two shared
//! cores, Linux 6.18): durable writes of 64 KiB asked for together take 0.3 ms each, one after another by
//! blocking calls 0.8-1.2 ms; fallocate gains nothing but that nobody waits for it.
//!
//! Jobs are not ordered among themselves: who needs an order waits for the first answer. Each answer
//! comes through a channel of its own; a closed one without an answer means that the thread is gone.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::fcntl::{FallocateFlags, fallocate};
use tokio::sync::{Semaphore, mpsc};

/// Jobs that wait for their turn; more block whoever asks.
const QUEUED_MAX: usize = 256;

/// Jobs under way at once.
const RUNNING_MAX: u32 = 16;

/// A handle to the thread; dropping it waits until everything asked for is done.
#[derive(Debug)]
pub struct Maintenance {
    jobs: Option<mpsc::Sender<(Job, Sender<io::Result<()>>)>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Job {
    Write { path: PathBuf, bytes: Vec<u8> },
    Allocate { file: Arc<File>, range: Range<u64>, flags: FallocateFlags },
    Remove { path: PathBuf },
}

impl Maintenance {
    /// Starts the thread; where io_uring is forbidden it makes blocking calls, one at a time.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUED_MAX);
        let thread =
            std::thread::Builder::new().name("maintenance".to_owned()).spawn(move || serve(queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Replaces the file at `path` by one that holds `bytes`: after a crash it is the old or the new one,
    /// and after the answer the new one.
    pub fn write_durably(&self, path: PathBuf, bytes: Vec<u8>) -> Receiver<io::Result<()>> {
        self.ask(Job::Write { path, bytes })
    }

    /// Makes room on disk for `range` of `file`, which grows if it is shorter.
    pub fn preallocate(&self, file: Arc<File>, range: Range<u64>) -> Receiver<io::Result<()>> {
        self.ask(Job::Allocate { file, range, flags: FallocateFlags::empty() })
    }

    /// Gives the space of `range` of `file` back; it reads as zeros, the length stays.
    pub fn punch(&self, file: Arc<File>, range: Range<u64>) -> Receiver<io::Result<()>> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        self.ask(Job::Allocate { file, range, flags })
    }

    /// Removes the file at `path`; that it is gone already is no error.
    pub fn remove(&self, path: PathBuf) -> Receiver<io::Result<()>> {
        self.ask(Job::Remove { path })
    }

    /// Not for threads of an async runtime: waits while the queue is full.
    fn ask(&self, job: Job) -> Receiver<io::Result<()>> {
        let (answer, receiver) = bounded(1);
        let jobs = self.jobs.as_ref().expect("open until the drop");
        // Fails if the thread is gone; then `answer` is dropped too and the receiver tells.
        let _ = jobs.blocking_send((job, answer));
        receiver
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; jobs without an answer told the rest.
            let _ = thread.join();
        }
    }
}

fn serve(mut queue: mpsc::Receiver<(Job, Sender<io::Result<()>>)>) {
    match tokio_uring::Runtime::new(&tokio_uring::builder()) {
        Ok(runtime) => runtime.block_on(serve_concurrently(queue)),
        Err(error) => {
            tracing::info!(%error, "no io_uring for maintenance: blocking calls instead");
            while let Some((job, answer)) = queue.blocking_recv() {
                let _ = answer.try_send(job.block());
            }
        }
    }
}

async fn serve_concurrently(mut queue: mpsc::Receiver<(Job, Sender<io::Result<()>>)>) {
    let running = Arc::new(Semaphore::new(RUNNING_MAX as usize));
    while let Some((job, answer)) = queue.recv().await {
        let permit = running.clone().acquire_owned().await;
        tokio_uring::spawn(async move {
            let _permit = permit;
            // Nobody waits for every answer.
            let _ = answer.try_send(job.perform().await);
        });
    }
    let _all = running.acquire_many(RUNNING_MAX).await;
}

impl Job {
    /// In the ring; what this kernel's rings cannot do yet (rename and unlink before 5.11) blocks instead.
    async fn perform(self) -> io::Result<()> {
        match self.in_ring().await {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => self.block(),
            other => other,
        }
    }

    async fn in_ring(&self) -> io::Result<()> {
        match self {
            Self::Write { path, bytes } => {
                let temporary = temporary(path);
                let file = tokio_uring::fs::File::create(&temporary).await?;
                file.write_all_at(bytes.clone(), 0).await.0?;
                file.sync_all().await?;
                file.close().await?;
                tokio_uring::fs::rename(&temporary, path).await?;
                tokio_uring::fs::File::open(directory(path)).await?.sync_all().await
            }
            Self::Allocate { file, range, flags } => {
                let file = tokio_uring::fs::File::from_std(file.try_clone()?);
                file.fallocate(range.start, range.end - range.start, flags.bits()).await
            }
            Self::Remove { path } => gone(tokio_uring::fs::remove_file(path).await),
        }
    }

    fn block(&self) -> io::Result<()> {
        match self {
            Self::Write { path, bytes } => {
                let temporary = temporary(path);
                std::fs::write(&temporary, bytes)?;
                File::open(&temporary)?.sync_all()?;
                std::fs::rename(&temporary, path)?;
                File::open(directory(path))?.sync_all()
            }
            Self::Allocate { file, range, flags } => {
                let start = i64::try_from(range.start).map_err(io::Error::other)?;
                let len = i64::try_from(range.end - range.start).map_err(io::Error::other)?;
                Ok(fallocate(file.as_fd(), *flags, start, len)?)
            }
            Self::Remove { path } => gone(std::fs::remove_file(path)),
        }
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where the new content is written: beside the old, so that the rename stays in one file system.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// The directory that has `path`'s name in it.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn every_job_does_what_it_says_in_the_ring_and_without_one() {
        let maintenance = Maintenance::start().unwrap();
        let jobs: [&dyn Fn(Job) -> io::Result<()>; 2] =
            [&|job| maintenance.ask(job).recv().unwrap(), &|job| job.block()];
        for perform in jobs {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            for bytes in [vec![1; 100_000], vec![2; 10]] {
                perform(Job::Write { path: path.clone(), bytes: bytes.clone() }).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), bytes);
            }
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file is gone");
            let file = Arc::new(File::options().read(true).write(true).open(&path).unwrap());
            let flags = FallocateFlags::empty();
            perform(Job::Allocate { file: file.clone(), range: 0..1 << 20, flags }).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!((metadata.len(), metadata.blocks() * 512 >= 1 << 20), (1 << 20, true));
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            perform(Job::Allocate { file: file.clone(), range: 0..1 << 20, flags }).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!((metadata.len(), metadata.blocks() * 512 < 1 << 20), (1 << 20, true));
            perform(Job::Remove { path: path.clone() }).unwrap();
            perform(Job::Remove { path }).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_drop_waits_for_everything_that_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        let maintenance = Maintenance::start().unwrap();
        for n in 0..100 {
            let path = dir.path().join(n.to_string());
            drop(maintenance.write_durably(path, vec![n; 1000]));
        }
        drop(maintenance);
        for n in 0..100u8 {
            assert_eq!(std::fs::read(dir.path().join(n.to_string())).unwrap(), [n; 1000]);
        }
    }

    #[test]
    fn failures_come_back() {
        let maintenance = Maintenance::start().unwrap();
        let answer = maintenance.write_durably("/none/file".into(), vec![1]).recv().unwrap();
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::NotFound);
        let read_only = Arc::new(File::open("/proc/self/exe").unwrap());
        let answer = maintenance.preallocate(read_only.clone(), 0..4096).recv().unwrap();
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(maintenance.punch(read_only, 0..4096).recv().unwrap().is_err());
    }
}
