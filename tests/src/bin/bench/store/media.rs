//! Media: where the store and fio are measured, and how nothing of it stays behind.
//!
//! A loop device is marked for removal as soon as it is open here: the kernel detaches it at its last close,
//! however this process ends. Mounts are made in a mount namespace of this process and die with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cache_daemon::store::{Place, medium::FILE_NAME};
use epochcache_tests::bed::programs::run_within;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// All of them.
pub const NAMES: [&str; 3] = ["ext4", "xfs", "raw"];

/// The most that preparing a medium takes.
const LIMIT: Duration = Duration::from_secs(300);

/// How long a mount may be busy: a ring lets go of its files some time after it was closed.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

/// A place for stores, and for files of fio.
pub struct Medium {
    name: &'static str,
    kind: Kind,
    /// Holds the image of the loop device.
    _home: tempfile::TempDir,
}

enum Kind {
    /// Stores go to directories in this one.
    Directory(PathBuf),
    /// As above, on a file system of its own.
    Mounted { directory: PathBuf, _device: Loop },
    /// One store at a time.
    Device(Loop),
}

/// A loop device, detached when nobody has it open any more.
struct Loop {
    path: PathBuf,
    _open: File,
}

/// Where a store is, and what fio reads there.
#[derive(Clone, Debug)]
pub struct Spot {
    /// For the store.
    pub place: Place,
    /// Where its checkpoints go.
    pub state_dir: PathBuf,
    /// The file or device with its bytes.
    pub bytes_at: PathBuf,
}

/// Gives this process a mount namespace of its own; to be called before it has threads. Says why if that cannot be.
pub fn own_mounts() -> Result<(), String> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
        .map_err(|errno| format!("no mount namespace ({}): run it as root", errno.desc()))
}

impl Medium {
    /// Makes the medium called `name` in a directory of its own in `home`; `image_bytes` is the size of a loop device.
    pub fn make(name: &'static str, home: &Path, image_bytes: u64) -> anyhow::Result<Self> {
        let own = tempfile::Builder::new().prefix(name).tempdir_in(home)?;
        let kind = match name {
            "ext4" => {
                let found = file_system(own.path())?;
                ensure!(found == "ext2/ext3", "{} is on {found}: name another with --dir", home.display());
                Kind::Directory(own.path().to_owned())
            }
            "xfs" => {
                let device = Loop::make(&own.path().join("image"), image_bytes)?;
                // Without discarding, which would make holes in the image.
                must(Command::new("mkfs.xfs").args(["-q", "-f", "-K"]).arg(&device.path))?;
                let directory = own.path().join("mount");
                fs::create_dir(&directory)?;
                mount(Some(&device.path), &directory, Some("xfs"), MsFlags::empty(), None::<&str>)
                    .with_context(|| format!("mounting {}", device.path.display()))?;
                Kind::Mounted { directory, _device: device }
            }
            _ => Kind::Device(Loop::make(&own.path().join("image"), image_bytes)?),
        };
        Ok(Self { name, kind, _home: own })
    }

    /// One of [`NAMES`].
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it is, for the note of a row.
    pub fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Directory(_) => "a file on ext4",
            Kind::Mounted { .. } => "a file on XFS on a loop device with direct I/O",
            Kind::Device(_) => "a loop device with direct I/O",
        }
    }

    /// A place for a store called `name`: an empty directory, or the device, whatever is on it.
    pub fn spot(&self, name: &str) -> anyhow::Result<Spot> {
        let state_dir = self._home.path().join(format!("{name}.state"));
        fresh(&state_dir)?;
        Ok(match &self.kind {
            Kind::Device(device) => {
                Spot { place: Place::Device(device.path.clone()), state_dir, bytes_at: device.path.clone() }
            }
            Kind::Directory(directory) | Kind::Mounted { directory, .. } => {
                let directory = directory.join(name);
                fresh(&directory)?;
                Spot {
                    place: Place::Directory(directory.clone()),
                    state_dir,
                    bytes_at: directory.join(FILE_NAME),
                }
            }
        })
    }

    /// Where fio writes: a file that is not there yet, or the device.
    pub fn for_fio(&self) -> anyhow::Result<PathBuf> {
        let path = match &self.kind {
            Kind::Device(device) => return Ok(device.path.clone()),
            Kind::Directory(directory) | Kind::Mounted { directory, .. } => directory.join("fio"),
        };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(path),
        }
    }
}

impl Spot {
    /// Removes what a store has left.
    pub fn clear(&self) -> anyhow::Result<()> {
        if let Place::Directory(directory) = &self.place {
            fs::remove_dir_all(directory)?;
        }
        Ok(fs::remove_dir_all(&self.state_dir)?)
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        let Self::Mounted { directory, .. } = self else { return };
        let began = Instant::now();
        while umount2(&*directory, MntFlags::empty()).is_err() {
            if began.elapsed() > RELEASE_WAIT {
                let _ = umount2(&*directory, MntFlags::MNT_DETACH);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Loop {
    /// A loop device over a new file of `bytes`, with direct I/O.
    fn make(image: &Path, bytes: u64) -> anyhow::Result<Self> {
        // Written once: what fallocate(2) gives is converted with the first write, which is another cost on each side.
        let size = format!("--size={bytes}");
        let filename = format!("--filename={}", image.display());
        let options =
            ["--name=image", "--rw=write", "--bs=1m", "--direct=1", "--ioengine=io_uring", "--iodepth=8"];
        must(Command::new("fio").args(options).args([size, filename]))?;
        let made = must(Command::new("losetup").args(["--direct-io=on", "--find", "--show"]).arg(image))?;
        let path = PathBuf::from(made.trim());
        let opened = File::open(&path);
        // In use by us, so it is marked: detached at the last close.
        must(Command::new("losetup").arg("--detach").arg(&path))?;
        let device = Self { _open: opened.with_context(|| path.display().to_string())?, path };
        let name = device.path.file_name().context("a device has a name")?;
        let direct = fs::read_to_string(Path::new("/sys/block").join(name).join("loop/dio"))?;
        ensure!(direct.trim() == "1", "the loop device does not bypass the page cache below it");
        Ok(device)
    }
}

/// What stat(1) calls the file system of `path`.
fn file_system(path: &Path) -> anyhow::Result<String> {
    Ok(must(Command::new("stat").args(["--file-system", "--format=%T"]).arg(path))?.trim().to_owned())
}

/// An empty directory, whatever was there.
fn fresh(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(fs::create_dir(directory)?)
}

/// What `command` printed; fails if it did.
fn must(command: &mut Command) -> anyhow::Result<String> {
    let said = run_within(LIMIT, command)?;
    if !said.status.success() {
        let name = command.get_program().to_string_lossy().into_owned();
        bail!("{name}: {}", said.err.trim());
    }
    Ok(said.out)
}
