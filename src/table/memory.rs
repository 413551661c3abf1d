//! Memory for tables: huge pages where the kernel gives them, and the prefetch hint.
//!
//! Huge pages halve the cost of a random line at 100 million of them (25 against 51 ns): a 2 MiB
//! mapping needs one entry of the second-level TLB where 4 KiB pages need 512.

#![expect(unsafe_code, reason = "maps memory and gives the prefetch hint, behind safe functions")]

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::sync::{AtomicU64, Seqlock};

const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory of its own, aligned to 2 MiB, on huge pages where `madvise` grants them. Sealed by
/// being shared only as `&[u8]` once it is filled.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    mapping: NonNull<u8>,
    mapped: usize,
    huge: bool,
}

// SAFETY: the mapping is private to this value and is reached through `&` and `&mut` like a Vec.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// `len` bytes, zeroed.
    ///
    /// # Errors
    /// When the kernel has no address space or memory for it.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let mapped = len.max(1).checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let offset = mapping.align_offset(HUGE_PAGE);
        // SAFETY: offset < HUGE_PAGE, and the mapping is longer than len by that much.
        let base = unsafe { mapping.add(offset) };
        // SAFETY: advice on a range within the mapping just made.
        let huge = unsafe { libc::madvise(base.as_ptr().cast(), mapped - offset, libc::MADV_HUGEPAGE) } == 0;
        Ok(Self { base, len, mapping, mapped, huge })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: base..base + len lies within the mapping, which is readable and initialised (zero).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// The bytes, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Gives up what lies behind the first `len` bytes.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len);
        self.len = len;
    }

    /// Whether the kernel took the advice to use huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `zeroed`, to which no reference is left.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}

/// Types of which all bytes zero are a value, the one that `Default` makes.
///
/// # Safety
/// All bytes zero must be a valid value that needs no drop.
pub unsafe trait Zero: Default {}

// SAFETY: any 64 bits are an atomic word.
unsafe impl Zero for AtomicU64 {}
// SAFETY: made of atomic words only.
unsafe impl<const N: usize> Zero for Seqlock<N> {}
// SAFETY: made of such values only.
unsafe impl<T: Zero, const N: usize> Zero for [T; N] where Self: Default {}

/// A fixed number of values that begin as zero, on huge pages where they are granted. Memory is taken as it is
/// touched, not when this is made; aligned to a cache line, whatever `T` wants.
#[derive(Debug)]
pub struct Zeroed<T> {
    #[cfg(not(pushplane_loom))]
    region: Region,
    #[cfg(not(pushplane_loom))]
    len: usize,
    #[cfg(pushplane_loom)]
    values: Box<[T]>,
    values_are: PhantomData<T>,
}

#[cfg(not(pushplane_loom))]
impl<T: Zero> Zeroed<T> {
    /// So many values.
    ///
    /// # Panics
    /// When there is no address space for them.
    pub fn new(len: usize) -> Self {
        const { assert!(align_of::<T>() <= HUGE_PAGE && !std::mem::needs_drop::<T>()) }
        let region = len.checked_mul(size_of::<T>()).map(Region::zeroed);
        let Some(Ok(region)) = region else { panic!("no memory for {len} entries of a table") };
        Self { region, len, values_are: PhantomData }
    }
}

#[cfg(not(pushplane_loom))]
impl<T: Zero> Deref for Zeroed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the region holds `len` values, aligned to 2 MiB; all its bytes were zero, which is a value of T,
        // and have been reached as T only; `Region` hands out `&mut` only to who owns it, which is this.
        unsafe { std::slice::from_raw_parts(self.region.base.as_ptr().cast(), self.len) }
    }
}

#[cfg(pushplane_loom)]
impl<T: Zero> Zeroed<T> {
    /// So many values.
    pub fn new(len: usize) -> Self {
        Self { values: (0..len).map(|_| T::default()).collect(), values_are: PhantomData }
    }
}

#[cfg(pushplane_loom)]
impl<T: Zero> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

/// Starts to bring the cache line of `slice[index]` near; nothing when there is no such element.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], index: usize) {
    if let Some(element) = slice.get(index) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; the address is valid besides.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::hint::black_box(element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_aligned_and_zero() {
        for len in [0, 1, 4096, HUGE_PAGE + 1] {
            let mut region = Region::zeroed(len).unwrap();
            assert_eq!(region.bytes().as_ptr() as usize % HUGE_PAGE, 0);
            assert!(region.bytes().iter().all(|byte| *byte == 0));
            assert_eq!(region.bytes_mut().len(), len);
        }
        assert!(Region::zeroed(usize::MAX).is_err());
    }

    #[test]
    fn zeroed_values_are_zero_and_stay_apart() {
        let words = Zeroed::<[AtomicU64; 8]>::new(1000);
        assert_eq!((words.len(), words.as_ptr().addr() % 64), (1000, 0));
        for (n, line) in (0..).zip(words.iter()) {
            line[n as usize % 8].store(n, std::sync::atomic::Ordering::Relaxed);
        }
        for (n, line) in (0..).zip(words.iter()) {
            let sum: u64 = line.iter().map(|word| word.load(std::sync::atomic::Ordering::Relaxed)).sum();
            assert_eq!(sum, n);
        }
    }

    #[test]
    fn prefetching_beyond_the_end_is_nothing() {
        prefetch(&[1, 2, 3], 2);
        prefetch(&[1, 2, 3], 3);
    }
}
