//! Memory that the kernel reads: headers and the ring of receive buffers. It never moves, and is leaked rather than
//! freed while the kernel may still look at it.
//!
//! Cost: 128 bytes for each send that can be under way, 1 KiB of buffer ring.

#![expect(unsafe_code, reason = "hands addresses to the kernel")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::UnsafeCell;
use std::io;
use std::mem;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::id::Endpoint;
use crate::net::header::{Coalesced, EMPTY, Outgoing};
use crate::net::socket::Name;

/// The one group of provided buffers.
pub(super) const GROUP: u16 = 0;

/// The headers that the kernel reads when it sends, and the one that says how a receive is laid out. They stay
/// where they are from the start to the end of the ring.
pub(super) struct Headers {
    sends: Box<[UnsafeCell<Outgoing>]>,
    receive: Box<UnsafeCell<libc::msghdr>>,
}

impl Headers {
    /// With so many headers to send by.
    pub(super) fn new(sends: usize) -> Self {
        let receive = libc::msghdr {
            msg_namelen: Name::BYTES as libc::socklen_t,
            msg_controllen: Coalesced::BYTES as _,
            ..EMPTY
        };
        Self {
            sends: (0..sends).map(|_| UnsafeCell::new(Outgoing::new())).collect(),
            receive: Box::new(UnsafeCell::new(receive)),
        }
    }

    /// How a receive is laid out: a name of the longer kind, control data with the length of coalesced datagrams.
    pub(super) fn receive(&self) -> *const libc::msghdr {
        self.receive.get()
    }

    /// Describes a message to the kernel.
    ///
    /// # Panics
    /// When there is no header of this index.
    ///
    /// # Safety
    /// The kernel must be done with the header of this index, and the bytes must stay until it is again.
    pub(super) unsafe fn describe(
        &self,
        index: usize,
        to: Endpoint,
        bytes: *const [u8],
        segment: Option<u16>,
    ) -> *const libc::msghdr {
        // SAFETY: the cell is not shared (it is not `Sync`) and never moves, and the caller says that the kernel
        // is done with it.
        unsafe { Outgoing::prepare(self.sends[index].get(), to, bytes, segment) }
    }

    /// Never frees them.
    pub(super) fn leak(&mut self) {
        mem::forget(mem::replace(self, Self::new(0)));
    }
}

/// The ring of buffers that the kernel receives into: entries written here, read by the kernel.
pub(super) struct BufferRing {
    base: NonNull<BufRingEntry>,
    entries: u16,
    tail: u16,
    registered: bool,
}

impl BufferRing {
    fn layout(entries: u16) -> Layout {
        // The kernel wants a page's start; 64 KiB is the largest page there is on Linux.
        Layout::array::<BufRingEntry>(usize::from(entries))
            .and_then(|layout| layout.align_to(1 << 16))
            .expect("at most 32768 entries of 16 bytes")
    }

    pub(super) fn new(entries: u16) -> io::Result<Self> {
        // SAFETY: the layout's size is not zero, there is at least one entry.
        let memory = unsafe { alloc_zeroed(Self::layout(entries)) };
        let base = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, entries, tail: 0, registered: false })
    }

    /// Lets the kernel read the ring.
    pub(super) fn register(&mut self, ring: &IoUring) -> io::Result<()> {
        let address = self.base.as_ptr() as u64;
        // SAFETY: the ring lies at a page's start, is as long as said, and is freed only when it is no
        // longer registered. No flag: buffers are consumed whole.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, self.entries, GROUP, 0)? };
        self.registered = true;
        Ok(())
    }

    /// Takes the ring from the kernel again, with what lies in it.
    pub(super) fn unregister(&mut self, ring: &IoUring) -> io::Result<()> {
        if self.registered {
            ring.submitter().unregister_buf_ring(GROUP)?;
            self.registered = false;
        }
        Ok(())
    }

    /// Writes the next entry; the kernel sees it after [`BufferRing::publish`].
    ///
    /// # Safety
    /// Until the buffer of this number comes back, the `bytes` bytes at `address` belong to the kernel;
    /// at most as many buffers are with it as the ring has entries.
    pub(super) unsafe fn add(&mut self, address: *mut u8, bytes: usize, id: u16) {
        let at = usize::from(self.tail & (self.entries - 1));
        // SAFETY: `at` is below `entries`, a power of two. The entry is one that the kernel has consumed
        // or never seen, as no more buffers than entries are with it. Zeroed memory is a valid entry. Nothing but addr, len and bid is written: in entry 0 the rest
        // is the tail.
        let entry = unsafe { self.base.add(at).as_mut() };
        entry.set_addr(address as u64);
        entry.set_len(bytes as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was added.
    pub(super) fn publish(&self) {
        // SAFETY: base is the first entry of the ring and aligned; the tail in it is a u16 that the
        // kernel reads atomically, and nothing here holds a reference to it now.
        unsafe {
            let tail = BufRingEntry::tail(self.base.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // While it is registered, the kernel may read it: leak it then.
        if !self.registered {
            // SAFETY: allocated in `new` with this layout, and the kernel does not know it any more.
            unsafe { dealloc(self.base.as_ptr().cast(), Self::layout(self.entries)) }
        }
    }
}
