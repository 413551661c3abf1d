//! Memory for tables: huge pages where the kernel gives them, and the prefetch hint.
//!
//! Huge pages halve the cost of a random line at 100 million of them (25 against 51 ns): a 2 MiB
//! mapping needs one entry of the second-level TLB where 4 KiB pages need 512.

#![expect(unsafe_code, reason = "maps memory and gives the prefetch hint, behind safe functions")]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Seqlock};

const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory of its own, aligned to 2 MiB: on huge pages that the host has set apart (`vm.nr_hugepages`) where there
/// are enough, else on those that the kernel finds when it is asked to (`madvise`), else on small ones. Sealed by
/// being shared only as `&[u8]` once it is filled.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    mapping: NonNull<u8>,
    mapped: usize,
    set_apart: bool,
}

/// Which pages memory lies on, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Pages {
    /// Bytes of all of it.
    pub bytes: usize,
    /// Bytes of it that were touched: the others lie on no pages yet.
    pub touched_bytes: usize,
    /// Bytes of it on huge pages.
    pub huge_bytes: usize,
    /// Whether these are pages that the host has set apart.
    pub set_apart: bool,
}

impl Pages {
    /// Bytes that nothing else can have.
    pub const fn taken_bytes(&self) -> usize {
        if self.set_apart { self.bytes } else { self.touched_bytes }
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { touched_bytes, huge_bytes, set_apart, .. } = *self;
        match huge_bytes {
            _ if set_apart => f.write_str("huge pages (set apart)"),
            _ if touched_bytes == 0 => f.write_str("no pages yet"),
            0 => f.write_str("small pages"),
            all if all >= touched_bytes => f.write_str("huge pages (transparent)"),
            some => write!(f, "huge pages (transparent), {} % of it", some * 100 / touched_bytes),
        }
    }
}

/// Where memory lies. Keeps nothing alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    base: usize,
    bytes: usize,
    set_apart: bool,
}

/// What the kernel says of all that this process has mapped (`/proc/self/smaps`, proc(5)). Costs the kernel a walk over it.
#[derive(Debug)]
pub struct Mapped(String);

impl Mapped {
    /// As it is now; nothing where the kernel does not say.
    pub fn now() -> Self {
        Self(std::fs::read_to_string("/proc/self/smaps").unwrap_or_default())
    }

    /// Which pages this memory lies on.
    pub fn pages(&self, extent: Extent) -> Pages {
        let Extent { base, bytes, set_apart } = extent;
        let (touched, huge) = taken(&self.0, base..base + bytes.next_multiple_of(HUGE_PAGE));
        Pages { bytes, touched_bytes: touched.min(bytes), huge_bytes: huge.min(bytes), set_apart }
    }
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
        let whole = len.max(1).checked_next_multiple_of(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // Reserved as they are mapped, so that none is missing when it is touched; small tables leave them to others.
        if len >= HUGE_PAGE
            && let Ok(mapping) = map(whole, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB)
        {
            return Ok(Self { base: mapping, len, mapping, mapped: whole, set_apart: true });
        }
        let mapped = whole.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = map(mapped, libc::MAP_NORESERVE)?;
        let offset = mapping.align_offset(HUGE_PAGE);
        // SAFETY: offset < HUGE_PAGE, and the mapping is longer than len by that much.
        let base = unsafe { mapping.add(offset) };
        // A kernel without huge pages refuses the advice: small ones, then. What lies behind is left out, so that two
        // neighbours are two mappings.
        // SAFETY: advice on a range within the mapping just made.
        unsafe { libc::madvise(base.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
        Ok(Self { base, len, mapping, mapped, set_apart: false })
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

    /// Where it lies.
    pub fn extent(&self) -> Extent {
        Extent { base: self.base.as_ptr().addr(), bytes: self.len, set_apart: self.set_apart }
    }
}

/// Maps memory at an address of the kernel's choice.
fn map(len: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing.
    let mapping =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if mapping == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(mapping.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Bytes on pages, and on huge ones, of the mappings that share addresses with these. The kernel may tell of neighbouring
/// mappings as of one. "Rss" leaves out what lies on pages that were set apart.
fn taken(smaps: &str, addresses: Range<usize>) -> (usize, usize) {
    let (mut ours, mut touched, mut huge) = (false, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let hex = |text| usize::from_str_radix(text, 16).ok();
        match first.split_once('-').and_then(|(begin, end)| Some(hex(begin)?..hex(end)?)) {
            Some(range) => ours = range.start < addresses.end && addresses.start < range.end,
            None if ours => {
                let bytes = words.next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) * 1024;
                touched += if matches!(first, "Rss:" | "Private_Hugetlb:") { bytes } else { 0 };
                huge += if matches!(first, "AnonHugePages:" | "Private_Hugetlb:") { bytes } else { 0 };
            }
            None => {}
        }
    }
    (touched, huge)
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

// SAFETY: any 16 bits are an atomic word.
unsafe impl Zero for AtomicU16 {}
// SAFETY: any 32 bits are an atomic word.
unsafe impl Zero for AtomicU32 {}
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

    /// Where they lie.
    pub fn extent(&self) -> Extent {
        self.region.extent()
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

    /// Nowhere that the kernel knows of.
    pub fn extent(&self) -> Extent {
        Extent::default()
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

/// As [`prefetch`] of one of two slices, by a choice that costs the same either way.
#[inline(always)]
pub fn prefetch_either<T, U>(first: bool, one: (&[T], usize), other: (&[U], usize)) {
    #[cfg(target_arch = "x86_64")]
    {
        let one = one.0.as_ptr().wrapping_add(one.1).cast::<i8>();
        let other = other.0.as_ptr().wrapping_add(other.1).cast::<i8>();
        let chosen = std::hint::select_unpredictable(first, one, other);
        // SAFETY: a hint, which any address may be given.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(chosen);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    if first { prefetch(one.0, one.1) } else { prefetch(other.0, other.1) }
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

    /// As where the kernel has no huge pages to give.
    #[test]
    fn a_process_that_may_have_no_huge_pages_has_small_ones_and_says_so() {
        let touched = || {
            let mut region = Region::zeroed(4 * HUGE_PAGE + 1).unwrap();
            region.bytes_mut().fill(7);
            assert!(region.bytes().iter().all(|byte| *byte == 7));
            region
        };
        let pages_of = |region: &Region| Mapped::now().pages(region.extent());
        let granted = pages_of(&touched());
        assert_eq!((granted.bytes, granted.touched_bytes), (4 * HUGE_PAGE + 1, 4 * HUGE_PAGE + 1));
        assert!(granted.huge_bytes <= granted.bytes);
        // SAFETY: changes what later mappings of this process get.
        let forbidden = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } == 0;
        let region = touched();
        let pages = pages_of(&region);
        assert!(forbidden);
        if !pages.set_apart {
            assert_eq!((pages.huge_bytes, pages.to_string()), (0, "small pages".to_owned()));
            let untouched = pages_of(&Region::zeroed(4 * HUGE_PAGE).unwrap());
            assert_eq!((untouched.touched_bytes, untouched.to_string()), (0, "no pages yet".to_owned()));
        }
        // SAFETY: as above.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0) }, 0);
    }

    #[test]
    fn huge_pages_are_counted_of_the_mapping_asked_for() {
        let smaps = "\
7f00-7f80 rw-p 00000000 00:00 0 \nSize:  512 kB\nRss:  3072 kB\nAnonHugePages:      2048 kB\n\
7f80-8000 rw-p 00000000 00:00 0 \nRss:  5120 kB\nAnonHugePages:      4096 kB\nPrivate_Hugetlb:    6144 kB\n";
        assert_eq!(taken(smaps, 0x7f80..0x7f90), (11 << 20, 10 << 20));
        assert_eq!(taken(smaps, 0x7f70..0x7f80), (3 << 20, 2 << 20));
        assert_eq!(taken(smaps, 0x8000..0x9000), (0, 0));
        let said = |touched_bytes, huge_bytes, set_apart| {
            Pages { bytes: 300, touched_bytes, huge_bytes, set_apart }.to_string()
        };
        assert_eq!(said(0, 0, false), "no pages yet");
        assert_eq!(said(200, 0, false), "small pages");
        assert_eq!(said(200, 100, false), "huge pages (transparent), 50 % of it");
        assert_eq!(said(200, 200, false), "huge pages (transparent)");
        assert_eq!(said(0, 0, true), "huge pages (set apart)");
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
        prefetch_either(true, (&[1, 2, 3], 4), (&[1u8], 5));
        prefetch_either(false, (&[1, 2, 3], 4), (&[1u8], 5));
    }
}
