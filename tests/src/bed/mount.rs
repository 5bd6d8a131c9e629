//! A mount for one test: the daemon as a process of ours, in directories of its own, always cleaned up.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::data_set::{DataSet, Shape};
use super::programs::{Said, program, run_within, scratch, wait_until, wait_within};
use super::reader::{Readers, Reading};
use super::s3::{self, Origin, Weather};
use super::stats::Stats;

/// How long a daemon may take to serve, or to end: nothing waits that long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why a FUSE mount cannot be tried here; none if it can.
pub fn cannot_mount() -> Option<String> {
    if !Path::new("/dev/fuse").exists() {
        return Some("/dev/fuse is missing (modprobe fuse; in a container --device /dev/fuse)".to_owned());
    }
    if !nix::unistd::geteuid().is_root()
        && run_within(PATIENCE, Command::new("fusermount3").arg("-V")).is_err()
    {
        return Some("fusermount3 is missing (apt-get install fuse3)".to_owned());
    }
    None
}

/// A data set, its server, and a directory for everything that a test makes.
#[derive(Debug)]
pub struct Bed {
    /// The server.
    pub origin: Origin,
    /// What it serves.
    pub data_set: DataSet,
    home: TempDir,
}

impl Bed {
    /// A data set of this `shape`, served in this `weather`.
    pub fn new(shape: &Shape, weather: &Weather) -> anyhow::Result<Self> {
        Self::in_directory(scratch()?, shape, weather, &["--until-stdin-closes"])
    }

    /// The same in `home`, with other options of `s3-origin`.
    pub fn in_directory(
        home: TempDir,
        shape: &Shape,
        weather: &Weather,
        origin_options: &[&str],
    ) -> anyhow::Result<Self> {
        let data_set = DataSet::make(home.path(), shape)?;
        let origin = Origin::start_with(&data_set.root, weather, origin_options)?;
        Ok(Self { origin, data_set, home })
    }

    /// Leaves everything as it is: the mount, the server, the directory.
    pub fn leave(self, mount: Mount) {
        std::mem::forget(mount);
        std::mem::forget(self);
    }

    /// The directory for everything.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Mounts the data set with these further options, and waits until it is served.
    pub fn mount(&self, options: &[&str]) -> anyhow::Result<Mount> {
        self.mount_command().options(options).start()
    }

    /// The command that mounts the data set on `home/mnt`, cached in `home/cache`.
    pub fn mount_command(&self) -> MountCommand {
        let mountpoint = self.home().join("mnt");
        // A dead mount of the daemon before answers ENOTCONN: it is there, and the next daemon's business.
        let _ = fs::create_dir(&mountpoint);
        MountCommand {
            url: DataSet::url(),
            mountpoint,
            cache_dir: self.home().join("cache"),
            cache_size: "1GiB".to_owned(),
            endpoint: Some(self.origin.endpoint().to_owned()),
            options: Vec::new(),
            secret: s3::SECRET_KEY.to_owned(),
            log: self.home().join("daemon.log"),
            own_group: false,
        }
    }

    /// A reading of `root` (a mount, or the data set's own directory) by eight workers.
    pub fn reading(&self, root: &Path) -> Reading {
        Reading::new(root, &self.data_set.manifest_path)
    }

    /// Workers on `mount`.
    pub fn readers(&self, mount: &Mount) -> anyhow::Result<Readers> {
        Readers::start(&self.reading(mount.path()))
    }

    /// The number of files.
    pub fn files(&self) -> usize {
        self.data_set.manifest.files.len()
    }
}

/// `epochcache mount ...`, to be changed before it is run.
#[derive(Clone, Debug)]
pub struct MountCommand {
    /// The data set.
    pub url: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// `--cache-dir`.
    pub cache_dir: PathBuf,
    /// `--cache-size`.
    pub cache_size: String,
    /// `--endpoint`, if the server is ours.
    pub endpoint: Option<String>,
    /// Further options.
    pub options: Vec<OsString>,
    /// The secret access key.
    pub secret: String,
    /// Where its standard error goes.
    pub log: PathBuf,
    /// Whether a Ctrl-C at the terminal passes it by: it is for the one who started it, who unmounts.
    pub own_group: bool,
}

impl MountCommand {
    /// Adds options.
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(OsString::from));
        self
    }

    /// Changes the size of the cache.
    pub fn cache_size(mut self, size: &str) -> Self {
        size.clone_into(&mut self.cache_size);
        self
    }

    /// As a command, with credentials in its environment and nothing of the user's own.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("epochcache"));
        command.arg("mount").arg(&self.url).arg(&self.mountpoint);
        command.arg("--cache-dir").arg(&self.cache_dir).args(["--cache-size", &self.cache_size]);
        if let Some(endpoint) = &self.endpoint {
            command.args(["--endpoint", endpoint, "--allow-http", "--path-style"]);
        }
        command.args(&self.options).envs([
            ("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", self.secret.as_str()),
            ("AWS_REGION", s3::REGION),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ]);
        for variable in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// Starts the daemon and waits until it serves.
    pub fn start(&self) -> anyhow::Result<Mount> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command();
        if self.own_group {
            command.process_group(0);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn();
        let child = child.with_context(|| format!("{:?}", command.get_program()))?;
        let mut mount = Mount { child, command: self.clone() };
        mount.wait_until_served()?;
        Ok(mount)
    }

    /// Runs a command line that must be refused, or one with `--daemon`, to its end.
    pub fn run(&self) -> anyhow::Result<Said> {
        run_within(PATIENCE, &mut self.command())
    }
}

/// A running daemon and its mount. Dropped: unmounted and killed, whatever state they are in.
#[derive(Debug)]
pub struct Mount {
    child: Child,
    command: MountCommand,
}

impl Mount {
    /// The mountpoint.
    pub fn path(&self) -> &Path {
        &self.command.mountpoint
    }

    /// The cache directory.
    pub fn cache_dir(&self) -> &Path {
        &self.command.cache_dir
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon wrote to its standard error, and those before it in the same bed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.command.log).unwrap_or_default()
    }

    /// `cachectl stats --json`.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        let said = cachectl(&["stats", "--json"], self.path())?;
        ensure!(said.status.success(), "cachectl stats: {}", said.err);
        Ok(Stats(serde_json::from_str(&said.out).with_context(|| said.out.clone())?))
    }

    /// Waits until all that was fetched is stored: from then on a killed daemon loses nothing.
    pub fn wait_until_stored(&self) -> anyhow::Result<()> {
        let idle = ["store_appends_queued", "store_writes_in_flight", "origin_in_flight"];
        let mut quiet = 0;
        wait_until(PATIENCE, "the store is idle", || {
            let stats = self.stats()?;
            quiet = if idle.iter().all(|name| stats.figure(name) == 0) { quiet + 1 } else { 0 };
            Ok(quiet == 3)
        })
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Waits for the daemon's end.
    pub fn wait_for_end(&mut self) -> anyhow::Result<ExitStatus> {
        wait_within(PATIENCE, &mut self.child)?.with_context(|| format!("the daemon hangs\n{}", self.log()))
    }

    /// kill -9, and waits until the process is gone. The mount stays behind, dead.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Unmounts as a user does, with `cachectl umount`; the daemon must end well.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        let said = cachectl(&["umount"], self.path())?;
        ensure!(said.status.success(), "cachectl umount: {}\n{}", said.err, self.log());
        let status = self.wait_for_end()?;
        ensure!(status.success(), "after cachectl umount the daemon ended with {status}\n{}", self.log());
        ensure!(!is_mounted(self.path()), "still mounted");
        Ok(())
    }

    fn wait_until_served(&mut self) -> anyhow::Result<()> {
        let mountpoint = self.path().to_path_buf();
        // It comes last: from then on `cachectl` is answered too.
        let socket = self.cache_dir().join("control.sock");
        let child = &mut self.child;
        let log = &self.command.log;
        let ended = wait_until(PATIENCE, "the mount serves", || {
            if let Some(status) = child.try_wait()? {
                bail!("the daemon ended: {status}");
            }
            // statfs asks the daemon: an answer means that it serves, and not only that it mounted.
            Ok(socket.exists() && is_mounted(&mountpoint) && nix::sys::statvfs::statvfs(&mountpoint).is_ok())
        });
        ended.with_context(|| fs::read_to_string(log).unwrap_or_default())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            if !matches!(wait_within(Duration::from_secs(10), &mut self.child), Ok(Some(_))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A killed daemon leaves its mount; nothing of ours may be mounted when the directory is removed.
        detach(&self.home().join("mnt"));
    }
}

/// Detaches whatever is mounted on `path`, open files or not.
pub fn detach(path: &Path) {
    if is_mounted(path) && umount2(path, MntFlags::MNT_DETACH).is_err() {
        let _ = Command::new("fusermount3").args(["-u", "-z", "-q"]).arg(path).status();
    }
}

/// Whether a FUSE file system is mounted exactly there, dead or alive. Asks /proc: a dead mount answers no stat.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.to_string_lossy().replace(' ', "\\040");
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(4) == Some(&wanted)
            && fields.skip_while(|field| *field != "-").nth(1).is_some_and(|fs| fs.starts_with("fuse"))
    })
}

/// Runs `cachectl` about the mount at `mountpoint`.
pub fn cachectl(arguments: &[&str], mountpoint: &Path) -> anyhow::Result<Said> {
    run_within(PATIENCE, Command::new(program("cachectl")).args(arguments).arg(mountpoint))
}
