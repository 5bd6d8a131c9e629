//! The ways in which programs read a file: read(2), mmap(2), sendfile(2), preadv(2).
//!
//! Every way opens, asks for the size with fstat(2) and gets all bytes; what was mapped or sent is
//! handed out for checking after the clock has stopped.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use nix::sys::uio::preadv;

use super::direct::DirectReader;

/// Bytes of each of the two buffers of a preadv(2).
const VECTOR_BYTES: usize = 192 << 10;

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Access {
    /// read(2) to the end of the file.
    Read,
    /// mmap(2), each page touched.
    Mmap,
    /// sendfile(2) into a memfd.
    Sendfile,
    /// preadv(2), two buffers at a time.
    Preadv,
    /// No file at all: a GET to the test server, whose URL is the root.
    Direct,
}

impl Access {
    /// The ways to read files.
    pub const OF_FILES: [Self; 4] = [Self::Read, Self::Mmap, Self::Sendfile, Self::Preadv];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Mmap => "mmap",
            Self::Sendfile => "sendfile",
            Self::Preadv => "preadv",
            Self::Direct => "direct",
        }
    }
}

/// Reads files in one way; its buffer is used again, as a worker's would be.
pub(super) struct FileReader {
    access: Access,
    /// The page cache forgets a file when it was read.
    forgets: bool,
    buffer: Vec<u8>,
    sink: Option<File>,
    direct: Option<DirectReader>,
}

/// What was read.
pub(super) enum Contents<'a> {
    /// In the reader's buffer.
    Buffer(&'a [u8]),
    /// In the page cache; an empty file has no mapping.
    Mapping(Option<Mmap>),
    /// In a memfd, with a buffer to look at it.
    Sent(&'a mut File, &'a mut Vec<u8>),
    /// From the server.
    Received(Bytes),
}

impl Contents<'_> {
    /// The bytes.
    pub fn bytes(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Buffer(bytes) => Ok(bytes),
            Self::Received(bytes) => Ok(bytes),
            Self::Mapping(map) => Ok(map.as_deref().unwrap_or_default()),
            Self::Sent(sink, buffer) => {
                sink.seek(SeekFrom::Start(0))?;
                buffer.clear();
                sink.read_to_end(buffer)?;
                Ok(buffer)
            }
        }
    }
}

impl FileReader {
    pub fn new(access: Access, forgets: bool) -> io::Result<Self> {
        let (mut sink, mut direct) = (None, None);
        match access {
            Access::Sendfile => sink = Some(File::from(memfd_create("reader", MFdFlags::MFD_CLOEXEC)?)),
            Access::Direct => direct = Some(DirectReader::new()?),
            Access::Read | Access::Mmap | Access::Preadv => {}
        }
        Ok(Self { access, forgets, buffer: Vec::new(), sink, direct })
    }

    pub fn read(&mut self, path: &Path) -> io::Result<Contents<'_>> {
        if let Some(direct) = &mut self.direct {
            return direct.read(path).map(Contents::Received);
        }
        let mut file = File::open(path)?;
        let (size_bytes, forgets) = (file.metadata()?.len() as usize, self.forgets);
        let contents = match self.access {
            Access::Read => {
                // One byte more than the size: the end of the file is seen, not believed.
                self.buffer.resize(size_bytes + 1, 0);
                let read = read_to_end(&mut file, &mut self.buffer)?;
                Contents::Buffer(&self.buffer[..read])
            }
            Access::Preadv => {
                self.buffer.resize(size_bytes + 1, 0);
                let read = preadv_to_end(&file, &mut self.buffer)?;
                Contents::Buffer(&self.buffer[..read])
            }
            Access::Mmap => Contents::Mapping(map(&file, size_bytes)?),
            Access::Sendfile | Access::Direct => {
                let sink = self.sink.as_mut().expect("made for this access");
                send_to_end(&file, sink, size_bytes)?;
                Contents::Sent(sink, &mut self.buffer)
            }
        };
        if forgets {
            // Up to the end; pages that are mapped stay.
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Ok(contents)
    }
}

/// Reads until read(2) answers 0 or `buffer` is full; a file that grew is cut off, and its size is wrong.
fn read_to_end(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn preadv_to_end(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        let (first, second) = rest.split_at_mut(rest.len().min(VECTOR_BYTES));
        let second_bytes = second.len().min(VECTOR_BYTES);
        let mut vectors = [IoSliceMut::new(first), IoSliceMut::new(&mut second[..second_bytes])];
        match preadv(file, &mut vectors, filled as i64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn map(file: &File, size_bytes: usize) -> io::Result<Option<Mmap>> {
    if size_bytes == 0 {
        return Ok(None);
    }
    // SAFETY: nobody truncates a file of a read-only mount or of a finished local copy; if the mount
    // answers a page fault with an error, SIGBUS ends this worker and the coordinator reports it.
    let map = unsafe { Mmap::map(file)? };
    let touched = map.iter().step_by(4096).fold(0_u8, |sum, byte| sum ^ byte);
    std::hint::black_box(touched);
    Ok(Some(map))
}

fn send_to_end(file: &File, sink: &mut File, size_bytes: usize) -> io::Result<()> {
    sink.set_len(0)?;
    sink.seek(SeekFrom::Start(0))?;
    let mut offset = 0;
    while sendfile(sink.as_fd(), file.as_fd(), Some(&mut offset), size_bytes + 1)? > 0 {}
    Ok(())
}
