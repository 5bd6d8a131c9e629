//! What policies hit of shuffled epochs, beside what theory and the simulator say.
//!
//! `theory_C_POLICY`: a cache of C percent of the data set, all files of one size, and `theory_C_POLICY_lognormal`. The byte
//! hit ratio is counted at the server, 1 - GET bytes / bytes read, and beside it in the daemon. c is what the store holds of
//! the data set, measured before and after each epoch. Theory: `epoch` c, LRU c + (1 - c) ln(1 - c); the simulator, by
//! the same files in the same orders with a cache of c, for 2-random and for sizes that differ.
//!
//! Policies that replace all the time leave holes in segments, and while the store empties a segment to fill them it refuses
//! what comes (`store/writer/admission.rs`): then less is replaced than the policy wants, and more is hit. So segments are small
//! here, and a store of some hundred MiB has as many as one of some GiB; `theory_50_lru_64m` has segments of the usual size.
//! `refused` says how much it was, and `hit_ratio_refusing` what the policy hits in the simulator if as much is refused there.
//!
//! `epoch` runs as it is shipped. The others run with `--prefetch off`: of an unseen set the planner would fetch what they have
//! just replaced, and a hit on that is not theirs. Nothing is pushed, and pages are dropped before each epoch.

use std::fs;

use cache_daemon::policy::eviction::PolicyKind;
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::s3::Weather;

use super::simulated::Epochs;
use super::{SMALL_SEGMENTS, stored_bytes};
use crate::machine::{self, Forget};
use crate::pairs::{Pairs, median};
use crate::{Effort, Results};

/// A tenth of 20 000 of them is the smallest store there is, 128 MiB.
const MEAN_BYTES: u64 = 72_000;

const POLICIES: [PolicyKind; 3] = [PolicyKind::Epoch, PolicyKind::Lru, PolicyKind::TwoRandom];

/// Epochs before those that count: one fills the store, and in one it settles.
const SETTLING: u32 = 2;

struct Case {
    name: String,
    policy: PolicyKind,
    percent: u64,
    is_equal: bool,
    /// Segments are of the usual size.
    is_usual: bool,
}

/// An epoch that counts.
struct Sample {
    hit_ratio: f64,
    /// By the daemon's figures.
    counted: f64,
    /// The share of the data set that was stored.
    kept: f64,
    /// Of what was fetched, the share that the store refused.
    refused: f64,
}

/// All cases that are wanted.
pub fn run(effort: Effort, is_wanted: &dyn Fn(&str) -> bool, results: &mut Results) -> anyhow::Result<()> {
    for (suffix, sigma) in [("", 0.0), ("_lognormal", 0.5)] {
        let is_equal = sigma == 0.0;
        let case = |percent, policy: PolicyKind| {
            let name = format!("theory_{percent}_{policy}{suffix}");
            Case { name, policy, percent, is_equal, is_usual: false }
        };
        let percents = effort.pick(&[10, 25, 50][..], &[50]);
        let cases = percents.iter().flat_map(|&percent| POLICIES.map(|policy| case(percent, policy)));
        let usual = Case {
            name: "theory_50_lru_64m".to_owned(),
            policy: PolicyKind::Lru,
            percent: 50,
            is_equal,
            is_usual: true,
        };
        // Half of a quick data set has less than the six segments from which on the store fills its holes.
        let cases = cases.chain((is_equal && !effort.quick).then_some(usual));
        let cases: Vec<Case> = cases.filter(|case| is_wanted(&case.name)).collect();
        if cases.is_empty() {
            continue;
        }
        let files = effort.pick(20_000, 6_000);
        let shape = Shape { files, classes: files / 20, mean_bytes: MEAN_BYTES, sigma, ..Shape::default() };
        let theory = Theory::new(Bed::new(&shape, &Weather::default())?, effort.pick(4, 3));
        cases.iter().try_for_each(|case| theory.case(case, results))?;
    }
    Ok(())
}

struct Theory {
    bed: Bed,
    /// What each file takes in the store.
    sizes_bytes: Vec<u64>,
    epochs: u32,
}

impl Theory {
    fn new(bed: Bed, epochs: u32) -> Self {
        let sizes_bytes =
            bed.data_set.manifest.files.iter().map(|file| stored_bytes(file.size_bytes)).collect();
        Self { bed, sizes_bytes, epochs }
    }

    fn data_set_bytes(&self) -> u64 {
        self.sizes_bytes.iter().sum()
    }

    fn case(&self, case: &Case, results: &mut Results) -> anyhow::Result<()> {
        let samples = self.measure(case)?;
        let each = |of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<_>>();
        let (kept, refused) = (each(|sample| sample.kept), each(|sample| sample.refused));
        let simulated = self.simulated(case, median(&kept), 0.0);
        let expected = |kept: f64| match (case.is_equal, case.policy) {
            (true, PolicyKind::Epoch) => (kept, "c"),
            (true, PolicyKind::Lru) => (kept + (1.0 - kept) * (1.0 - kept).ln(), "c + (1 - c) ln(1 - c)"),
            _ => (simulated, "simulator"),
        };
        let pairs: Vec<(f64, f64)> =
            samples.iter().map(|sample| (sample.hit_ratio, expected(sample.kept).0)).collect();
        let off = pairs.iter().map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max);
        let note = format!(
            "bytes at the server, epochs {} to {}; c = {:.3}; off by {off:.4} at most; the simulator says {simulated:.4}",
            SETTLING + 1,
            self.epochs,
            median(&kept),
        );
        let reference = expected(0.0).1;
        let ratios = Pairs::of(&pairs, |ratio| *ratio);
        results.pairs(&case.name, "hit_ratio", "", reference, &ratios, &note);
        if case.policy != PolicyKind::Epoch {
            let refusing = self.simulated(case, median(&kept), median(&refused).min(1.0));
            let pairs: Vec<(f64, f64)> = samples.iter().map(|sample| (sample.hit_ratio, refusing)).collect();
            let off = pairs.iter().map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max);
            let (ratios, note) = (Pairs::of(&pairs, |ratio| *ratio), format!("off by {off:.4} at most"));
            let reference = "simulator, as much refused";
            results.pairs(&case.name, "hit_ratio_refusing", "", reference, &ratios, &note);
        }
        results.absolute(
            &case.name,
            "hit_ratio_counted",
            "",
            &each(|sample| sample.counted),
            "by cache_fill_bytes",
        );
        let note = format!("of the data set, in a cache of {} %", case.percent);
        results.absolute(&case.name, "kept", "", &kept, &note);
        results.absolute(&case.name, "refused", "", &refused, "by the store, of what was fetched");
        Ok(())
    }

    fn simulated(&self, case: &Case, kept: f64, refused: f64) -> f64 {
        let epochs = Epochs { sizes_bytes: &self.sizes_bytes, epochs: self.epochs, from: SETTLING + 1 };
        let cache_bytes = (self.data_set_bytes() as f64 * kept) as u64;
        epochs.hit_ratio(case.policy, cache_bytes, refused)
    }

    fn measure(&self, case: &Case) -> anyhow::Result<Vec<Sample>> {
        let bed = &self.bed;
        let command = bed.mount_command();
        let _ = fs::remove_dir_all(&command.cache_dir);
        let size = (self.data_set_bytes() * case.percent / 100).to_string();
        let mut options = vec!["--policy", case.policy.name(), "--page-cache-size", "0"];
        if !case.is_usual {
            options.extend(SMALL_SEGMENTS);
        }
        if case.policy != PolicyKind::Epoch {
            options.extend(["--prefetch", "off"]);
        }
        let mount = command.cache_size(&size).options(&options).start()?;
        let mut readers = bed.readers(&mount)?;
        let mut samples = Vec::new();
        for epoch in 1..=self.epochs {
            machine::forget(Forget::Pages)?;
            bed.origin.reset()?;
            let (before, kept_before) = (mount.stats()?, self.kept(&mount)?);
            let report = readers.epoch(u64::from(epoch))?;
            report.must_be_right(bed.files())?;
            let (counters, after) = (bed.origin.counters()?, mount.stats()?);
            let missed = |bytes: u64| 1.0 - bytes as f64 / report.bytes as f64;
            let refused =
                ["store_rejected_full", "store_rejected_busy"].map(|name| after.grown(&before, name));
            samples.push(Sample {
                hit_ratio: missed(counters.get_bytes),
                counted: missed(after.grown(&before, "cache_fill_bytes")),
                refused: refused.iter().sum::<u64>() as f64 / counters.get.max(1) as f64,
                kept: (kept_before + self.kept(&mount)?) / 2.0,
            });
        }
        drop(readers);
        mount.unmount()?;
        Ok(samples.split_off(SETTLING as usize))
    }

    fn kept(&self, mount: &Mount) -> anyhow::Result<f64> {
        Ok(mount.stats()?.figure("store_live_bytes") as f64 / self.data_set_bytes() as f64)
    }
}
