//! Reading a recording: any bytes may come.

use std::io::{self, Read};

use super::{BLOCK_BYTES_MAX, MAGIC, PATH_BYTES_MAX, VERSION};
use crate::checksum;
use crate::simulate::TraceError;

/// A use as it was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recorded<'a> {
    /// Since the first record's clock began, us.
    pub at_us: u64,
    /// Who.
    pub reader: u32,
    /// The object.
    pub object: u32,
    /// Its size and path, if this is its first use.
    pub new: Option<(u64, &'a [u8])>,
}

/// A recording, record by record. Holds a block and a path.
pub struct Reader<R: Read> {
    input: R,
    block: Vec<u8>,
    /// Where in the block.
    at: usize,
    objects: u32,
    path: Vec<u8>,
    at_us: u64,
    cut_off: bool,
}

impl<R: Read> Reader<R> {
    /// # Errors
    /// If the input cannot be read or does not begin as a recording does.
    pub fn new(mut input: R) -> Result<Self, TraceError> {
        let mut head = [0; 12];
        if filled(&mut input, &mut head)? < head.len() || head[..8] != MAGIC {
            return Err(TraceError::Damaged("this is no recorded trace"));
        }
        if head[8..] != VERSION.to_le_bytes() {
            return Err(TraceError::Damaged("this trace was recorded by another version"));
        }
        Ok(Self { input, block: Vec::new(), at: 0, objects: 0, path: Vec::new(), at_us: 0, cut_off: false })
    }

    /// Whether the end that was found is within a block.
    pub fn was_cut_off(&self) -> bool {
        self.cut_off
    }

    /// The next use; none at the end.
    ///
    /// # Errors
    /// If the input cannot be read or is damaged.
    pub fn next_use(&mut self) -> Result<Option<Recorded<'_>>, TraceError> {
        if self.at == self.block.len() && !self.next_block()? {
            return Ok(None);
        }
        self.at_us = self.at_us.saturating_add(self.varint()?);
        let reader = self.number()?;
        let object = self.number()?;
        if object > self.objects || object == u32::MAX {
            return Err(TraceError::Damaged("an object is used that was not seen before"));
        }
        let is_new = object == self.objects;
        let size_bytes = if is_new { self.new_object()? } else { 0 };
        let new = is_new.then_some((size_bytes, &self.path[..]));
        Ok(Some(Recorded { at_us: self.at_us, reader, object, new }))
    }

    fn new_object(&mut self) -> Result<u64, TraceError> {
        let size_bytes = self.varint()?;
        let (shared, rest) = (self.varint()?, self.varint()?);
        if shared > self.path.len() as u64 || shared.saturating_add(rest) > PATH_BYTES_MAX as u64 {
            return Err(TraceError::Damaged("a path is longer than it can be"));
        }
        let end = self.at + rest as usize;
        let rest = self.block.get(self.at..end).ok_or(TraceError::Damaged("a record ends too early"))?;
        self.path.truncate(shared as usize);
        self.path.extend_from_slice(rest);
        self.at = end;
        self.objects += 1;
        Ok(size_bytes)
    }

    /// Reads the next block; whether there is a whole one.
    fn next_block(&mut self) -> Result<bool, TraceError> {
        let mut head = [0; 8];
        let found = filled(&mut self.input, &mut head)?;
        if found < head.len() {
            self.cut_off = found > 0;
            return Ok(false);
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let len = word(0) as usize;
        if !(1..=BLOCK_BYTES_MAX).contains(&len) {
            return Err(TraceError::Damaged("a block has an impossible length"));
        }
        self.block.resize(len, 0);
        self.at = 0;
        if filled(&mut self.input, &mut self.block)? < len {
            self.cut_off = true;
            self.block.clear();
            return Ok(false);
        }
        if checksum::crc32c(&self.block) != word(4) {
            return Err(TraceError::Damaged("a block's checksum is wrong"));
        }
        Ok(true)
    }

    fn number(&mut self) -> Result<u32, TraceError> {
        u32::try_from(self.varint()?).map_err(|_| TraceError::Damaged("a number does not fit 32 bits"))
    }

    fn varint(&mut self) -> Result<u64, TraceError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.block.get(self.at).ok_or(TraceError::Damaged("a record ends too early"))?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(TraceError::Damaged("a number does not fit 64 bits"))
    }
}

/// Fills `buffer` as far as the input goes; how far.
fn filled(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
