//! The shelf: the directory of a volume that its backing files lie in.
//!
//! `files/ab/ab01..` is the file of the object with that fingerprint and `files/ab/ab01...map` its map.
//! 256 directories, so that none gets more names than ext4 looks up quickly and each costs a page.
//!
//! Removing a file takes as long as its blocks take to be freed, so a thread of its own does it (`io/remover.rs`), and
//! a new file of the same object waits for that.
//!
//! A file is made with its whole length and all of its blocks, so that filling it never runs out of
//! space, and with exactly the object's length: a read that the kernel serves by itself ends where the
//! file ends. A map without a file and a file without a whole map are of no use and are removed when
//! the store is opened.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::disk::{Access, Disk, blocks_bytes, file_blocks_bytes};
use super::map::{Identity, Map, slot_bytes};
use crate::io::{DeviceFile, DeviceOffset, Removed};
use crate::object::Fingerprint;
use crate::store::layout::PAGE_BYTES;
use crate::store::record::StoreUuid;

/// The name of the shelf in the volume's directory.
pub const DIRECTORY_NAME: &str = "files";

/// What follows the file's name in the name of its map.
const MAP_SUFFIX: &str = ".map";

/// ext4 puts 340 extents into a page; chunks that are filled out of order split what was allocated in one
/// piece into one extent each. One page more covers the way down to those pages.
const CHUNKS_PER_EXTENT_PAGE: u32 = 256;

/// See the head of the module.
#[derive(Debug)]
pub struct Shelf {
    root: PathBuf,
    store: StoreUuid,
    volume: u8,
    /// Blocks of the directories, by their first byte.
    directories: Mutex<BTreeMap<u8, u64>>,
    disk: Disk,
    leaving: Arc<Leaving>,
}

/// The objects whose files are being removed.
#[derive(Debug, Default)]
struct Leaving {
    objects: Mutex<HashSet<Fingerprint>>,
    changed: Condvar,
}

/// A file that was found, and all that is known of it.
#[derive(Debug)]
pub struct Found {
    /// What its map says.
    pub map: Map,
    /// Where it is.
    pub path: PathBuf,
    /// What it has to be charged with.
    pub bytes: u64,
}

/// What lies on a shelf.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Files that can be used.
    pub files: Vec<Found>,
    /// Those that were of no use and are removed.
    pub dropped: u64,
    /// Blocks of the directories.
    pub directories: BTreeMap<u8, u64>,
    /// The directory that they are in, if it exists.
    root: Option<PathBuf>,
}

/// A file that is open to be filled.
pub struct Handles {
    /// Past the page cache, for whole pages.
    pub direct: DeviceFile,
    /// Through it, for what is left at the end of the object.
    pub plain: DeviceFile,
    /// Its map.
    pub map: DeviceFile,
}

impl Inspection {
    /// Everything that it takes on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|found| found.bytes).sum::<u64>() + self.directory_bytes()
    }

    /// What the directories take.
    pub fn directory_bytes(&self) -> u64 {
        total(&self.directories)
    }

    /// Removes the directories, which are empty: a small limit may not even leave room for them.
    fn clear(&mut self) {
        let Some(root) = &self.root else { return };
        match fs::remove_dir_all(root) {
            Ok(()) => self.directories.clear(),
            Err(error) => tracing::warn!(path = %root.display(), %error, "cannot be removed"),
        }
    }

    /// Removes files until the rest has its share of a limit of `allowed` segments, on which there are
    /// `live_bytes` in segments too; how many segments that rest takes. Two stay with the pool.
    pub fn fit(&mut self, allowed: u32, segment_bytes: u32, live_bytes: u64) -> u32 {
        let segment = u64::from(segment_bytes);
        let limit = u64::from(allowed) * segment;
        let mut most = u64::from(allowed.saturating_sub(2)) * segment;
        let wanted = self.bytes() + live_bytes;
        if wanted > limit {
            let share = u128::from(limit) * u128::from(self.bytes()) / u128::from(wanted);
            // In whole segments: the one that is begun would be one too many.
            most = most.min(share as u64 / segment * segment);
        }
        // Partial ones go first.
        self.files.sort_by_key(|found| std::cmp::Reverse(found.map.is_complete()));
        let mut bytes = self.bytes();
        while bytes > most
            && let Some(found) = self.files.pop()
        {
            bytes -= found.bytes;
            remove_stray(&found.path, self);
        }
        if self.files.is_empty() {
            self.clear();
        }
        u32::try_from(self.bytes().div_ceil(segment)).expect("at most the segments that are allowed")
    }
}

/// What directories take; the one that they are in is a page, with 256 names at most.
fn total(directories: &BTreeMap<u8, u64>) -> u64 {
    let root = if directories.is_empty() { 0 } else { u64::from(PAGE_BYTES) };
    root + directories.values().sum::<u64>()
}

/// Looks through the shelf in `place` and removes what is not whole or not of volume `of`. With `None`
/// everything is removed.
pub fn inspect(place: &Path, of: Option<(StoreUuid, u8)>) -> io::Result<Inspection> {
    let root = place.join(DIRECTORY_NAME);
    let mut inspection = Inspection::default();
    if of.is_none() {
        return match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(inspection),
        };
    }
    let directories = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(inspection),
        directories => directories?,
    };
    inspection.root = Some(root);
    for directory in directories {
        let path = directory?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(first) = u8::from_str_radix(name, 16).ok().filter(|_| name.len() == 2) else {
            remove_stray(&path, &mut inspection);
            continue;
        };
        inspect_directory(&path, of, &mut inspection)?;
        // Succeeds for those that nothing is left in.
        if fs::remove_dir(&path).is_err() {
            inspection.directories.insert(first, blocks_bytes(&path)?);
        }
    }
    Ok(inspection)
}

fn inspect_directory(
    directory: &Path,
    of: Option<(StoreUuid, u8)>,
    inspection: &mut Inspection,
) -> io::Result<()> {
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.path());
    }
    for path in &names {
        let is_map = path.to_string_lossy().ends_with(MAP_SUFFIX);
        if is_map && names.contains(&file_of(path)) {
            // Comes with its file.
            continue;
        }
        match inspect_file(path, of) {
            Some(found) if !is_map => inspection.files.push(found),
            _ => remove_stray(path, inspection),
        }
    }
    Ok(())
}

/// What is known of the file at `path`, if it can be used.
fn inspect_file(path: &Path, of: Option<(StoreUuid, u8)>) -> Option<Found> {
    let metadata = fs::symlink_metadata(path).ok().filter(Metadata::is_file)?;
    let map = usable(&fs::read(map_of(path)).ok()?, of, (path, metadata.len()))?;
    let blocks = metadata.blocks() * 512 + blocks_bytes(&map_of(path)).ok()?;
    let bytes = blocks.max(file_bytes(map.identity.object_bytes));
    Some(Found { map, path: path.to_owned(), bytes })
}

/// What the map in `map_file` says, if it is of volume `of` and belongs to the file with that path and length.
pub fn usable(map_file: &[u8], of: Option<(StoreUuid, u8)>, (path, len): (&Path, u64)) -> Option<Map> {
    let map = Map::newest(map_file)?;
    let Identity { store, volume, object, object_bytes } = map.identity;
    let named = path.file_name().and_then(|name| name.to_str()) == Some(&object.to_string());
    (of == Some((store, volume)) && named && len == object_bytes).then_some(map)
}

fn remove_stray(path: &Path, inspection: &mut Inspection) {
    inspection.dropped += 1;
    tracing::info!(path = %path.display(), "of no use to this store, or beyond its limit: removed");
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        _ => remove(path),
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "cannot be removed");
    }
}

/// The most that a file for an object of `object_bytes` takes, its map and the pages of extents included.
pub fn file_bytes(object_bytes: u64) -> u64 {
    let page = u64::from(PAGE_BYTES);
    let chunks = object_bytes.div_ceil(crate::object::CHUNK_BYTES);
    let extents = page * (1 + chunks / u64::from(CHUNKS_PER_EXTENT_PAGE));
    object_bytes.next_multiple_of(page) + 2 * slot_bytes(object_bytes) + extents
}

/// Removes what may be a backing file, and its map first.
fn remove(path: &Path) -> io::Result<()> {
    for path in [&map_of(path), path] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Shelf {
    /// The shelf in `place` with what an inspection found.
    pub fn new(
        place: &Path,
        (store, volume): (StoreUuid, u8),
        directories: BTreeMap<u8, u64>,
        disk: Disk,
    ) -> Self {
        Self {
            root: place.join(DIRECTORY_NAME),
            store,
            volume,
            directories: Mutex::new(directories),
            disk,
            leaving: Arc::default(),
        }
    }

    /// Who the file of `object` belongs to.
    pub fn identity(&self, object: Fingerprint, object_bytes: u64) -> Identity {
        Identity { store: self.store, volume: self.volume, object, object_bytes }
    }

    /// Where the file of `object` is.
    pub fn path(&self, object: &Fingerprint) -> PathBuf {
        self.directory(object).join(object.to_string())
    }

    /// The directory for `object`.
    pub fn directory(&self, object: &Fingerprint) -> PathBuf {
        self.root.join(format!("{:02x}", object.0[0]))
    }

    /// The directory of directories.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes the file of `object` and its map, in the background; then tells `done`.
    pub fn remove(&self, object: Fingerprint, done: Removed) {
        // Two files that had the name one after the other can both be gone.
        self.leaving.wait(&object).insert(object);
        let leaving = self.leaving.clone();
        let path = self.path(&object);
        let done = Box::new(move |removed| {
            // First: whoever waits for this waits for the space too.
            done(removed);
            leaving.objects.lock().remove(&object);
            leaving.changed.notify_all();
        });
        self.disk.remove(vec![map_of(&path), path], done);
    }

    /// Waits up to `wait` until one of the files that are being removed is gone: whether that happened.
    pub fn wait_for_removal(&self, wait: Duration) -> bool {
        let mut objects = self.leaving.objects.lock();
        !objects.is_empty() && !self.leaving.changed.wait_for(&mut objects, wait).timed_out()
    }

    /// Waits up to `wait` until what was asked to be removed is gone.
    pub fn close(&self, wait: Duration) {
        self.disk.close(wait);
    }

    /// Makes the file of `identity` with all of its blocks. What is there under its name is removed.
    pub fn create(&self, identity: &Identity) -> io::Result<Handles> {
        self.disk.make_directory(&self.root)?;
        self.disk.make_directory(&self.directory(&identity.object))?;
        let path = self.path(&identity.object);
        drop(self.leaving.wait(&identity.object));
        self.remove_now(&path)?;
        let made = self.make(&path, identity);
        if made.is_err() {
            // The error that matters is the one before.
            let _ = self.remove_now(&path);
        }
        made
    }

    fn make(&self, path: &Path, identity: &Identity) -> io::Result<Handles> {
        let map = self.disk.create(&map_of(path), 2 * slot_bytes(identity.object_bytes))?;
        let plain = self.disk.create(path, identity.object_bytes)?;
        let direct = self.disk.open(path, Access::WriteDirect)?;
        Ok(Handles { direct, plain, map })
    }

    /// Opens a file to be filled on.
    pub fn open(&self, path: &Path) -> io::Result<Handles> {
        let open = |path: &Path, access| self.disk.open(path, access);
        Ok(Handles {
            direct: open(path, Access::WriteDirect)?,
            plain: open(path, Access::Write)?,
            map: open(&map_of(path), Access::Write)?,
        })
    }

    /// Opens a file to be read past the page cache.
    pub fn open_to_read(&self, path: &Path) -> io::Result<DeviceFile> {
        self.disk.open(path, Access::Read)
    }

    /// Removes a backing file and its map, the map first: a file without a map is noticed as well.
    pub fn remove_now(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_now(&map_of(path))?;
        self.disk.remove_now(path)
    }

    /// Makes the names in a directory durable.
    pub fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }

    /// Looks how large the directory of `object` is now. Returns what all of them take.
    pub fn measure_directory(&self, object: &Fingerprint) -> io::Result<u64> {
        let now = self.disk.directory_bytes(&self.directory(object))?;
        let mut directories = self.directories.lock();
        directories.insert(object.0[0], now);
        Ok(total(&directories))
    }
}

impl Leaving {
    /// Waits until no file of `object` is being removed.
    fn wait(&self, object: &Fingerprint) -> MutexGuard<'_, HashSet<Fingerprint>> {
        let mut objects = self.objects.lock();
        while objects.contains(object) {
            self.changed.wait(&mut objects);
        }
        objects
    }
}

impl Handles {
    /// Blocks of the file and its map.
    pub fn blocks_bytes(&self) -> io::Result<u64> {
        Ok(file_blocks_bytes(&self.plain)? + file_blocks_bytes(&self.map)?)
    }

    /// Writes `slot` of the map and makes it durable.
    pub fn write_map(&self, map: &Map) -> io::Result<()> {
        let at = Map::slot_at(map.identity.object_bytes, map.sequence);
        self.map.write_all_at(&map.encode(), DeviceOffset(at))?;
        self.map.sync()
    }
}

pub fn map_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(MAP_SUFFIX);
    name.into()
}

/// The file that a map lies beside.
fn file_of(map: &Path) -> PathBuf {
    PathBuf::from(map.to_string_lossy().trim_end_matches(MAP_SUFFIX))
}
