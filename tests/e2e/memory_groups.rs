//! Who pays for the page cache: pushed pages are the daemon's, and a reader in a small memory cgroup never feels them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount, cachectl};
use epochcache_tests::bed::s3::Weather;

use crate::pushed::undisturbed;
use crate::{Outcome, needs_fuse};

/// The two hierarchies of memory cgroups, and what their files are called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    V1,
    V2,
}

/// A memory cgroup made for a test; removed when dropped.
struct Group {
    version: Version,
    path: PathBuf,
}

impl Group {
    /// None, with the reason printed, where no memory cgroup can be made.
    fn new(name: &str, limit_bytes: Option<u64>) -> anyhow::Result<Option<Self>> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let v2 = Path::new("/sys/fs/cgroup");
        let has_v2 =
            fs::read_to_string(v2.join("cgroup.controllers")).is_ok_and(|list| list.contains("memory"));
        let (version, root) = match () {
            () if v1.join("memory.limit_in_bytes").exists() => (Version::V1, v1),
            () if has_v2 => {
                let _ = fs::write(v2.join("cgroup.subtree_control"), "+memory");
                (Version::V2, v2)
            }
            () => {
                println!("SKIP: no memory controller is mounted at /sys/fs/cgroup");
                return Ok(None);
            }
        };
        let path = root.join(format!("epochcache-{name}-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            println!("SKIP: no memory cgroup can be made: {}: {error}", path.display());
            return Ok(None);
        }
        let group = Self { version, path };
        let limit = if version == Version::V1 { "memory.limit_in_bytes" } else { "memory.max" };
        if let Some(limit_bytes) = limit_bytes
            && let Err(error) = fs::write(group.path.join(limit), limit_bytes.to_string())
        {
            println!("SKIP: no limit can be set: {}: {error}", group.path.display());
            return Ok(None);
        }
        Ok(Some(group))
    }

    /// Moves a process in, with all its threads: what they touch first from now on is charged to the group.
    fn take(&self, pid: u32) -> anyhow::Result<()> {
        fs::write(self.procs(), pid.to_string()).with_context(|| self.path.display().to_string())
    }

    fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// How often the group was at its limit.
    fn limit_events(&self) -> anyhow::Result<u64> {
        match self.version {
            Version::V1 => Ok(fs::read_to_string(self.path.join("memory.failcnt"))?.trim().parse()?),
            Version::V2 => self.line("memory.events", "max"),
        }
    }

    /// Page cache charged to it.
    fn cache_bytes(&self) -> anyhow::Result<u64> {
        self.line("memory.stat", if self.version == Version::V1 { "cache" } else { "file" })
    }

    fn line(&self, file: &str, name: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.path.join(file))?;
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(values.next().with_context(|| format!("{file} has no {name}"))?.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes are gone, or go just now.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        eprintln!("{} stays behind", self.path.display());
    }
}

const LIMIT_BYTES: u64 = 16 << 20;

/// Ten times the reader's limit.
fn ten_times() -> Shape {
    Shape { files: 420, classes: 12, mean_bytes: 400 << 10, sigma: 0.3, ..Shape::default() }
}

/// Reads every file by `cat` in `group`, and compares each byte.
fn read_all(bed: &Bed, mount: &Mount, group: &Group) -> Outcome {
    let mut command = Command::new("sh");
    // From its first moment on: what the shell itself touches is the group's too.
    command.args(["-c", "echo $$ > \"$0\" && exec cat \"$@\""]).arg(group.procs());
    command.args(bed.data_set.manifest.files.iter().map(|sample| mount.path().join(&sample.path)));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("it is piped")?;
    for sample in &bed.data_set.manifest.files {
        let mut bytes = vec![0; sample.size_bytes as usize];
        out.read_exact(&mut bytes)?;
        ensure!(sample.wrong_bytes(&bytes) == 0, "{} is wrong", sample.path);
    }
    ensure!(out.read(&mut [0])? == 0 && child.wait()?.success());
    Ok(())
}

#[test]
fn a_reader_in_a_small_memory_cgroup_reads_ten_times_its_limit_of_pushed_files_and_is_charged_nothing()
-> Outcome {
    needs_fuse!();
    let bed = Bed::new(&ten_times(), &Weather::default())?;
    let total_bytes = bed.data_set.manifest.total_bytes();
    assert!(total_bytes > 10 * LIMIT_BYTES);
    let mount = bed.mount(&["--serve", "noopen", "--page-cache-size", "300MiB"])?;
    let Some(daemon) = Group::new("daemon", None)? else { return Ok(()) };
    daemon.take(mount.pid())?;

    let charged = undisturbed(|| {
        let said = cachectl(&["push"], mount.path())?;
        assert_eq!(said.status.code(), Some(0), "{said:?}");
        let Some(reader) = Group::new("reader", Some(LIMIT_BYTES))? else { return Ok(None) };
        let before = mount.stats()?;
        read_all(&bed, &mount, &reader)?;
        let reads = mount.stats()?.grown(&before, "fuse_read");
        Ok(Some((reads, reader.limit_events()?, reader.cache_bytes()?)))
    })?;
    let Some((reads, limit_events, cache_bytes)) = charged else { return Ok(()) };
    println!(
        "{:?}, pushed: {total_bytes} bytes, {reads} READs, the reader's limit events {limit_events}, its cache {cache_bytes} bytes, the daemon's {}",
        daemon.version,
        daemon.cache_bytes()?
    );
    assert_eq!((reads, limit_events), (0, 0));
    assert!(cache_bytes < 1 << 20, "{cache_bytes} bytes");
    assert!(daemon.cache_bytes()? > total_bytes * 9 / 10);
    mount.unmount()?;

    // The same without the push: now the reader's own READs fill its group.
    let mount = bed.mount(&["--serve", "noopen"])?;
    let Some(other) = Group::new("other", Some(LIMIT_BYTES))? else { return Ok(()) };
    daemon.take(mount.pid())?;
    let before = mount.stats()?;
    read_all(&bed, &mount, &other)?;
    println!(
        "not pushed: {} READs, the reader's limit events {}, its cache {} bytes",
        mount.stats()?.grown(&before, "fuse_read"),
        other.limit_events()?,
        other.cache_bytes()?
    );
    assert!(other.limit_events()? > 0);
    assert!(other.cache_bytes()? > LIMIT_BYTES / 4);
    mount.unmount()
}

#[test]
fn the_budget_follows_the_limit_of_the_daemons_own_group_and_a_stress_within_it_stays_right() -> Outcome {
    needs_fuse!();
    const DAEMON_BYTES: u64 = 192 << 20;
    let Some(group) = Group::new("small", Some(DAEMON_BYTES))? else { return Ok(()) };
    if group.version != Version::V1 {
        println!("SKIP: a daemon is started in its group by a thread of ours, which takes version 1");
        return Ok(());
    }
    let bed = Bed::new(&ten_times(), &Weather::default())?;
    // A child begins in the group of the thread that starts it.
    let home = current_group()?;
    let tid = nix::unistd::gettid().to_string();
    fs::write(group.path.join("tasks"), &tid)?;
    let started = bed.mount(&["--serve", "noopen"]);
    fs::write(home.join("tasks"), &tid)?;
    let mount = started?;

    let budget = mount.stats()?.figure("fuse_push_budget_bytes");
    assert!(budget > 32 << 20 && budget <= DAEMON_BYTES / 2, "{budget}");
    // Fills, pushes and readers at once, in a group where memory is scarce.
    std::thread::scope(|scope| -> Outcome {
        let pushing = scope.spawn(|| cachectl(&["push"], mount.path()));
        for epoch in 1..=2 {
            bed.readers(&mount)?.epoch(epoch)?.must_be_right(bed.files())?;
        }
        let said = pushing.join().expect("it does not panic")?;
        assert_eq!(said.status.code(), Some(1), "not all of it has room: {said:?}");
        Ok(())
    })?;
    let stats = mount.stats()?;
    let held = stats.figure("fuse_push_held_bytes");
    println!("budget {budget}, held {held}, limit events {}", group.limit_events()?);
    assert!(held <= budget, "{held} of {budget}");
    mount.unmount()
}

/// The directory of this process's memory cgroup (version 1).
fn current_group() -> anyhow::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let group = text.lines().find_map(|line| line.split_once(":memory:").map(|(_, group)| group));
    let group = group.context("the memory controller is not in /proc/self/cgroup")?;
    Ok(Path::new("/sys/fs/cgroup/memory").join(group.trim_start_matches('/')))
}
