//! An index of slots by hash: one writer, any readers, no lock. It only hints: who follows an entry looks at what
//! stands in the slot.
//!
//! Costs: buckets of one cache line, seven entries and a spill word; at most half full: 18.3 bytes an entry, and a
//! look reads 1.03 lines on average.

use crate::sync::{AtomicU64, Ordering};
use crate::table::memory::{Zeroed, prefetch};

/// Entries of a bucket; a model checker can only follow few.
const WAYS: usize = if cfg!(pushplane_loom) { 1 } else { 7 };

/// The entries, each a tag and a slot's number plus one (0: free), and the spill word: how many entries that
/// belong here stand in following buckets, and how far the farthest is.
type Bucket = [AtomicU64; WAYS + 1];

const _: () = assert!(size_of::<Bucket>() == 64 || cfg!(pushplane_loom));

/// The index.
#[derive(Debug)]
pub struct SlotIndex(Zeroed<Bucket>);

#[inline(always)]
const fn tag(hash: u64) -> u64 {
    hash << 32
}

#[inline(always)]
const fn entry(hash: u64, slot: u32) -> u64 {
    tag(hash) | (slot as u64 + 1)
}

impl SlotIndex {
    /// For so many entries.
    pub fn new(entries: usize) -> Self {
        Self(Zeroed::new((entries * 2).div_ceil(WAYS) + 1))
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.0.len() as u128) >> 64) as usize
    }

    #[inline(always)]
    fn bucket(&self, at: usize) -> &Bucket {
        // A home and a distance are below the number of buckets.
        let count = self.0.len();
        &self.0[if at < count { at } else { at - count }]
    }

    /// Starts to bring the bucket of this hash near.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.0, self.home(hash));
    }

    /// The first slot that `is` is true of among those that may be what has this hash: as
    /// [`SlotIndex::candidates`], for where every nanosecond counts.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut is: impl FnMut(usize) -> bool) -> Option<usize> {
        let home = self.home(hash);
        // Before the entries: what had spilled by then is within this distance.
        let farthest = self.bucket(home)[WAYS].load(Ordering::Acquire) as u32 as usize;
        let tag = tag(hash) >> 32;
        for at in home..=home + farthest {
            for word in &self.bucket(at)[..WAYS] {
                let found = word.load(Ordering::Acquire);
                if found >> 32 == tag && found as u32 != 0 {
                    let slot = found as u32 as usize - 1;
                    if is(slot) {
                        return Some(slot);
                    }
                }
            }
        }
        None
    }

    /// Slots that may be what has this hash. Every entry that was there when this began, and is not removed
    /// meanwhile, is among them.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let home = self.home(hash);
        let farthest = self.bucket(home)[WAYS].load(Ordering::Acquire) as u32 as usize;
        let tag = tag(hash);
        (home..=home + farthest).flat_map(move |at| {
            self.bucket(at)[..WAYS].iter().filter_map(move |word| {
                let found = word.load(Ordering::Acquire);
                let matches = found >> 32 == tag >> 32 && found as u32 != 0;
                matches.then(|| found as u32 as usize - 1)
            })
        })
    }

    /// Adds an entry. The one writer's, as [`SlotIndex::remove`]: who else does so loses entries, not memory.
    ///
    /// # Panics
    /// When there are twice as many entries as the index was made for.
    pub fn insert(&self, hash: u64, slot: u32) {
        let home = self.home(hash);
        for distance in 0..self.0.len() {
            let bucket = self.bucket(home + distance);
            let free = |word: &&AtomicU64| word.load(Ordering::Relaxed) == 0;
            let Some(word) = bucket[..WAYS].iter().find(free) else { continue };
            if distance > 0 {
                let spill = &self.bucket(home)[WAYS];
                let before = spill.load(Ordering::Relaxed);
                let farthest = (before as u32).max(distance as u32);
                spill.store(((before >> 32) + 1) << 32 | u64::from(farthest), Ordering::Release);
            }
            word.store(entry(hash, slot), Ordering::Release);
            return;
        }
        unreachable!("an index that is half full has a free place");
    }

    /// Takes an entry out, if it is there.
    pub fn remove(&self, hash: u64, slot: u32) {
        let home = self.home(hash);
        let spill = &self.bucket(home)[WAYS];
        let before = spill.load(Ordering::Relaxed);
        for distance in 0..=before as u32 as usize {
            let same = |word: &&AtomicU64| word.load(Ordering::Relaxed) == entry(hash, slot);
            let Some(word) = self.bucket(home + distance)[..WAYS].iter().find(same) else { continue };
            word.store(0, Ordering::Release);
            if distance > 0 {
                let left = (before >> 32) - 1;
                // With nothing spilled any more nobody need look farther.
                let farthest = if left == 0 { 0 } else { u64::from(before as u32) };
                spill.store(left << 32 | farthest, Ordering::Release);
            }
            return;
        }
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;
    use crate::table::binding::hash;

    #[test]
    fn every_entry_is_found_until_it_is_removed() {
        let index = SlotIndex::new(1000);
        let of = |n: u32| hash(u128::from(n % 300), 7);
        for n in 0..1000 {
            index.insert(of(n), n);
        }
        for n in 0..1000 {
            assert!(index.candidates(of(n)).any(|slot| slot == n as usize));
        }
        for n in (0..1000).step_by(2) {
            index.remove(of(n), n);
            index.remove(of(n), n);
        }
        for n in 0..1000 {
            assert_eq!(index.candidates(of(n)).any(|slot| slot == n as usize), n % 2 == 1);
        }
        for n in (1..1000).step_by(2) {
            index.remove(of(n), n);
        }
        assert!(index.0.iter().flatten().all(|word| word.load(Ordering::Relaxed) == 0), "no spill is left");
    }
}
