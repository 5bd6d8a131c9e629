//! Events: where a thread begins to read a file, and where it reaches its end; where it opens or maps one.

use std::ops::Range;

use ebpf_common::{Event as Record, EventFlags};
use fuse_frontend::source::Ino;

/// An access that began a reading of a file, reached its end, or both: a small file read at once is one event. Or an opening:
/// a file that was opened or mapped, which is nothing read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Monotonic clock, ns.
    pub at_ns: u64,
    /// The file.
    pub ino: Ino,
    /// Bytes of the access, clipped to the file. Whole pages in tier B and for faults; none of an opening.
    pub bytes: Range<u64>,
    /// The process, as the host numbers it.
    pub tgid: u32,
    /// The thread, as the host numbers it.
    pub tid: u32,
    /// The thread begins to read the file: at its first byte, in a file it was not in, or after a pause.
    pub begins: bool,
    /// The file's last byte is reached, for the first time in this reading.
    pub ends: bool,
    /// A page fault of a mapping, else a read.
    pub fault: bool,
    /// The file is opened; if that fails, too.
    pub opens: bool,
    /// The file is mapped; if that fails, too.
    pub maps: bool,
}

impl Event {
    /// Whether nothing was read: the file was opened or mapped.
    pub fn is_opening(&self) -> bool {
        self.opens || self.maps
    }

    /// Reads a record of the ring; `None` if it is not one of ours.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        const { assert!(size_of::<Record>() == 48) };
        let words: &[u8; 48] = record.try_into().ok()?;
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|n| words[at + n]));
        let short = |at: usize| u32::from_ne_bytes(std::array::from_fn(|n| words[at + n]));
        let flags = short(40);
        let bytes = long(16)..long(24);
        let marks = EventFlags::BEGIN | EventFlags::END;
        let is_reading = flags & !(marks | EventFlags::FAULT) == 0 && flags & marks != 0 && !bytes.is_empty();
        let is_opening = (flags == EventFlags::OPEN || flags == EventFlags::MMAP) && bytes == (0..0);
        (is_reading || is_opening).then(|| Self {
            at_ns: long(0),
            ino: Ino(long(8)),
            bytes,
            tgid: short(32),
            tid: short(36),
            begins: flags & EventFlags::BEGIN != 0,
            ends: flags & EventFlags::END != 0,
            fault: flags & EventFlags::FAULT != 0,
            opens: flags & EventFlags::OPEN != 0,
            maps: flags & EventFlags::MMAP != 0,
        })
    }
}

/// Now, on the clock of the events.
pub fn clock_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `now`. It cannot fail: the clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(event: &Event) -> Vec<u8> {
        let flag = |on, bit| if on { bit } else { 0 };
        let flags = flag(event.begins, EventFlags::BEGIN)
            | flag(event.ends, EventFlags::END)
            | flag(event.fault, EventFlags::FAULT)
            | flag(event.opens, EventFlags::OPEN)
            | flag(event.maps, EventFlags::MMAP);
        let longs = [event.at_ns, event.ino.0, event.bytes.start, event.bytes.end];
        let shorts = [event.tgid, event.tid, flags, 0];
        let longs = longs.into_iter().flat_map(u64::to_ne_bytes);
        longs.chain(shorts.into_iter().flat_map(u32::to_ne_bytes)).collect()
    }

    #[test]
    fn the_layout_is_that_of_the_probes() {
        use std::mem::offset_of;
        let longs = [
            offset_of!(Record, at_ns),
            offset_of!(Record, ino),
            offset_of!(Record, first),
            offset_of!(Record, end),
        ];
        assert_eq!(longs, [0, 8, 16, 24]);
        assert_eq!(
            [offset_of!(Record, tgid), offset_of!(Record, tid), offset_of!(Record, flags)],
            [32, 36, 40]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them_or_to_nothing(record in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(event) = Event::decode(&record) {
                prop_assert_eq!(&encode(&event)[..44], &record[..44]);
            }
        }

        #[test]
        fn what_happens_to_a_file_survives_the_ring_and_nothing_else_does(
            at_ns: u64,
            ino: u64,
            start in prop_oneof![Just(0), 0..u64::MAX],
            len in 0_u64..3,
            tgid: u32,
            tid: u32,
            flags in 0_u32..64,
        ) {
            let [begins, ends, fault, opens, maps] = [1, 2, 4, 8, 16].map(|bit| flags & bit != 0);
            let bytes = start..start.saturating_add(len);
            let is_known = match flags {
                // Bytes that are read, or a file that is opened or mapped with none.
                1..=3 | 5..=7 => !bytes.is_empty(),
                8 | 16 => bytes == (0..0),
                _ => false,
            };
            let event = Event { at_ns, ino: Ino(ino), bytes, tgid, tid, begins, ends, fault, opens, maps };
            let mut record = encode(&event);
            record[40] = flags as u8;
            prop_assert_eq!(Event::decode(&record), is_known.then_some(event));
        }
    }
}
