//! Where each of a fixed set of keys stands: a perfect hash, made when the set is.
//!
//! A lookup reads one byte, the *pilot* of the key's bucket, and knows from it and the hash the only place where the
//! key can be: no probing, no tags, no comparison but the one with what stands there. Keys that are not of the set
//! lead to some place too: whoever looks compares.
//!
//! Costs: 8/3 bits a key, 0.33 bytes, which stay in the near caches (3.4 MB for ten million keys), and places
//! of which 98.4 percent are in use. Making it takes some 150 ns a key of one core, and all cores are at it. It never
//! changes: another set is another one.
//!
//! After PtrHash (Groot Koerkamp 2025) and PTHash (Pibiri, Trani 2021), made anew: keys fall by their hash into
//! buckets of 3 on average, 65 536 buckets make a part with places of its own, small enough to be made within the
//! near caches; of each bucket, the largest first, the pilot is the first of 256 numbers under which its keys find
//! free places that differ. When none does, the one under which they displace the fewest is taken, and the
//! displaced buckets are placed again. With 3.5 keys a bucket that goes on ten times as long, and often in vain.

use std::num::NonZeroUsize;

use rkyv::{Archive, Deserialize, Serialize};

use super::memory::prefetch;

/// A perfect hash of a set of 64-bit hashes.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Phf {
    /// What the keys were hashed with.
    seed: u64,
    /// Places of each part.
    part_places: u32,
    /// Buckets of a part are 2 to the power of this; all of them where there is but one part.
    part_shift: u32,
    /// A bucket each.
    pilots: Vec<u8>,
}

/// Keys a bucket, on average.
const KEYS: usize = 3;
/// Buckets of a part: two to the power of it.
const PART_SHIFT: u32 = 16;
/// Seeds that are tried. One fails when two keys have one hash, once in 3700 times among 100 million keys.
const SEEDS: u64 = 64;
/// Beyond so many buckets placed again, times the buckets of a part, the seed is given up.
const PATIENCE: usize = 10;
/// Odd, without pattern: what spreads pilots and places.
const SPREAD: u64 = 0x517C_C1B7_2722_0A95;

/// The high half of a product: `hash` scaled down to below `count`.
#[inline(always)]
const fn scale(hash: u64, count: u64) -> usize {
    ((hash as u128 * count as u128) >> 64) as usize
}

/// Which of so many buckets a key with this hash is in.
#[inline(always)]
pub const fn bucket(hash: u64, buckets: usize) -> usize {
    scale(hash, buckets as u64)
}

#[inline(always)]
const fn place_in_part(hash: u64, pilot: u8, places: u32) -> usize {
    let mixed = (hash ^ (pilot as u64).wrapping_mul(SPREAD)).wrapping_mul(SPREAD);
    scale(mixed, places as u64)
}

impl Phf {
    /// Perfect hashes of a set of keys under one seed after another; `hashes` gives those of all keys, in any order
    /// and as often as it likes. Whoever finds two keys with one hash takes the next. The same keys make the same ones.
    pub fn attempts(first_seed: u64, hashes: impl Fn(u64) -> Vec<u64>) -> impl Iterator<Item = Self> {
        (0..SEEDS).filter_map(move |attempt| {
            let seed = first_seed.wrapping_add(attempt);
            let mut sorted = hashes(seed);
            sorted.sort_unstable();
            sorted.dedup();
            Self::try_build(seed, &sorted)
        })
    }

    fn try_build(seed: u64, sorted: &[u64]) -> Option<Self> {
        let wanted = sorted.len().div_ceil(KEYS).max(1);
        let parts = wanted.div_ceil(1 << PART_SHIFT);
        let (part_shift, buckets) =
            if parts == 1 { (u32::BITS - 1, wanted) } else { (PART_SHIFT, parts << PART_SHIFT) };
        let bucket = |hash: &u64| scale(*hash, buckets as u64);
        let by_part: Vec<&[u64]> = split(sorted, parts, |hash| bucket(hash) >> part_shift);
        let most = by_part.iter().map(|keys| keys.len()).max().unwrap_or(0);
        let part_places = u32::try_from(most + most / 100 + 8).ok()?;
        let mut pilots = vec![0; buckets];
        // Each core has its share of the parts, which know nothing of each other.
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let share = parts.div_ceil(cores);
        let place = |first_part: usize, parts: &[&[u64]], pilots: &mut [u8]| {
            for ((part, keys), pilots) in (first_part..).zip(parts).zip(pilots.chunks_mut(1 << PART_SHIFT)) {
                let first = part << PART_SHIFT;
                let by_bucket = split(keys, pilots.len(), |hash| bucket(hash) - first);
                Part::new(by_bucket, part_places).place(pilots)?;
            }
            Some(())
        };
        std::thread::scope(|scope| {
            let shares = by_part.chunks(share).zip(pilots.chunks_mut(share << PART_SHIFT));
            let workers: Vec<_> = (0..)
                .step_by(share)
                .zip(shares)
                .map(|(first, (parts, pilots))| scope.spawn(move || place(first, parts, pilots)))
                .collect();
            workers.into_iter().try_for_each(joined)
        })?;
        Some(Self { seed, part_places, part_shift, pilots })
    }

    /// The seed that the keys' hashes are to be of.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// No fewer bytes than its archive has beside its own structure.
    pub(super) fn bytes_max(&self) -> usize {
        self.pilots.len()
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.pilots.len().div_ceil(1 << PART_SHIFT) * self.part_places as usize
    }

    /// The place of the key with this hash.
    pub fn place(&self, hash: u64) -> usize {
        let bucket = scale(hash, self.pilots.len() as u64);
        (bucket >> self.part_shift) * self.part_places as usize
            + place_in_part(hash, self.pilots[bucket], self.part_places)
    }
}

/// What a thread made; its panic is this thread's too.
pub(super) fn joined<T>(worker: std::thread::ScopedJoinHandle<'_, T>) -> T {
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Sorted hashes by what `of` says of them, from 0 on: so many slices, some empty.
fn split(sorted: &[u64], count: usize, of: impl Fn(&u64) -> usize) -> Vec<&[u64]> {
    let mut rest = sorted;
    let mut slices = Vec::with_capacity(count);
    for at in 0..count {
        let end = rest.iter().position(|hash| of(hash) > at).unwrap_or(rest.len());
        let (these, others) = rest.split_at(end);
        slices.push(these);
        rest = others;
    }
    slices
}

/// One part under construction.
struct Part<'a> {
    /// The hashes of each bucket.
    buckets: Vec<&'a [u64]>,
    places: u32,
    /// Whose key has each place: a bucket plus one, or zero.
    taken: Vec<u32>,
}

impl<'a> Part<'a> {
    fn new(buckets: Vec<&'a [u64]>, places: u32) -> Self {
        Self { buckets, places, taken: vec![0; places as usize] }
    }

    /// Finds a pilot for each bucket, if it can.
    fn place(mut self, pilots: &mut [u8]) -> Option<()> {
        let mut order: Vec<u32> = (0..self.buckets.len() as u32).collect();
        order.sort_by_key(|bucket| std::cmp::Reverse(self.buckets[*bucket as usize].len()));
        let mut patience = PATIENCE * self.buckets.len() + 1000;
        let mut displaced = Vec::new();
        // Which were placed last: to displace them would undo it.
        let mut recent = [u32::MAX; 16];
        for first in order {
            displaced.push(first);
            while let Some(bucket) = displaced.pop() {
                if self.buckets[bucket as usize].is_empty() {
                    continue;
                }
                recent[patience % recent.len()] = bucket;
                patience = patience.checked_sub(1)?;
                let pilot = match self.free_pilot(bucket) {
                    Some(pilot) => pilot,
                    None => self.cheapest_pilot(bucket, &recent)?,
                };
                pilots[bucket as usize] = pilot;
                self.take(bucket, pilot, pilots, &mut displaced);
            }
        }
        Some(())
    }

    fn place_of(&self, hash: u64, pilot: u8) -> usize {
        place_in_part(hash, pilot, self.places)
    }

    /// The first pilot under which all keys of a bucket find free places that differ.
    fn free_pilot(&self, bucket: u32) -> Option<u8> {
        let keys = self.buckets[bucket as usize];
        let is_free = |pilot: &u8| keys.iter().all(|hash| self.taken[self.place_of(*hash, *pilot)] == 0);
        (0..=u8::MAX).filter(is_free).find(|pilot| self.are_apart(keys, *pilot))
    }

    fn are_apart(&self, keys: &[u64], pilot: u8) -> bool {
        let place = |hash: &u64| self.place_of(*hash, pilot);
        (1..keys.len()).all(|at| keys[..at].iter().all(|other| place(other) != place(&keys[at])))
    }

    /// The pilot under which the smallest buckets are displaced.
    fn cheapest_pilot(&self, bucket: u32, recent: &[u32]) -> Option<u8> {
        let keys = self.buckets[bucket as usize];
        let mut best: Option<(usize, u8)> = None;
        for pilot in 0..=u8::MAX {
            let mut cost = 0;
            for hash in keys {
                let Some(holder) = self.taken[self.place_of(*hash, pilot)].checked_sub(1) else { continue };
                let size = self.buckets[holder as usize].len();
                cost += if recent.contains(&holder) { usize::MAX / 256 } else { size * size };
            }
            let better = cost < usize::MAX / 256 && best.is_none_or(|(least, _)| cost < least);
            if better && self.are_apart(keys, pilot) {
                best = Some((cost, pilot));
            }
        }
        best.map(|(_, pilot)| pilot)
    }

    /// Takes a bucket's places; who has them is displaced.
    fn take(&mut self, bucket: u32, pilot: u8, pilots: &[u8], displaced: &mut Vec<u32>) {
        for hash in self.buckets[bucket as usize] {
            let place = self.place_of(*hash, pilot);
            if let Some(holder) = self.taken[place].checked_sub(1) {
                for other in self.buckets[holder as usize] {
                    let place = self.place_of(*other, pilots[holder as usize]);
                    if self.taken[place] == holder + 1 {
                        self.taken[place] = 0;
                    }
                }
                displaced.push(holder);
            }
            self.taken[place] = bucket + 1;
        }
    }
}

/// Where a perfect hash puts keys, as a burst reads it.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    pilots: &'a [u8],
    seed: u64,
    part_places: u32,
}

impl Places<'_> {
    /// The seed that the keys' hashes are to be of.
    #[inline(always)]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts to bring near what [`Places::place`] reads.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.pilots, self.bucket(hash));
    }

    /// The only place where the key with this hash can be.
    #[inline(always)]
    pub fn place(&self, hash: u64) -> usize {
        let bucket = self.bucket(hash);
        self.place_by(hash, bucket, self.pilots[bucket])
    }

    /// The bucket of the key with this hash.
    #[inline(always)]
    pub const fn bucket(&self, hash: u64) -> usize {
        bucket(hash, self.pilots.len())
    }

    /// As [`Places::place`], for who has the pilot of the bucket from elsewhere.
    #[inline(always)]
    pub const fn place_by(&self, hash: u64, bucket: usize, pilot: u8) -> usize {
        let part = (bucket as u64 >> PART_SHIFT) * self.part_places as u64;
        part as usize + place_in_part(hash, pilot, self.part_places)
    }

    /// The pilots, a bucket each.
    pub const fn pilots(&self) -> &[u8] {
        self.pilots
    }
}

impl ArchivedPhf {
    /// As a burst reads it.
    #[inline(always)]
    pub fn view(&self) -> Places<'_> {
        Places {
            pilots: &self.pilots,
            seed: self.seed.to_native(),
            part_places: self.part_places.to_native(),
        }
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        let parts = ((self.pilots.len().max(1) - 1) >> PART_SHIFT) + 1;
        parts * self.part_places.to_native() as usize
    }

    /// Whether every hash has a place among [`ArchivedPhf::places`].
    pub fn is_sound(&self) -> bool {
        // Of a single part no bucket reaches the next.
        let is_shifted = self.part_shift.to_native() == PART_SHIFT || self.pilots.len() <= 1 << PART_SHIFT;
        !self.pilots.is_empty() && is_shifted && self.part_places.to_native() > 0
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.pilots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::binding::hash;

    fn archived(phf: &Phf) -> rkyv::util::AlignedVec {
        rkyv::to_bytes::<rkyv::rancor::Error>(phf).unwrap()
    }

    fn build(keys: &[u128]) -> Phf {
        let hashes = |seed| keys.iter().map(|key| hash(*key, seed)).collect();
        Phf::attempts(1, hashes).next().unwrap()
    }

    #[test]
    fn every_key_has_a_place_of_its_own() {
        for count in [0usize, 1, 2, 3, 7, 10, 100, 1000, 50_000, 500_000] {
            // Keys without chance in them: numbered users under one prefix.
            let keys: Vec<u128> = (0..count as u128).map(|n| 0x3 << 124 | n << 20).collect();
            let phf = build(&keys);
            let bytes = archived(&phf);
            let archived = rkyv::access::<ArchivedPhf, rkyv::rancor::Error>(&bytes).unwrap();
            assert!(archived.is_sound() && archived.places() == phf.places());
            assert!(count < 500_000 || count as f64 / phf.places() as f64 > 0.98, "{count}");
            let mut taken = vec![false; phf.places()];
            for key in &keys {
                let hash = hash(*key, phf.seed());
                let place = archived.view().place(hash);
                assert_eq!(place, phf.place(hash));
                assert!(!std::mem::replace(&mut taken[place], true), "{key:x} of {count}");
            }
            for stranger in 0..1000u128 {
                assert!(archived.view().place(hash(stranger << 64, phf.seed())) < phf.places());
            }
        }
    }

    #[test]
    fn the_same_keys_make_the_same_hash() {
        let keys: Vec<u128> = (0..10_000).map(|n| n * n * n).collect();
        let backwards: Vec<u128> = keys.iter().rev().copied().collect();
        assert_eq!(build(&keys), build(&backwards));
    }

    #[test]
    fn keys_that_no_seed_keeps_apart_have_no_hash() {
        // One place too few: five keys, all of one bucket and the same place whatever the pilot.
        let phf = Phf::try_build(0, &[1, 1, 1, 1, 1]);
        assert_eq!(phf, None);
    }
}
