//! Memory that the kernel receives into and sends from: never moved, and leaked rather than freed where the
//! kernel may still look at it.
//!
//! Cost: [`Landing`] 64 × 64 KiB of addresses a shard, of which only what datagrams have touched is there;
//! [`Staging`] 256 KiB.

#![expect(unsafe_code, reason = "shares memory with the kernel")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// How many receives can be under way or unread at once.
pub(super) const BUFFERS: usize = 64;

/// What the kernel can bring at once: the most that an IP packet holds, coalesced or not.
const DATAGRAM_BYTES_MAX: usize = 65_535;

const LINE: usize = 64;

/// Zeroed bytes at a page's start.
#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    bytes: usize,
    is_leaked: bool,
}

// SAFETY: the region owns its allocation and is tied to no thread.
unsafe impl Send for Region {}

impl Region {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 4096).expect("some megabytes fit the address space")
    }

    fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: the layout's size is not zero, both users ask for more.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { base, bytes, is_leaked: false }
    }

    /// The address of a byte of it.
    ///
    /// # Panics
    /// When it is beyond.
    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.bytes && len <= self.bytes - offset);
        // SAFETY: within the allocation, or just at its end.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if !self.is_leaked {
            // SAFETY: allocated in `new` with this layout; whoever shares it with the kernel leaks it where that
            // has not ended.
            unsafe { dealloc(self.base.as_ptr(), Self::layout(self.bytes)) }
        }
    }
}

/// Buffers to receive into, each large enough for whatever comes at once: with `UDP_GRO` that is many
/// datagrams of one sender, 64 KiB of them. What arrived is copied out into frames, a datagram each, so
/// that each has its own headroom: 8 to 10 ns for 150 bytes that the kernel has just written on this
/// core, where receiving the same datagrams one by one costs 700.
///
/// They lie an odd number of cache lines apart: at 64 KiB all their first lines would share one set.
#[derive(Debug)]
pub(super) struct Landing {
    region: Region,
    spacing: usize,
    buffer_bytes: usize,
}

impl Landing {
    /// Buffers with room for `lead` bytes before what arrives.
    pub(super) fn new(lead: usize) -> Self {
        let buffer_bytes = lead + DATAGRAM_BYTES_MAX;
        let spacing = (buffer_bytes.div_ceil(LINE) | 1) * LINE;
        Self { region: Region::new(BUFFERS * spacing), spacing, buffer_bytes }
    }

    /// Where a buffer begins, and its length.
    ///
    /// # Panics
    /// When there is no such buffer.
    pub(super) fn buffer(&self, index: u16) -> (*mut u8, usize) {
        let at = self.region.at(usize::from(index) * self.spacing, self.buffer_bytes);
        (at.as_ptr(), self.buffer_bytes)
    }

    /// What lies in a buffer.
    ///
    /// # Safety
    /// The kernel is done with the buffer, and gets it again only after the bytes were looked at.
    pub(super) unsafe fn bytes(&self, index: u16, start: usize, len: usize) -> &[u8] {
        assert!(start <= self.buffer_bytes && len <= self.buffer_bytes - start);
        let at = self.region.at(usize::from(index) * self.spacing + start, len);
        // SAFETY: within the region, which was zeroed at first; nobody writes now, the caller says.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), len) }
    }

    /// Never frees it.
    pub(super) fn leak(&mut self) {
        self.region.is_leaked = true;
    }
}

/// Where the datagrams of a group are laid out one after the other. One copy more than an iovec a datagram,
/// and cheaper for the sizes that a PUSH has: the kernel takes 20 to 30 ns for each iovec.
#[derive(Debug)]
pub(super) struct Staging {
    region: Region,
    used: usize,
}

impl Staging {
    const BYTES: usize = 1 << 18;

    pub(super) fn new() -> Self {
        Self { region: Region::new(Self::BYTES), used: 0 }
    }

    /// Lays parts of `bytes` bytes in all out one after the other and says where; `None` when they do not fit
    /// before the next [`Staging::clear`].
    ///
    /// # Panics
    /// When the parts are longer than that.
    pub(super) fn gather<'a>(
        &mut self,
        bytes: usize,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Option<*const u8> {
        if bytes > Self::BYTES - self.used {
            return None;
        }
        let start = self.region.at(self.used, bytes);
        let mut filled = 0;
        for part in parts {
            assert!(part.len() <= bytes - filled);
            // SAFETY: the part fits the `bytes` bytes at `start`, which are this group's alone and which the
            // kernel was not told of yet; a part is somebody else's memory, so the two do not overlap.
            unsafe { start.add(filled).copy_from_nonoverlapping(NonNull::from(part).cast(), part.len()) };
            filled += part.len();
        }
        // The next group starts on a line of its own.
        self.used = (self.used + bytes).next_multiple_of(LINE).min(Self::BYTES);
        Some(start.as_ptr())
    }

    /// Makes all of it free.
    ///
    /// # Safety
    /// The kernel reads none of it any more.
    pub(super) unsafe fn clear(&mut self) {
        self.used = 0;
    }

    /// Never frees it.
    pub(super) fn leak(&mut self) {
        self.region.is_leaked = true;
    }
}
