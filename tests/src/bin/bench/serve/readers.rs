//! The workers of a case, and what a run of theirs cost on both sides of the mount.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::worker::{self, Order, Read, Work};

/// Worker processes, kept for all runs of a case; killed when dropped.
pub struct Readers {
    workers: Vec<Worker>,
}

struct Worker {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
}

/// What a run cost.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// From the start to the last worker's end.
    pub seconds: f64,
    /// The workers' sum.
    pub read: Read,
    /// CPU of the daemon meanwhile; threads of the kernel that work for it are not in it.
    pub daemon_cpu_s: f64,
    /// Context switches of the daemon.
    pub daemon_switches: f64,
    /// FUSE requests.
    pub requests: f64,
}

impl Readers {
    /// Starts `count` workers that know the files of `manifest`.
    pub fn start(manifest: &Path, count: usize) -> anyhow::Result<Self> {
        let workers = (0..count).map(|_| Worker::start(manifest));
        Ok(Self { workers: workers.collect::<anyhow::Result<_>>()? })
    }

    /// Reads `root` once.
    pub fn run(&mut self, root: &Path, work: Work, seed: u64, check: bool) -> anyhow::Result<Run> {
        let workers = self.workers.len();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let order = Order { root: root.to_owned(), work, seed, share: (number, workers), check };
            worker.say(&serde_json::to_string(&order)?)?;
        }
        self.workers.iter_mut().try_for_each(|worker| worker.line().map(drop))?;
        let began = Instant::now();
        self.workers.iter_mut().try_for_each(|worker| worker.say(""))?;
        let lines = self.workers.iter_mut().map(Worker::line).collect::<anyhow::Result<Vec<_>>>()?;
        let mut run = Run { seconds: began.elapsed().as_secs_f64(), ..Run::default() };
        for line in lines {
            let read: Read =
                serde_json::from_str(&line).with_context(|| format!("a reader ended: {line:?}"))?;
            run.add(read);
        }
        run.read.latencies_us.sort_unstable();
        ensure!(run.read.wrong_bytes == 0, "{} WRONG BYTES of {}", run.read.wrong_bytes, run.read.bytes);
        Ok(run)
    }
}

impl Worker {
    fn start(manifest: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(worker::NAME)
            .env(worker::NAME, manifest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().expect("it is piped");
        let reports = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, orders, reports })
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{line}").context("a reader is gone")
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.reports.read_line(&mut line)? > 0, "a reader ended early");
        Ok(line)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run {
    fn add(&mut self, read: Read) {
        let sum = &mut self.read;
        sum.operations += read.operations;
        sum.bytes += read.bytes;
        sum.wrong_bytes += read.wrong_bytes;
        sum.cpu_us += read.cpu_us;
        sum.switches += read.switches;
        sum.latencies_us.extend(read.latencies_us);
    }

    /// Operations a second.
    pub fn operations_per_s(&self) -> f64 {
        self.read.operations as f64 / self.seconds
    }

    /// MiB a second.
    pub fn mib_per_s(&self) -> f64 {
        self.mib() / self.seconds
    }

    /// MiB read.
    pub fn mib(&self) -> f64 {
        self.read.bytes as f64 / f64::from(1 << 20)
    }

    /// CPU of readers and daemon, seconds a GiB.
    pub fn cpu_s_per_gib(&self) -> f64 {
        (self.read.cpu_us as f64 / 1e6 + self.daemon_cpu_s) / self.mib() * 1024.0
    }

    /// Context switches of readers and daemon.
    pub fn switches(&self) -> f64 {
        self.read.switches as f64 + self.daemon_switches
    }

    /// The latency that `share` of the operations keep, us.
    pub fn latency_us(&self, share: f64) -> f64 {
        let sorted = &self.read.latencies_us;
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |&us| f64::from(us))
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// CPU, user and kernel.
    pub cpu_s: f64,
    /// Context switches.
    pub switches: f64,
}

/// Adds up the threads of process `pid`: the process's own figures are in ticks of 10 ms, and count no switches.
pub fn used(pid: u32) -> anyhow::Result<Used> {
    let mut used = Used::default();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        // A thread may have ended since.
        let (Ok(times), Ok(status)) =
            (fs::read_to_string(thread.join("schedstat")), fs::read_to_string(thread.join("status")))
        else {
            continue;
        };
        let ran_ns: f64 = times.split(' ').next().and_then(|ns| ns.parse().ok()).context("schedstat")?;
        used.cpu_s += ran_ns / 1e9;
        let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        used.switches += lines.filter_map(|(_, count)| count.trim().parse::<f64>().ok()).sum::<f64>();
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_the_sum_of_its_threads() {
        let before = used(std::process::id()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let after = used(std::process::id()).unwrap();
        assert!(after.switches > before.switches && after.cpu_s >= before.cpu_s);
    }

    #[test]
    fn a_latency_is_the_one_that_so_many_keep() {
        let run =
            Run { read: Read { latencies_us: (1..=100).collect(), ..Read::default() }, ..Run::default() };
        assert_eq!((run.latency_us(0.5), run.latency_us(0.99)), (50.0, 99.0));
    }
}
