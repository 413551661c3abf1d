//! Buffers. One [`FramePool`] a shard, allocated once; a [`Frame`] is the one handle to one slot.
//!
//! A slot is `[headroom | datagram]`. A received datagram starts at [`HEADROOM`]; tunnel headers and added
//! options grow to the left, so the payload never moves.
//!
//! Cost: `HEADROOM + datagram_max` bytes a slot, rounded up to an odd number of cache lines: slots
//! exactly 2048 bytes apart put every header into two L1 sets, 30 percent slower.

#![expect(unsafe_code, reason = "hands out disjoint slices of one allocation")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Bytes before a received datagram: vxlan with IPv6 (8 + 14 + 40 + 8) and what a forward may add to the
/// options (Auth 32, PrivateAddress 20, Realm 8, SourceAddress 20), in whole cache lines.
pub const HEADROOM: usize = 192;

const LINE: usize = 64;

/// The slots of one shard. Frames come from [`FramePool::take`] and go back by [`FramePool::put`].
#[derive(Debug)]
pub struct FramePool {
    base: NonNull<u8>,
    slot_bytes: usize,
    count: u32,
    free: Vec<u32>,
}

/// One datagram in one slot of a pool. Not `Clone`: the one handle is what makes its bytes ours.
///
/// Dropping a frame leaks its slot (and with it, at the end, the pool's memory), never less safe.
#[derive(Debug)]
pub struct Frame {
    slot: NonNull<u8>,
    index: u32,
    slot_bytes: u32,
    start: u32,
    len: u32,
}

// SAFETY: a pool owns its allocation, a frame its slot; neither is tied to a thread.
unsafe impl Send for FramePool {}
// SAFETY: as above; `Frame` gives `&mut` access only through `&mut self`.
unsafe impl Send for Frame {}

impl FramePool {
    /// `count` slots for datagrams of up to `datagram_max` bytes.
    ///
    /// # Panics
    /// When the memory cannot be had, or the sizes are beyond 32 bits.
    pub fn new(count: usize, datagram_max: usize) -> Self {
        let lines = (HEADROOM + datagram_max).div_ceil(LINE) | 1;
        let slot_bytes = lines * LINE;
        assert!(count > 0 && u32::try_from(count).is_ok() && u32::try_from(slot_bytes).is_ok());
        let layout = Self::layout(count, slot_bytes);
        // SAFETY: the layout's size is not zero: count and slot_bytes are positive.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { base, slot_bytes, count: count as u32, free: (0..count as u32).rev().collect() }
    }

    fn layout(count: usize, slot_bytes: usize) -> Layout {
        let bytes = count.checked_mul(slot_bytes).expect("the pool's size fits the address space");
        Layout::from_size_align(bytes, 4096).expect("the pool's size fits the address space")
    }

    /// An empty frame that starts at [`HEADROOM`]; `None` when all are in use.
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        // SAFETY: index < count, so the offset lies within the allocation.
        let slot = unsafe { self.base.add(index as usize * self.slot_bytes) };
        Some(Frame { slot, index, slot_bytes: self.slot_bytes as u32, start: HEADROOM as u32, len: 0 })
    }

    /// Takes a frame back.
    ///
    /// # Panics
    /// When the frame is another pool's.
    pub fn put(&mut self, frame: Frame) {
        // SAFETY: index < count was true of the pool that made it; here only the address is compared.
        let ours = frame.index < self.count
            && frame.slot == unsafe { self.base.add(frame.index as usize * self.slot_bytes) };
        assert!(ours, "a frame of another pool");
        self.free.push(frame.index);
    }

    /// How many frames can be taken now.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// How many frames there are.
    pub fn capacity(&self) -> usize {
        self.count as usize
    }

    /// The longest datagram that a frame takes.
    pub fn datagram_max(&self) -> usize {
        self.slot_bytes - HEADROOM
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        // A frame that is still out, perhaps in the kernel, must keep its memory: leak instead.
        if self.free.len() == self.count as usize {
            // SAFETY: allocated in `new` with the same layout; no frame refers to it any more.
            unsafe { dealloc(self.base.as_ptr(), Self::layout(self.count as usize, self.slot_bytes)) }
        }
    }
}

impl Frame {
    /// The datagram.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start + len <= slot_bytes holds after every method; the slot is ours alone, and
        // its memory was zeroed at first, so it is initialised.
        unsafe { std::slice::from_raw_parts(self.slot.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The datagram, to change in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.slot.as_ptr().add(self.start as usize), self.len as usize)
        }
    }

    /// The datagram's length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether a datagram is empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Which slot of its pool this is.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Bytes free before the datagram.
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Grows the datagram to the left by `count` bytes. False, and nothing done, without that room.
    #[must_use]
    pub fn grow_front(&mut self, count: usize) -> bool {
        if count > self.start as usize {
            return false;
        }
        self.start -= count as u32;
        self.len += count as u32;
        true
    }

    /// Takes `count` bytes (at most all) off the front.
    pub fn shrink_front(&mut self, count: usize) {
        let count = (count as u32).min(self.len);
        self.start += count;
        self.len -= count;
    }

    /// Cuts the datagram to `len` bytes, if it is longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u32);
    }

    /// Makes the frame hold a copy of `bytes`, from [`HEADROOM`]. False, and nothing done, when they
    /// do not fit.
    #[must_use]
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        if HEADROOM + bytes.len() > self.slot_bytes as usize {
            return false;
        }
        self.start = HEADROOM as u32;
        self.len = bytes.len() as u32;
        self.bytes_mut().copy_from_slice(bytes);
        true
    }

    /// Copies another frame's datagram to the same place of this slot. False, and nothing done, when
    /// it does not fit (the frame is of a smaller pool).
    #[must_use]
    pub fn copy_from(&mut self, other: &Self) -> bool {
        if other.start + other.len > self.slot_bytes {
            return false;
        }
        (self.start, self.len) = (other.start, other.len);
        self.bytes_mut().copy_from_slice(other.bytes());
        true
    }

    /// The datagram's first byte, for the kernel to read.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_an_odd_number_of_lines_apart() {
        for max in [1, 1472, 2048, 9000, 65507] {
            let pool = FramePool::new(2, max);
            assert_eq!(pool.slot_bytes % LINE, 0);
            assert_eq!(pool.slot_bytes / LINE % 2, 1);
            assert!(pool.datagram_max() >= max);
        }
    }

    #[test]
    fn a_frame_grows_left_and_shrinks_within_its_slot() {
        let mut pool = FramePool::new(2, 100);
        let mut frame = pool.take().unwrap();
        assert!(frame.fill(b"payload"));
        assert!(frame.grow_front(HEADROOM));
        assert!(!frame.grow_front(1));
        assert_eq!(frame.len(), HEADROOM + 7);
        frame.shrink_front(HEADROOM);
        assert_eq!(frame.bytes(), b"payload");
        frame.truncate(3);
        assert_eq!(frame.bytes(), b"pay");
        assert!(!frame.fill(&[0; 1000]));
        let mut copy = pool.take().unwrap();
        assert!(copy.copy_from(&frame));
        assert_eq!(copy.bytes(), b"pay");
        assert!(pool.take().is_none());
        pool.put(frame);
        pool.put(copy);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    #[should_panic(expected = "another pool")]
    fn a_frame_of_another_pool_is_refused() {
        let (mut one, mut two) = (FramePool::new(1, 1), FramePool::new(1, 1));
        two.put(one.take().unwrap());
    }
}
