//! Moving: wanted extents are copied out of segments that are mostly dead, so that these can be used again.
//!
//! Only when an append found no space, and only out of a segment of which at most 3/4 is still wanted.
//! At that share three bytes are copied for each byte gained, the worst that this can cost; with
//! random forgetting it is much less, because the emptiest segment goes first. One segment in reserve
//! is where the copies go, so there is always one to begin with.
//!
//! A restart can take the reserve away: what was forgotten since the last checkpoint comes back with the headers, in
//! segments that were free before. Then the emptiest segment is given up, with what is still wanted of it: the cache
//! fetches that again, and the others can be emptied.
//!
//! A copy is a write like any other, and the index follows it when it is *durable*: the original, which
//! may have been acknowledged as durable, is not given up before. Meanwhile a pin keeps its segment.

use std::collections::BTreeSet;
use std::time::Instant;

use super::admission::Space;
use super::batch::Outcome;
use super::{Work, Writer};
use crate::index::ExtentAddr;
use crate::io::{Buffer, Operation};
use crate::object::ExtentKey;
use crate::store::layout::{PAGE_BYTES, extent_bytes};
use crate::store::record::{EXTENT_HEADER_BYTES, ExtentHeader};
use crate::store::segments::Pin;

/// Volumes with fewer segments keep none in reserve, and move nothing.
const SEGMENTS_MIN: u32 = 6;

/// What the writer has to do with moving.
#[derive(Default)]
pub(super) struct Moves {
    /// An append found no space since the last move.
    pub(super) wanted: bool,
    /// The segment that is being emptied.
    current: Option<Moving>,
    /// Copied and written, but not durable.
    pub(super) copied: Vec<Moved>,
    /// Incarnations that could not be emptied: damage in the middle hides the rest.
    stuck: BTreeSet<(u32, u32)>,
}

/// A segment that is being emptied.
struct Moving {
    segment: u32,
    generation: u32,
    /// Where the next extent is.
    offset: u32,
    read: Option<Read>,
    is_reading: bool,
    /// Copies that the index does not follow yet.
    outstanding: usize,
    _pin: Pin,
}

/// A part of the segment, from `start` on.
struct Read {
    buffer: Buffer,
    start: u32,
    len: u32,
}

/// An extent that was copied.
pub(super) struct Moved {
    pub(super) key: ExtentKey,
    pub(super) from: ExtentAddr,
    pub(super) to: ExtentAddr,
}

/// What is at a place in a segment.
enum Next {
    Wanted(ExtentHeader, ExtentAddr),
    Unwanted(u32),
    /// Its end has not been read.
    Cut,
    /// Nothing that is believed.
    End,
}

impl Writer {
    /// Segments that appends leave free.
    pub(super) fn reserve(&self) -> u32 {
        u32::from(self.volume.layout.segments >= SEGMENTS_MIN)
    }

    /// Whether a segment is being emptied: appends have to wait for its space.
    pub(super) fn is_moving(&self) -> bool {
        self.moves.current.is_some()
    }

    /// Whether the next step begins to empty a segment.
    pub(super) fn will_move(&self) -> bool {
        let may = self.syncs.is_empty() && !self.closing && self.volume.is_in();
        may && self.moves.wanted && !self.is_moving()
    }

    /// Whether a sync is all that is missing.
    pub(super) fn moves_want_sync(&self) -> bool {
        let end = self.volume.layout.segment_bytes;
        let is_read = self.moves.current.as_ref().is_some_and(|moving| moving.offset >= end);
        let is_written = self.batch.is_none() && !self.unsynced.is_writing();
        is_read && is_written && !self.moves.copied.is_empty()
    }

    /// Goes on with moving, or begins if space is wanted.
    pub(super) fn move_some(&mut self, now: Instant) {
        // A sync that was asked for comes first: it waits until nothing is written any more.
        if self.closing || !self.syncs.is_empty() || !self.volume.is_in() {
            return;
        }
        if self.moves.current.is_none() && std::mem::take(&mut self.moves.wanted) {
            self.moves.current = self.victim();
        }
        let Some(mut moving) = self.moves.current.take() else { return };
        if let Some(read) = moving.read.take()
            && !self.copy(&mut moving, &read, now)
        {
            moving.read = Some(read);
        }
        let end = self.volume.layout.segment_bytes;
        if moving.offset >= end && moving.read.is_none() && moving.outstanding == 0 {
            return self.moved(&moving);
        }
        if moving.offset < end && moving.read.is_none() && !moving.is_reading {
            self.read_on(&mut moving, now);
        }
        self.moves.current = Some(moving);
    }

    /// The emptiest segment, if emptying it is worth while.
    fn victim(&self) -> Option<Moving> {
        let segments = &self.volume.segments;
        if self.reserve() == 0 {
            return None;
        }
        let movable = self
            .allocator
            .sealed_segments()
            .filter(|segment| !self.moves.stuck.contains(&(*segment, segments.generation(*segment))));
        let segment = movable.min_by_key(|segment| segments.live_bytes(*segment))?;
        if segments.live_bytes(segment) > u64::from(self.volume.layout.room_bytes()) / 4 * 3 {
            return None;
        }
        let generation = segments.generation(segment);
        let pin = segments.pin(segment, generation)?;
        let moving = Moving {
            segment,
            generation,
            offset: PAGE_BYTES,
            read: None,
            is_reading: false,
            outstanding: 0,
            _pin: pin,
        };
        Some(moving)
    }

    fn read_on(&mut self, moving: &mut Moving, now: Instant) {
        let Some(buffer) = self.free_buffer(now) else { return };
        let left = self.volume.layout.segment_bytes - moving.offset;
        let len = left.min(buffer.len() as u32);
        let at = self.volume.layout.at(moving.segment, moving.offset);
        moving.is_reading = true;
        let token = self.in_flight.begin(Work::Move { start: moving.offset, len }, now);
        self.disk.engine.submit(token, self.disk.slot, Operation::Read { buffer, len: len as usize, at });
    }

    /// A part of the segment was read, or could not be.
    pub(super) fn move_read(&mut self, start: u32, len: u32, read: Option<Buffer>) {
        let Some(moving) = &mut self.moves.current else { return };
        moving.is_reading = false;
        match read {
            Some(buffer) => moving.read = Some(Read { buffer, start, len }),
            // What cannot be read stays where it is.
            None => moving.offset = self.volume.layout.segment_bytes,
        }
    }

    /// Packs what is wanted of `read`: whether that was all of it.
    fn copy(&mut self, moving: &mut Moving, read: &Read, now: Instant) -> bool {
        loop {
            let (header, from) = match self.next_extent(moving, read) {
                Next::Wanted(header, from) => (header, from),
                Next::Unwanted(bytes) => {
                    moving.offset += bytes;
                    continue;
                }
                Next::Cut => return true,
                Next::End => {
                    moving.offset = self.volume.layout.segment_bytes;
                    return true;
                }
            };
            let begin = (moving.offset - read.start) as usize + EXTENT_HEADER_BYTES;
            let data = &read.buffer[begin..begin + from.len as usize];
            let bytes = extent_bytes(from.len);
            if header.check_data(0, data).is_err() {
                self.volume.forget_damaged(&header.key(), from);
                moving.offset += bytes;
                continue;
            }
            match self.find_space(bytes, true, now) {
                Space::Ready => {}
                Space::Wait => return false,
                Space::Full if self.allocator.is_spent() => {
                    self.give_up_extent(&header.key(), from);
                    moving.offset += bytes;
                    continue;
                }
                Space::Full => {
                    moving.offset = self.volume.layout.segment_bytes;
                    return true;
                }
            }
            self.pack(header.key(), data, Outcome::Moved { from });
            self.volume.figures.relocated_bytes.add(u64::from(bytes));
            moving.outstanding += 1;
            moving.offset += bytes;
        }
    }

    /// Forgets what can be copied nowhere.
    fn give_up_extent(&self, key: &ExtentKey, addr: ExtentAddr) {
        if self.volume.residents.forget_if(key, addr) {
            self.volume.figures.given_up_bytes.add(u64::from(extent_bytes(addr.len)));
        }
    }

    fn next_extent(&self, moving: &Moving, read: &Read) -> Next {
        let end = read.start + read.len;
        if moving.offset >= end {
            return Next::Cut;
        }
        let page = &read.buffer[(moving.offset - read.start) as usize..read.len as usize];
        let position = self.volume.position(moving.segment, moving.offset);
        let Ok(header) = ExtentHeader::read(page, position, moving.generation) else { return Next::End };
        let bytes = extent_bytes(header.data_bytes());
        if moving.offset + bytes > end {
            // The next read begins with it; if this one did, it reaches beyond the segment.
            return if moving.offset == read.start { Next::End } else { Next::Cut };
        }
        let addr = self.volume.addr(moving.segment, moving.generation, moving.offset, header.data_bytes());
        match self.volume.residents.get(&header.key()) {
            Some(known) if known == addr => Next::Wanted(header, addr),
            _ => Next::Unwanted(bytes),
        }
    }

    /// The copies are durable, or lost with their segment: the index follows those that are there.
    pub(super) fn settle_moves(&mut self, copied: Vec<Moved>, durable: bool) {
        for moved in copied {
            let there = self.volume.segments.generation(moved.to.segment.number()) == moved.to.generation.0;
            if durable && there {
                self.volume.residents.relocate(&moved.key, moved.from, moved.to);
            }
            self.move_ended();
        }
    }

    /// One copy less is under way.
    pub(super) fn move_ended(&mut self) {
        if let Some(moving) = &mut self.moves.current {
            moving.outstanding = moving.outstanding.saturating_sub(1);
        }
    }

    /// The segment is done with. Whether more space is wanted will be seen.
    fn moved(&mut self, moving: &Moving) {
        self.moves.wanted = false;
        if !self.volume.segments.is_dead(moving.segment) {
            self.moves.stuck.insert((moving.segment, moving.generation));
        }
    }
}
