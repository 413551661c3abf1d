//! std or loom: what lock-free code is built from, so that a model checker can run it; and the one
//! sequence lock of the house.

#[cfg(not(pushplane_loom))]
pub(crate) use std::hint::spin_loop;
#[cfg(not(pushplane_loom))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(pushplane_loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(pushplane_loom)]
pub(crate) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
};

/// Words that one thread writes and any number read, all of one moment: a sequence lock over atomics,
/// so that a torn read is seen, not undefined.
///
/// The writer makes the version odd before its stores and even after them. The Release fence keeps the
/// stores behind the odd version, the Release store keeps them before the even one; a reader that found
/// the same even version before (Acquire) and after (Acquire fence) its loads cannot have read a store of a
/// later write, for then it would have seen that write's odd version.
///
/// Costs the writer `N + 2` stores; a reader waits only while the writer is between them.
#[derive(Debug)]
pub struct Seqlock<const N: usize> {
    version: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Default for Seqlock<N> {
    fn default() -> Self {
        Self { version: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl<const N: usize> Seqlock<N> {
    /// Writes all words. One thread at a time: who else does so loses words, not memory.
    pub fn write(&self, values: &[u64; N]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(values) {
            word.store(*value, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// All words of one moment; `None` when the writer was at work meanwhile.
    #[inline]
    pub fn try_read(&self) -> Option<[u64; N]> {
        self.try_read_at().map(|(_, values)| values)
    }

    /// As [`Seqlock::try_read`], with the version of that moment for [`Seqlock::is_at`].
    #[inline]
    pub fn try_read_at(&self) -> Option<(u64, [u64; N])> {
        let before = self.version.load(Ordering::Acquire);
        let mut values = [0; N];
        for (value, word) in values.iter_mut().zip(&self.words) {
            *value = word.load(Ordering::Relaxed);
        }
        (before.is_multiple_of(2) && self.is_at(before)).then_some((before, values))
    }

    /// Whether nothing was written since this version, as far as what was read before can tell: true
    /// when none of it was stored after a later write here began.
    #[inline]
    pub fn is_at(&self, version: u64) -> bool {
        fence(Ordering::Acquire);
        self.version.load(Ordering::Relaxed) == version
    }

    /// Whether the first words are these, whatever the writer is at.
    #[inline(always)]
    pub fn begins_with<const M: usize>(&self, values: [u64; M]) -> bool {
        self.words.iter().zip(values).all(|(word, value)| word.load(Ordering::Relaxed) == value)
    }

    /// All words of one moment.
    #[inline]
    pub fn read(&self) -> [u64; N] {
        self.read_at().1
    }

    /// As [`Seqlock::read`], with the version of that moment for [`Seqlock::is_at`].
    #[inline]
    pub fn read_at(&self) -> (u64, [u64; N]) {
        loop {
            if let Some(read) = self.try_read_at() {
                return read;
            }
            spin_loop();
        }
    }
}
