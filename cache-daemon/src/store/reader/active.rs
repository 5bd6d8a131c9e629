//! A read that is under way: the parts that the device has to give, and the check of what it gave.

use std::io;

use super::Request;
use crate::index::ExtentAddr;
use crate::io::{Buffer, DeviceOffset, Operation};
use crate::store::layout::{Layout, PAGE_BYTES, Span};
use crate::store::record::{ExtentHeader, RecordError};
use crate::store::volume::Volume;

/// A part is read again so many times if the device gives less than was asked for, or is interrupted.
const RETRIES: u8 = 3;

/// One device read of one or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The page with the extent's header, if the body does not begin with it.
    Header,
    /// The blocks that were asked for.
    Body,
}

/// What follows from a completed part.
pub(super) enum Verdict {
    /// The other part is still out.
    Waits,
    /// Read it again, into this buffer.
    Again(Buffer),
    /// The device failed.
    Failed(io::Error),
    /// Everything is there.
    Complete,
}

pub(super) struct Active {
    request: Request,
    span: Span,
    header: Option<Buffer>,
    body: Option<Buffer>,
    retries: u8,
}

impl Active {
    pub(super) fn new(request: Request) -> Self {
        let span = Span::of(request.range.clone(), request.addr.len);
        Self { request, span, header: None, body: None, retries: RETRIES }
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    pub(super) fn into_request(self) -> Request {
        self.request
    }

    /// The parts that have to be read.
    pub(super) fn parts(&self) -> &'static [Part] {
        if self.span.lacks_header() { &[Part::Header, Part::Body] } else { &[Part::Body] }
    }

    /// Bytes that all parts together take from the device.
    pub(super) fn device_bytes(&self) -> u64 {
        self.parts().iter().map(|part| u64::from(self.place(*part).1)).sum()
    }

    /// The device read for `part`.
    pub(super) fn operation(&self, part: Part, buffer: Buffer, layout: &Layout) -> Operation {
        let (offset, bytes) = self.place(part);
        let ExtentAddr { segment, offset: extent, .. } = self.request.addr;
        let DeviceOffset(start) = layout.at(segment.number(), extent);
        Operation::Read { buffer, len: bytes as usize, at: DeviceOffset(start + u64::from(offset)) }
    }

    /// Where `part` begins in the extent, and its length.
    fn place(&self, part: Part) -> (u32, u32) {
        match part {
            Part::Header => (0, PAGE_BYTES),
            Part::Body => (self.span.start, self.span.bytes),
        }
    }

    /// The device has completed `part`.
    pub(super) fn completed(&mut self, part: Part, result: io::Result<usize>, buffer: Buffer) -> Verdict {
        let wanted = self.place(part).1 as usize;
        match result {
            Ok(bytes) if bytes == wanted => {}
            Err(error) if !is_passing(&error) => return Verdict::Failed(error),
            Ok(_) | Err(_) if self.retries > 0 => {
                self.retries -= 1;
                return Verdict::Again(buffer);
            }
            Ok(_) => return Verdict::Failed(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Verdict::Failed(error),
        }
        match part {
            Part::Header => self.header = Some(buffer),
            Part::Body => self.body = Some(buffer),
        }
        let missing = self.body.is_none() || (self.span.lacks_header() && self.header.is_none());
        if missing { Verdict::Waits } else { Verdict::Complete }
    }

    /// Whether what was read is what was asked for.
    pub(super) fn checked(&mut self, volume: &Volume) -> Result<(), RecordError> {
        let Request { key, addr, .. } = &self.request;
        let body = self.body.as_ref().expect("checked when complete");
        let page = self.header.as_ref().unwrap_or(body);
        let position = volume.position(addr.segment.number(), addr.offset);
        let header = ExtentHeader::read(page, position, addr.generation.0)?;
        if header.key() != *key || header.data_bytes() != addr.len {
            return Err(RecordError::Identity);
        }
        header.check_data(self.span.first_block, self.span.blocks(body))
    }

    /// Gives the bytes, which have been checked, to whoever asked.
    pub(super) fn give(self) {
        let body = self.body.expect("given when complete");
        self.request.done.give(Ok(self.span.range(&body, &self.request.range)));
    }
}

/// Whether the same operation may succeed at once.
pub(in crate::store) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
