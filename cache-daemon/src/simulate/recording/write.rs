//! Writing a recording as it happens.

use std::collections::HashMap;
use std::io::{self, Write};

use super::{BLOCK_BYTES, BLOCK_BYTES_MAX, MAGIC, PATH_BYTES_MAX, VERSION};
use crate::checksum;

/// Writes uses. What was not flushed is lost when it is dropped.
pub struct Recorder<W: Write> {
    out: W,
    block: Vec<u8>,
    objects: HashMap<Box<[u8]>, u32>,
    /// The path of the last new object.
    path: Vec<u8>,
    at_us: u64,
}

impl<W: Write> Recorder<W> {
    /// A recording on `out`, which is empty.
    ///
    /// # Errors
    /// Those of `out`, as everywhere here.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        Ok(Self { out, block: Vec::new(), objects: HashMap::new(), path: Vec::new(), at_us: 0 })
    }

    /// Notes that `reader` used an object. Its size counts at its first use; a path that is too long is cut.
    ///
    /// # Errors
    /// Those of the output.
    pub fn record(&mut self, at_us: u64, reader: u32, path: &[u8], size_bytes: u64) -> io::Result<()> {
        let path = &path[..path.len().min(PATH_BYTES_MAX)];
        // Readers on several processors: a little out of order is in order.
        varint(&mut self.block, at_us.saturating_sub(self.at_us));
        self.at_us = self.at_us.max(at_us);
        varint(&mut self.block, reader.into());
        match self.objects.get(path) {
            Some(&object) => varint(&mut self.block, object.into()),
            None => self.new_object(path, size_bytes),
        }
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn new_object(&mut self, path: &[u8], size_bytes: u64) {
        let number = self.objects.len() as u32;
        let shared = self.path.iter().zip(path).take_while(|(old, new)| old == new).count();
        varint(&mut self.block, number.into());
        varint(&mut self.block, size_bytes);
        varint(&mut self.block, shared as u64);
        varint(&mut self.block, (path.len() - shared) as u64);
        self.block.extend_from_slice(&path[shared..]);
        self.path.truncate(shared);
        self.path.extend_from_slice(&path[shared..]);
        self.objects.insert(path.into(), number);
    }

    fn end_block(&mut self) -> io::Result<()> {
        assert!(self.block.len() <= BLOCK_BYTES_MAX, "a record is shorter than the difference");
        if !self.block.is_empty() {
            self.out.write_all(&(self.block.len() as u32).to_le_bytes())?;
            self.out.write_all(&checksum::crc32c(&self.block).to_le_bytes())?;
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }

    /// Writes out what was noted.
    ///
    /// # Errors
    /// Those of the output.
    pub fn flush(&mut self) -> io::Result<()> {
        self.end_block()?;
        self.out.flush()
    }

    /// Objects so far.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
