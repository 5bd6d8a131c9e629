//! A directory of files on a simulated device, with names that are as durable as what is written.
//!
//! A name is a sector: it is there or not, whatever a power cut does, and survives for certain when the directory was
//! synced after it was made or removed. A file has its length and its blocks when it is made, which are zeros.
//!
//! ```text
//! | names, 512 bytes each: length of the file, length of the name, name | files, FILE_BYTES_MAX each |
//! ```

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::device::SimDevice;
use super::media::SECTOR_BYTES;
use crate::io::{DeviceFile, DeviceOffset};

/// The longest file.
const FILE_BYTES_MAX: u64 = 4 << 20;

const NAME_BYTES_MAX: usize = 64;

/// A directory; clones are the same one.
#[derive(Clone, Debug)]
pub struct SimDirectory {
    device: SimDevice,
    files_max: u64,
    /// Who has which place: also those that were removed, so that a name has one place for ever.
    places: Arc<Mutex<Vec<String>>>,
}

impl SimDirectory {
    /// An empty device with room for `files_max` names.
    pub fn device(files_max: u64, seed: u64) -> SimDevice {
        SimDevice::new(Self::names_bytes(files_max) + files_max * FILE_BYTES_MAX, seed)
    }

    /// The directory on `device`, which was made for `files_max` names.
    ///
    /// # Errors
    /// If the device does not give the names.
    pub fn open(device: SimDevice, files_max: u64) -> io::Result<Self> {
        let directory = Self { device, files_max, places: Arc::default() };
        let names =
            (0..files_max).map(|place| Ok(directory.read(place)?.map_or_else(String::new, |it| it.0)));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        let used = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        names.truncate(used);
        *directory.places.lock() = names;
        Ok(directory)
    }

    /// The device that it is on.
    pub fn on(&self) -> &SimDevice {
        &self.device
    }

    /// Makes a file of `len` zeros.
    ///
    /// # Errors
    /// As the device fails; there is no file then, or nobody knows.
    pub fn create(&self, name: &str, len: u64) -> io::Result<DeviceFile> {
        assert!(len <= FILE_BYTES_MAX && name.len() <= NAME_BYTES_MAX);
        let place = self.place_for(name);
        self.blocks(place, FILE_BYTES_MAX).discard();
        let mut sector = [0; SECTOR_BYTES];
        sector[..8].copy_from_slice(&len.to_le_bytes());
        sector[8] = name.len() as u8;
        sector[9..9 + name.len()].copy_from_slice(name.as_bytes());
        self.name(place).write_all_at(&sector, DeviceOffset(0))?;
        Ok(self.blocks(place, len).into())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name.
    pub fn open_file(&self, name: &str) -> io::Result<DeviceFile> {
        let place = self.places.lock().iter().position(|taken| taken == name);
        let place = place.ok_or(io::ErrorKind::NotFound)? as u64;
        match self.read(place)? {
            Some((there, len)) if there == name => Ok(self.blocks(place, len).into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Removes a file; whoever has it open reads on.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.open_file(name)?;
        self.name(self.place_for(name)).write_all_at(&[0; SECTOR_BYTES], DeviceOffset(0))
    }

    /// Makes names durable, and that others are gone.
    ///
    /// # Errors
    /// As the device fails.
    pub fn sync(&self) -> io::Result<()> {
        self.device.part(0..Self::names_bytes(self.files_max)).sync()
    }

    /// The names that are there.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let names = (0..self.places.lock().len() as u64).map(|place| self.read(place));
        let names: io::Result<Vec<_>> = names.collect();
        Ok(names?.into_iter().flatten().map(|(name, _)| name).collect())
    }

    fn place_for(&self, name: &str) -> u64 {
        let mut places = self.places.lock();
        let place = places.iter().position(|taken| taken == name).unwrap_or_else(|| {
            let free = places.iter().position(String::is_empty).unwrap_or(places.len());
            if free == places.len() {
                places.push(String::new());
            }
            name.clone_into(&mut places[free]);
            free
        });
        assert!((place as u64) < self.files_max, "more than {} names", self.files_max);
        place as u64
    }

    /// Name and length of the file at `place`, if there is one.
    fn read(&self, place: u64) -> io::Result<Option<(String, u64)>> {
        let mut sector = [0; SECTOR_BYTES];
        self.name(place).read_exact_at(&mut sector, DeviceOffset(0))?;
        let (len, rest) = sector.split_at(8);
        let name = String::from_utf8_lossy(&rest[1..1 + usize::from(rest[0])]).into_owned();
        let len = u64::from_le_bytes(len.try_into().expect("8 bytes were split off"));
        Ok((!name.is_empty()).then_some((name, len)))
    }

    fn name(&self, place: u64) -> DeviceFile {
        let at = place * SECTOR_BYTES as u64;
        self.device.part(at..at + SECTOR_BYTES as u64).into()
    }

    fn blocks(&self, place: u64, len: u64) -> SimDevice {
        let at = Self::names_bytes(self.files_max) + place * FILE_BYTES_MAX;
        self.device.part(at..at + len)
    }

    fn names_bytes(files_max: u64) -> u64 {
        (files_max * SECTOR_BYTES as u64).next_multiple_of(4096)
    }
}
