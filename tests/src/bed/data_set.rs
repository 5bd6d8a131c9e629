//! Data sets like ImageNet's: class directories, many small files, bytes that do not compress.
//!
//! A file's bytes follow from one number, its seed, so anybody who has the manifest can say what each
//! byte must be: a checksum tells whether a file is right, and made again it tells how wrong it is.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal};
use serde::{Deserialize, Serialize};

/// What a data set is to be like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Files.
    pub files: usize,
    /// Directories that they are spread over.
    pub classes: usize,
    /// Mean of the lognormal sizes.
    pub mean_bytes: u64,
    /// Spread of their logarithm; 0: all files are `mean_bytes` long. ImageNet's is about 0.5.
    pub sigma: f64,
    /// Exact sizes of the first files: for the sizes where mistakes live.
    pub first_sizes: Vec<u64>,
    /// The last so many files are in `val/`, and the others in `train/`; 0: there are no such directories.
    pub validation: usize,
    /// What everything follows from.
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            files: 2_000,
            classes: 100,
            mean_bytes: 110 << 10,
            sigma: 0.5,
            first_sizes: Vec::new(),
            validation: 0,
            seed: 1,
        }
    }
}

impl Shape {
    /// `files` files of the default kind.
    pub fn of(files: usize) -> Self {
        Self { files, classes: (files / 20).max(1), ..Self::default() }
    }

    /// A small data set that has every awkward size: empty, one byte, around pages and chunks, several MiB.
    pub fn awkward(files: usize) -> Self {
        let first_sizes = vec![
            0,
            1,
            4095,
            4096,
            4097,
            (128 << 10) + 1,
            (1 << 20) - 1,
            1 << 20,
            (1 << 20) + 1,
            (5 << 20) + 13,
        ];
        Self { first_sizes, ..Self::of(files) }
    }

    /// The files, without making them.
    pub fn plan(&self) -> Manifest {
        let mut dice = StdRng::seed_from_u64(self.seed);
        let mean = (self.mean_bytes.max(1)) as f64;
        let sizes =
            LogNormal::new(mean.ln() - self.sigma * self.sigma / 2.0, self.sigma).expect("sigma is finite");
        let files = (0..self.files).map(|number| {
            let drawn = sizes.sample(&mut dice).round() as u64;
            let class = number % self.classes.max(1);
            let split = match self.validation {
                0 => "",
                validation if number + validation >= self.files => "val/",
                _ => "train/",
            };
            Sample {
                path: format!("{split}n{class:08}/n{class:08}_{number:07}.JPEG"),
                size_bytes: self.first_sizes.get(number).copied().unwrap_or(drawn),
                seed: dice.random(),
                crc32c: 0,
            }
        });
        Manifest { files: files.collect() }
    }
}

/// One file of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Relative to the data set's root.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
    /// What its bytes follow from.
    pub seed: u64,
    /// Their checksum.
    pub crc32c: u32,
}

impl Sample {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size_bytes as usize];
        fill(self.seed, &mut bytes);
        bytes
    }

    /// How many of `bytes` are not what they must be; a missing or a superfluous one is wrong too.
    pub fn wrong_bytes(&self, bytes: &[u8]) -> u64 {
        if bytes.len() as u64 == self.size_bytes && crc32c::crc32c(bytes) == self.crc32c {
            return 0;
        }
        let expected = self.bytes();
        let differing = bytes.iter().zip(&expected).filter(|(a, b)| a != b).count();
        differing as u64 + bytes.len().abs_diff(expected.len()) as u64
    }

    /// Another version of it: same path, other bytes.
    pub fn replaced(&self, size_bytes: u64) -> Self {
        let mut sample = Self { size_bytes, seed: mix(self.seed), ..self.clone() };
        sample.crc32c = crc32c::crc32c(&sample.bytes());
        sample
    }
}

/// The files of a data set, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The files.
    pub files: Vec<Sample>,
}

impl Manifest {
    /// Makes the files under `root`, on two threads, and their checksums.
    pub fn write_files(&mut self, root: &Path) -> anyhow::Result<()> {
        let half = self.files.len().div_ceil(2).max(1);
        std::thread::scope(|scope| {
            let writers: Vec<_> = self
                .files
                .chunks_mut(half)
                .map(|part| {
                    scope.spawn(move || part.iter_mut().try_for_each(|sample| write_file(root, sample)))
                })
                .collect();
            writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
        })
    }

    /// Reads a manifest: a line of JSON for each file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let lines = BufReader::new(file).lines();
        let files = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<anyhow::Result<_>>();
        Ok(Self { files: files.with_context(|| path.display().to_string())? })
    }

    /// Writes it so that [`Manifest::load`] reads it.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut out = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
        for sample in &self.files {
            serde_json::to_writer(&mut out, sample)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|sample| sample.size_bytes).sum()
    }
}

/// A data set on disk, laid out as the bucket of a [`super::s3::Origin`].
#[derive(Debug)]
pub struct DataSet {
    /// The directory of buckets: what an `Origin` serves.
    pub root: PathBuf,
    /// The data set's own directory: `root/BUCKET/PREFIX`.
    pub directory: PathBuf,
    /// Where the manifest lies.
    pub manifest_path: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

impl DataSet {
    /// The bucket of every data set.
    pub const BUCKET: &str = "data";
    /// The prefix of every data set.
    pub const PREFIX: &str = "train";

    /// Makes a data set of this `shape` in `home`, an empty directory.
    pub fn make(home: &Path, shape: &Shape) -> anyhow::Result<Self> {
        let root = home.join("buckets");
        let directory = root.join(Self::BUCKET).join(Self::PREFIX);
        fs::create_dir_all(&directory)?;
        let mut manifest = shape.plan();
        manifest.write_files(&directory)?;
        let manifest_path = home.join("manifest.jsonl");
        manifest.save(&manifest_path)?;
        Ok(Self { root, directory, manifest_path, manifest })
    }

    /// The URL under which it is mounted.
    pub fn url() -> String {
        format!("s3://{}/{}", Self::BUCKET, Self::PREFIX)
    }

    /// The key of a file in its bucket.
    pub fn key(sample: &Sample) -> String {
        format!("{}/{}", Self::PREFIX, sample.path)
    }
}

fn write_file(root: &Path, sample: &mut Sample) -> anyhow::Result<()> {
    let path = root.join(&sample.path);
    let bytes = sample.bytes();
    sample.crc32c = crc32c::crc32c(&bytes);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&path, bytes).with_context(|| path.display().to_string())
}

/// Fills `bytes` with what follows from `seed`: word i is a hash of seed and i.
fn fill(seed: u64, bytes: &mut [u8]) {
    for (number, word) in bytes.chunks_mut(8).enumerate() {
        let value = mix(seed.wrapping_add((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014): every bit of the result depends on every bit of `value`.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_is_what_its_shape_says() {
        let manifest = Shape { files: 20_000, ..Shape::default() }.plan();
        let mean = manifest.total_bytes() as f64 / 20_000.0;
        assert!((mean / f64::from(110 << 10) - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(manifest, Shape { files: 20_000, ..Shape::default() }.plan());
    }

    #[test]
    fn every_wrong_byte_is_counted() {
        let home = tempfile::tempdir().unwrap();
        let data_set = DataSet::make(home.path(), &Shape::awkward(12)).unwrap();
        assert_eq!(Manifest::load(&data_set.manifest_path).unwrap(), data_set.manifest);
        let sample = &data_set.manifest.files[4];
        let mut bytes = fs::read(data_set.directory.join(&sample.path)).unwrap();
        assert_eq!((bytes.len(), sample.wrong_bytes(&bytes)), (4097, 0));
        bytes[7] ^= 1;
        bytes[4000] ^= 0x80;
        assert_eq!(sample.wrong_bytes(&bytes), 2);
        bytes.truncate(4090);
        assert_eq!(sample.wrong_bytes(&bytes), 2 + 7);
        assert!(sample.wrong_bytes(&sample.replaced(4097).bytes()) > 4000);
    }
}
