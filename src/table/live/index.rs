//! An index of slots by hash: one writer, any readers, no lock. It only hints: who follows an entry looks at what
//! stands in the slot.
//!
//! Costs: buckets of one cache line, ten entries each; at most seven tenths full: 9.2 bytes an entry, and a look
//! reads 1.1 lines on average then.
//!
//! An entry is a tag of sixteen bits, four to a word, and a slot's number, two to a word: all tags of a bucket are
//! compared in some twenty instructions. The two are written one after the other, the number first. So who sees a
//! tag sees its number, or that of a later entry in its place, which leads to a slot that says something else.

use crate::sync::{AtomicU64, Ordering};
use crate::table::memory::{Extent, Zeroed, prefetch};

/// Entries of a bucket; a model checker can only follow few.
const WAYS: usize = if cfg!(pushplane_loom) { 1 } else { 10 };
/// Words of four tags each; the last has two, and in its upper half the spill.
const TAG_WORDS: usize = WAYS / 4 + 1;
/// The word with the spill.
const LAST: usize = TAG_WORDS - 1;
/// Entries a bucket on average, of a hundred, when all are there.
const LOAD_PERCENT: usize = 70;

/// Tags (0: free), the spill, and numbers of slots. The spill: how many entries that belong here stand in following
/// buckets, and how far the farthest is, sixteen bits each.
type Bucket = [AtomicU64; TAG_WORDS + WAYS.div_ceil(2)];

const _: () = assert!(size_of::<Bucket>() == 64 || cfg!(pushplane_loom));

/// The farthest that an entry stands from where it belongs, and the most that are counted of those that do.
const SPILL_MAX: usize = 1 << 16;
const COUNT_MAX: u64 = (1 << 16) - 1;

/// The lowest bit of each tag, and the highest.
const LOWEST: u64 = 0x0001_0001_0001_0001;
const HIGHEST: u64 = LOWEST << 15;

/// The tags of the last word.
const IN_LAST: u64 = HIGHEST & 0xFFFF_FFFF;

/// How far each word's matches are shifted to stand beside those of the others in one word.
const BESIDE: u32 = 15;
const _: () = assert!(TAG_WORDS <= BESIDE as usize + 1);

/// The index.
#[derive(Debug)]
pub struct SlotIndex(Zeroed<Bucket>);

/// What a look found: slots that may be what has a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hint {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// None.
    None,
    /// This one alone.
    One(u32),
    /// More than one: look for all.
    Several,
}

/// Never 0: that is a free place.
#[inline(always)]
const fn tag(hash: u64) -> u64 {
    match hash & 0xFFFF {
        0 => 1,
        tag => tag,
    }
}

/// The highest bit of each of a word's four tags that is this one.
#[inline(always)]
const fn matches(word: u64, tag: u64) -> u64 {
    let differing = word ^ (tag * LOWEST);
    // A lane is zero when neither its highest bit is set nor a carry comes into it.
    !(((differing & !HIGHEST) + !HIGHEST) | differing) & HIGHEST
}

/// The spill in the last word of tags: how many, how far.
#[inline(always)]
const fn spill(word: u64) -> (u64, usize) {
    (word >> 32 & 0xFFFF, (word >> 48) as usize)
}

const fn with_spill(word: u64, count: u64, farthest: usize) -> u64 {
    word & 0xFFFF_FFFF | count << 32 | (farthest as u64) << 48
}

impl SlotIndex {
    /// For so many entries.
    pub fn new(entries: usize) -> Self {
        Self(Zeroed::new((entries * 100).div_ceil(WAYS * LOAD_PERCENT) + 1))
    }

    /// Where it lies.
    pub fn extent(&self) -> Extent {
        self.0.extent()
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

    /// The slots that may be what has this hash. Every entry that was there when this began, and is not removed
    /// meanwhile, is among them.
    #[inline(always)]
    pub fn candidates(&self, hash: u64) -> Candidates<'_> {
        let home = self.home(hash);
        let bucket = self.bucket(home);
        // Before the entries: what had spilled by then is within this distance.
        let last = bucket[LAST].load(Ordering::Acquire);
        let tag = tag(hash);
        let found = found(bucket, last, tag);
        Candidates { index: self, end: home + spill(last).1, at: home, bucket, tag, found }
    }

    /// The first of [`SlotIndex::candidates`] that `is` is true of.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut is: impl FnMut(usize) -> bool) -> Option<usize> {
        self.candidates(hash).find(|slot| is(*slot))
    }

    /// What there is of this hash, in few words.
    #[inline(always)]
    pub fn hint(&self, hash: u64) -> Hint {
        let near = self.candidates(hash);
        match near.found {
            _ if near.at < near.end => Self::hint_of(near),
            0 => Hint::None,
            found if found & (found - 1) == 0 => Hint::One(number(near.bucket, place(found)) as u32),
            _ => Hint::Several,
        }
    }

    #[inline(never)]
    fn hint_of(mut candidates: Candidates<'_>) -> Hint {
        match (candidates.next(), candidates.next()) {
            (None, _) => Hint::None,
            (Some(slot), None) => Hint::One(slot as u32),
            (Some(_), Some(_)) => Hint::Several,
        }
    }

    /// Whether there may be something of this hash.
    #[inline(always)]
    pub fn may_have(&self, hash: u64) -> bool {
        let near = self.candidates(hash);
        near.found != 0 || (near.at < near.end && Self::hint_of(near) != Hint::None)
    }

    /// Adds an entry. The one writer's, as [`SlotIndex::remove`]: who else does so loses entries, not memory.
    ///
    /// # Panics
    /// When there are more entries than the index has room for.
    pub fn insert(&self, hash: u64, slot: u32) {
        let home = self.home(hash);
        for distance in 0..self.0.len().min(SPILL_MAX) {
            let bucket = self.bucket(home + distance);
            let Some(way) = (0..WAYS).find(|way| tag_at(bucket, *way) == 0) else { continue };
            if distance > 0 {
                let word = &self.bucket(home)[LAST];
                let before = word.load(Ordering::Relaxed);
                let (count, farthest) = spill(before);
                // A count that does not fit stays where it is for ever: more is looked at than need be.
                let count = (count + 1).min(COUNT_MAX);
                word.store(with_spill(before, count, farthest.max(distance)), Ordering::Release);
            }
            // The number first: who sees the tag sees it.
            let word = &bucket[TAG_WORDS + way / 2];
            let shift = way % 2 * 32;
            let others = word.load(Ordering::Relaxed) & !(0xFFFF_FFFF << shift);
            word.store(others | u64::from(slot) << shift, Ordering::Release);
            set_tag(bucket, way, tag(hash));
            return;
        }
        unreachable!("an index that is not full has a free place");
    }

    /// Takes an entry out, if it is there.
    pub fn remove(&self, hash: u64, slot: u32) {
        let home = self.home(hash);
        let (_, farthest) = spill(self.bucket(home)[LAST].load(Ordering::Relaxed));
        for distance in 0..=farthest {
            let bucket = self.bucket(home + distance);
            let is = |way: &usize| tag_at(bucket, *way) == tag(hash) && number(bucket, *way) == slot as usize;
            let Some(way) = (0..WAYS).find(is) else { continue };
            set_tag(bucket, way, 0);
            if distance > 0 {
                let word = &self.bucket(home)[LAST];
                let before = word.load(Ordering::Relaxed);
                let count = match spill(before).0 {
                    COUNT_MAX => COUNT_MAX,
                    count => count - 1,
                };
                // With nothing spilled any more nobody need look farther.
                let farthest = if count == 0 { 0 } else { farthest };
                word.store(with_spill(before, count, farthest), Ordering::Release);
            }
            return;
        }
    }
}

/// The places of a bucket with this tag: those of its first word by bits 0, 16, 32 and 48, those of its second by the
/// bits beside them, and so on. `last` is what the last word was.
#[inline(always)]
fn found(bucket: &Bucket, last: u64, tag: u64) -> u64 {
    let first = (0..LAST).fold(0, |found, word| {
        found | matches(bucket[word].load(Ordering::Acquire), tag) >> (BESIDE - word as u32)
    });
    first | (matches(last, tag) & IN_LAST) >> (BESIDE - LAST as u32)
}

/// What [`SlotIndex::candidates`] finds: one bucket after the other.
#[derive(Debug)]
pub struct Candidates<'a> {
    index: &'a SlotIndex,
    /// The last bucket, and this one.
    end: usize,
    at: usize,
    bucket: &'a Bucket,
    tag: u64,
    /// Which places of it are still to be looked at.
    found: u64,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            if self.at >= self.end {
                return None;
            }
            self.at += 1;
            self.bucket = self.index.bucket(self.at);
            self.found = found(self.bucket, self.bucket[LAST].load(Ordering::Acquire), self.tag);
        }
        let way = place(self.found);
        self.found &= self.found - 1;
        Some(number(self.bucket, way))
    }
}

/// The place of the lowest bit that [`found`] set.
#[inline(always)]
const fn place(found: u64) -> usize {
    let bit = found.trailing_zeros() as usize;
    bit % 16 * 4 + bit / 16
}

/// The number of the slot in this place; what it is while the tag is written.
#[inline(always)]
fn number(bucket: &Bucket, way: usize) -> usize {
    (bucket[TAG_WORDS + way / 2].load(Ordering::Acquire) >> (way % 2 * 32)) as u32 as usize
}

fn tag_at(bucket: &Bucket, way: usize) -> u64 {
    bucket[way / 4].load(Ordering::Relaxed) >> (way % 4 * 16) & 0xFFFF
}

fn set_tag(bucket: &Bucket, way: usize, tag: u64) {
    let shift = way % 4 * 16;
    let others = bucket[way / 4].load(Ordering::Relaxed) & !(0xFFFF << shift);
    bucket[way / 4].store(others | tag << shift, Ordering::Release);
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;
    use crate::table::binding::hash;

    #[test]
    fn every_entry_is_found_until_it_is_removed() {
        let index = SlotIndex::new(1000);
        let of = |n: u32| hash(u128::from(n % 300), 7);
        let found = |n: u32| index.find(of(n), |slot| slot == n as usize).is_some();
        for n in 0..1000 {
            index.insert(of(n), n);
        }
        assert!((0..1000).all(found));
        for n in (0..1000).step_by(2) {
            index.remove(of(n), n);
            index.remove(of(n), n);
        }
        for n in 0..1000 {
            assert_eq!(found(n), n % 2 == 1);
        }
        for n in (1..1000).step_by(2) {
            index.remove(of(n), n);
        }
        for bucket in index.0.iter() {
            assert!(
                bucket[..TAG_WORDS].iter().all(|word| word.load(Ordering::Relaxed) == 0),
                "no spill is left"
            );
        }
    }

    #[test]
    fn a_full_index_finds_everything_near() {
        let index = SlotIndex::new(100_000);
        let of = |n: u32| hash(u128::from(n), 7);
        for n in 0..100_000 {
            index.insert(of(n), n);
        }
        let mut lines = 0;
        for n in 0..100_000 {
            assert_eq!(index.find(of(n), |slot| slot == n as usize), Some(n as usize));
            lines += 1 + spill(index.bucket(index.home(of(n)))[LAST].load(Ordering::Relaxed)).1;
        }
        assert!(lines < 150_000, "{lines}");
    }

    #[test]
    fn a_hint_says_how_many_there_are() {
        let index = SlotIndex::new(100);
        let of = |n: u32| hash(u128::from(n), 7);
        assert_eq!(index.hint(of(1)), Hint::None);
        index.insert(of(1), 4);
        index.insert(of(2), 0);
        assert_eq!((index.hint(of(1)), index.hint(of(2))), (Hint::One(4), Hint::One(0)));
        index.insert(of(1), 9);
        assert_eq!(index.hint(of(1)), Hint::Several);
    }

    #[test]
    fn tags_are_compared_lane_by_lane() {
        for (word, tag, lanes) in [
            (0u64, 1, 0),
            (LOWEST, 1, HIGHEST),
            (0x8000_0001_0000_8001, 0x8001, 0x8000),
            (0x0001_0000_0001_0000, 1, 0x8000_0000_8000_0000),
            (u64::MAX, 0xFFFF, HIGHEST),
        ] {
            assert_eq!(matches(word, tag), lanes, "{word:x} {tag:x}");
        }
    }
}
