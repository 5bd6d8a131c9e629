//! fio, the reference: one job of its io_uring engine with O_DIRECT, and what its JSON says.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use epochcache_tests::bed::programs::run_within;
use serde::Deserialize;

use super::Stop;

/// More than any job takes, unless a device hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// Where fio may read or write.
#[derive(Clone, Debug)]
pub struct Region<'a> {
    /// The file or the device.
    pub path: &'a Path,
    /// From where.
    pub start: u64,
    /// How much of it.
    pub bytes: u64,
}

/// In which order, or whether it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere at a multiple of a page.
    RandomRead {
        /// Another one, other places.
        seed: u64,
    },
    /// One after the other.
    Read,
    /// One after the other, and made durable at the end.
    Write,
}

/// One job.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Where.
    pub region: Region<'a>,
    /// How.
    pub pattern: Pattern,
    /// Bytes of an operation.
    pub block_bytes: u64,
    /// Operations in flight.
    pub depth: usize,
    /// Bytes of all of them.
    pub total_bytes: u64,
}

/// What fio measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Operations done.
    pub operations: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// From the first operation to the end of the last, and of the sync.
    pub seconds: f64,
    /// CPU of the thread that submitted them, user and kernel.
    pub cpu_s: f64,
}

/// Fails if there is no fio, saying how to get it.
pub fn check() -> anyhow::Result<()> {
    match Command::new("fio").arg("--version").output() {
        Ok(said) if said.status.success() => Ok(()),
        _ => bail!("the reference is fio, which is not here: apt-get install fio"),
    }
}

impl Job<'_> {
    /// Runs it.
    pub fn run(&self, stop: &Stop) -> anyhow::Result<Measured> {
        let said = run_within(LIMIT, Command::new("fio").args(self.arguments()))?;
        // Ctrl-C reaches fio too, which ends early and says so in its figures.
        stop.check()?;
        ensure!(said.status.success(), "fio failed ({}): {}{}", said.status, said.out, said.err);
        let measured = parse(&said.out)?;
        let wanted = self.total_bytes / self.block_bytes;
        ensure!(measured.operations == wanted, "fio did {} of {wanted} operations", measured.operations);
        Ok(measured)
    }

    fn arguments(&self) -> Vec<String> {
        let Region { path, start, bytes } = &self.region;
        // A colon separates files in fio's option.
        let path = path.display().to_string().replace(':', "\\:");
        let mut arguments: Vec<String> =
            ["--name=bench", "--ioengine=io_uring", "--direct=1", "--output-format=json", "--eta=never"]
                .map(str::to_owned)
                .into();
        let total = self.total_bytes / self.block_bytes * self.block_bytes;
        arguments.extend([
            format!("--filename={path}"),
            format!("--offset={start}"),
            format!("--size={bytes}"),
            format!("--io_size={total}"),
            format!("--bs={}", self.block_bytes),
            format!("--iodepth={}", self.depth),
        ]);
        let pattern: &[&str] = match self.pattern {
            // Without a map of what was read: ours draws with replacement too.
            Pattern::RandomRead { .. } => {
                &["--readonly", "--rw=randread", "--norandommap", "--blockalign=4096"]
            }
            Pattern::Read => &["--readonly", "--rw=read"],
            Pattern::Write => &["--rw=write", "--end_fsync=1", "--fallocate=posix"],
        };
        arguments.extend(pattern.iter().map(|&option| option.to_owned()));
        if let Pattern::RandomRead { seed } = self.pattern {
            arguments.push(format!("--randseed={seed}"));
        }
        arguments
    }
}

#[derive(Deserialize)]
struct Report {
    jobs: Vec<JobReport>,
}

#[derive(Deserialize)]
struct JobReport {
    error: i32,
    /// ms.
    job_runtime: f64,
    /// Percent of that.
    usr_cpu: f64,
    sys_cpu: f64,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    io_bytes: u64,
    total_ios: u64,
    /// ms.
    runtime: f64,
}

/// Reads the JSON that fio prints, which notes of other kinds may precede.
fn parse(text: &str) -> anyhow::Result<Measured> {
    let json = text.find('{').map(|start| &text[start..]).context("fio printed no JSON")?;
    let report: Report = serde_json::from_str(json).context("fio's JSON")?;
    let job = report.jobs.first().context("fio reports no job")?;
    ensure!(job.error == 0, "fio's job failed: {}", std::io::Error::from_raw_os_error(job.error));
    let moved = if job.read.total_ios > 0 { &job.read } else { &job.write };
    ensure!(moved.total_ios > 0 && moved.runtime > 0.0, "fio moved nothing");
    Ok(Measured {
        operations: moved.total_ios,
        bytes: moved.io_bytes,
        seconds: moved.runtime / 1000.0,
        cpu_s: (job.usr_cpu + job.sys_cpu) / 100.0 * job.job_runtime / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fio 3.33 prints, with most of it left out.
    fn report(error: i32, read: &str) -> String {
        format!(
            "fio: a note\n{{\"fio version\":\"fio-3.33\",\"jobs\":[{{\"jobname\":\"bench\",\"error\":{error},\
             \"job_runtime\":2000,\"usr_cpu\":1.5,\"sys_cpu\":8.5,\"read\":{read},\
             \"write\":{{\"io_bytes\":0,\"total_ios\":0,\"runtime\":0}}}}]}}"
        )
    }

    #[test]
    fn the_figures_are_found() {
        let read = "{\"io_bytes\":1146880,\"bw_bytes\":0,\"total_ios\":10,\"runtime\":1999}";
        let measured = parse(&report(0, read)).unwrap();
        assert_eq!(
            (measured.operations, measured.bytes, measured.seconds, measured.cpu_s),
            (10, 1_146_880, 1.999, 0.2)
        );
    }

    #[test]
    fn what_is_no_measurement_is_an_error() {
        let nothing = "{\"io_bytes\":0,\"total_ios\":0,\"runtime\":0}";
        for (text, word) in [
            (report(0, nothing), "nothing"),
            (report(libc::EIO, nothing), "failed"),
            ("fio: no such engine".to_owned(), "no JSON"),
            ("{\"jobs\":[]}".to_owned(), "no job"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_job_reads_whole_blocks_of_its_region_and_nothing_of_it_can_write() {
        let region = Region { path: Path::new("/a:b"), start: 1 << 20, bytes: 1 << 30 };
        let pattern = Pattern::RandomRead { seed: 7 };
        let job = Job { region, pattern, block_bytes: 114_688, depth: 8, total_bytes: 1_000_000 };
        let arguments = job.arguments();
        for expected in ["--filename=/a\\:b", "--io_size=917504", "--readonly", "--randseed=7"] {
            assert!(arguments.iter().any(|argument| argument == expected), "{expected}: {arguments:?}");
        }
    }
}
