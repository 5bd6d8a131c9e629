//! One worker: its share of the permutation, file by file.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::access::FileReader;
use super::{Reading, Sampler};
use crate::bed::data_set::Manifest;

/// What one worker did in one epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Share {
    /// Bytes read.
    pub bytes: u64,
    /// Bytes that were not what they must be.
    pub wrong_bytes: u64,
    /// Files that could not be read.
    pub errors: u64,
    /// The first of the errors.
    pub first_error: Option<String>,
    /// Time for each file that was read: open, fstat, read to the end, close.
    pub latencies_us: Vec<u64>,
}

/// Serves epochs, one for each number on standard input, until it closes.
pub fn work(reading: &Reading, worker: usize) -> anyhow::Result<()> {
    let manifest = Manifest::load(&reading.manifest)?;
    let mut reports = std::io::stdout().lock();
    writeln!(reports, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let epoch = line?.trim().parse().context("an epoch is a number")?;
        let share = read_share(reading, &manifest, worker, epoch)?;
        serde_json::to_writer(&mut reports, &share)?;
        writeln!(reports)?;
        reports.flush()?;
    }
    Ok(())
}

/// Reads the part of worker `worker` of the epoch's order: it is dealt to the ranks in turn, and of a rank to its workers.
pub(super) fn read_share(
    reading: &Reading,
    manifest: &Manifest,
    worker: usize,
    epoch: u64,
) -> anyhow::Result<Share> {
    let mut share = Share::default();
    let mut reader = FileReader::new(reading.access, reading.forgets)?;
    let started = Instant::now();
    let order = order(reading, manifest, epoch).into_iter().enumerate();
    let (first, every) = (reading.rank + reading.ranks * worker, reading.ranks * reading.workers);
    for (place, number) in order.skip(first).step_by(every) {
        if let Some(files_per_s) = reading.files_per_s {
            let due = started + Duration::from_secs_f64(place as f64 / files_per_s);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let sample = &manifest.files[number];
        let path = reading.root.join(&sample.path);
        let began = Instant::now();
        match reader.read(&path) {
            Ok(mut file) => {
                share.latencies_us.push(began.elapsed().as_micros() as u64);
                let bytes = file.bytes()?;
                share.bytes += bytes.len() as u64;
                if reading.check {
                    share.wrong_bytes += sample.wrong_bytes(bytes);
                }
            }
            Err(error) => {
                share.errors += 1;
                share.first_error.get_or_insert_with(|| format!("{}: {error}", path.display()));
            }
        }
    }
    Ok(share)
}

/// The order of an epoch as the sampler has it: the same for all workers.
fn order(reading: &Reading, manifest: &Manifest, epoch: u64) -> Vec<usize> {
    let files = manifest.files.len();
    match reading.sampler {
        Sampler::Shuffle => permutation(files, reading.seed, epoch).collect(),
        Sampler::Replacement => {
            let mut dice = dice(reading.seed, epoch);
            (0..files).map(|_| dice.random_range(0..files)).collect()
        }
        Sampler::Listing => {
            let mut order: Vec<usize> = (0..files).collect();
            order.sort_by(|one, other| manifest.files[*one].path.cmp(&manifest.files[*other].path));
            order
        }
    }
}

/// A fresh permutation for each epoch.
pub fn permutation(files: usize, seed: u64, epoch: u64) -> impl Iterator<Item = usize> {
    let mut order: Vec<usize> = (0..files).collect();
    order.shuffle(&mut dice(seed, epoch));
    order.into_iter()
}

fn dice(seed: u64, epoch: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::data_set::Shape;

    #[test]
    fn a_listing_is_sorted_and_draws_with_replacement_leave_a_third_out() {
        let manifest = Shape { validation: 100, ..Shape::of(1_000) }.plan();
        let of = |sampler| order(&Reading { sampler, ..Reading::new("", "") }, &manifest, 1);
        let paths: Vec<_> = of(Sampler::Listing).into_iter().map(|at| &manifest.files[at].path).collect();
        assert!(paths.is_sorted() && paths[0].starts_with("train/") && paths[999].starts_with("val/"));
        assert_eq!(paths.iter().filter(|path| path.starts_with("val/")).count(), 100);
        let mut drawn = of(Sampler::Replacement);
        assert_eq!(drawn.len(), 1_000);
        drawn.sort_unstable();
        drawn.dedup();
        // 1 - 1/e of them.
        assert!((580..690).contains(&drawn.len()), "{}", drawn.len());
    }

    #[test]
    fn epochs_have_different_orders_of_the_same_files() {
        let first: Vec<_> = permutation(100, 1, 1).collect();
        let mut second: Vec<_> = permutation(100, 1, 2).collect();
        assert_ne!(first, second);
        assert_eq!(first, permutation(100, 1, 1).collect::<Vec<_>>());
        second.sort_unstable();
        assert_eq!(second, (0..100).collect::<Vec<_>>());
    }
}
