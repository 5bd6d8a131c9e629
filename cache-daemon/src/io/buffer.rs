//! Buffers: memory that direct I/O can use, handed out from a pool and given back on drop.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use memmap2::MmapMut;

/// A pool of equally large buffers in one mapping, so that a ring can register them all at once.
#[derive(Clone, Debug)]
pub struct BufferPool {
    free: Receiver<Slot>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    back: Sender<Slot>,
    map: MmapMut,
    buffer_bytes: usize,
}

#[derive(Debug)]
struct Slot(u16);

/// A buffer of a pool, aligned to a page; back in the pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    slot: u16,
    shared: Arc<Shared>,
}

impl BufferPool {
    /// A pool of `count` buffers of `buffer_bytes`, a multiple of [`super::ALIGN_BYTES`].
    pub fn new(count: u16, buffer_bytes: usize) -> std::io::Result<Self> {
        assert!(count > 0 && buffer_bytes.is_multiple_of(super::ALIGN_BYTES));
        let map = MmapMut::map_anon(usize::from(count) * buffer_bytes)?;
        let (back, free) = bounded(usize::from(count));
        for slot in 0..count {
            back.send(Slot(slot)).expect("the channel has room for every slot");
        }
        Ok(Self { free, shared: Arc::new(Shared { back, map, buffer_bytes }) })
    }

    /// A free buffer, if there is one. Its bytes are whatever was in it before.
    pub fn take(&self) -> Option<Buffer> {
        let Slot(slot) = self.free.try_recv().ok()?;
        Some(Buffer { slot, shared: self.shared.clone() })
    }

    /// Bytes in each buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// Whether `buffer` is one of this pool's.
    pub(super) fn owns(&self, buffer: &Buffer) -> bool {
        Arc::ptr_eq(&self.shared, &buffer.shared)
    }

    /// The whole mapping, for registration: address and length.
    pub fn region(&self) -> (*const u8, usize) {
        (self.shared.map.as_ptr(), self.shared.map.len())
    }
}

impl Buffer {
    /// Its index in the pool: the index of the registered buffer.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    fn start(&self) -> *mut u8 {
        let offset = usize::from(self.slot) * self.shared.buffer_bytes;
        // SAFETY: the pool's mapping holds a whole buffer for each slot that it hands out.
        unsafe { self.shared.map.as_ptr().add(offset).cast_mut() }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a slot is in one buffer at a time, so nobody writes to these bytes meanwhile; the
        // mapping lives as long as `shared`.
        unsafe { std::slice::from_raw_parts(self.start(), self.shared.buffer_bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only view of the slot.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.shared.buffer_bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Fails only when the pool is gone, and its channel with it.
        let _ = self.shared.back.try_send(Slot(self.slot));
    }
}
