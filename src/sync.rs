//! std or loom: what lock-free code is built from, so that a model checker can run it; and the one
//! sequence lock of the house.

#[cfg(not(pushplane_loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU64, Ordering, fence},
};

#[cfg(pushplane_loom)]
pub(crate) use loom::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU64, Ordering, fence},
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
    pub fn try_read(&self) -> Option<[u64; N]> {
        let before = self.version.load(Ordering::Acquire);
        let mut values = [0; N];
        for (value, word) in values.iter_mut().zip(&self.words) {
            *value = word.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        let whole = before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before;
        whole.then_some(values)
    }

    /// All words of one moment.
    pub fn read(&self) -> [u64; N] {
        loop {
            if let Some(values) = self.try_read() {
                return values;
            }
            std::hint::spin_loop();
        }
    }
}
