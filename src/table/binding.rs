//! Where each user is: the bindings, and the unique way back from a private address to its user.
//!
//! Costs: one 64-byte line a terminal, and 64/7.5 bytes a user in the index: 72.5 bytes a user with
//! one terminal, 81 with the way back. A lookup touches one index bucket (rarely two) and one line; the
//! further terminals of a user stand behind its first line.
//!
//! The index is open addressing over buckets of ten: a 16-bit tag and a line number each, so that a
//! lookup reads a line of another user once in 6500 times. A bucket says how far entries that belong
//! to it have spilled into its successors. Hash values are of a hash that is specified here, with the
//! seed in the image: an image means the same on every machine.

use rkyv::{Archive, Deserialize, Serialize};

use super::memory::prefetch;
use super::rib::User;
use crate::id::{Endpoint, Imsi, PushId};

/// One terminal of one user in one cache line.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(attr(repr(align(64))), derive(Clone, Copy, Debug))]
pub struct Line {
    user: [u8; 16],
    /// Private address, or the serving server's.
    addr: [u8; 16],
    /// TBCD; zero: none.
    imsi: [u8; 8],
    realm: u32,
    /// Seconds since 1970; zero: no end.
    valid_until: u32,
    /// Public IPv4 address; with `flag::NAT6` an index into the public IPv6 addresses.
    nat: [u8; 4],
    port: u16,
    nat_port: u16,
    device: u8,
    bearers: u8,
    flags: u8,
    reserved: [u8; 5],
}

const _: () = assert!(size_of::<ArchivedLine>() == 64 && align_of::<ArchivedLine>() == 64);

/// Bits of [`Line::flags`].
mod flag {
    pub(super) const PRIVATE: u8 = 1;
    pub(super) const NAT: u8 = 2;
    pub(super) const NAT6: u8 = 4;
    pub(super) const SERVING: u8 = 8;
    /// The next line is the same user's.
    pub(super) const MORE: u8 = 16;
    /// The user has a key of its own.
    pub(super) const KEY: u8 = 32;
}

/// Ten entries of the index in one cache line.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(attr(repr(align(64))), derive(Clone, Copy, Debug))]
pub struct Bucket {
    /// Zero: free.
    tags: [u16; WAYS],
    /// How many further buckets hold entries that belong here.
    spill: u32,
    lines: [u32; WAYS],
}

const WAYS: usize = 10;

const _: () = assert!(size_of::<ArchivedBucket>() == 64 && align_of::<ArchivedBucket>() == 64);

/// Entries a bucket on average: three quarters full.
const LOAD_PERCENT: usize = 75;

/// The specified hash of 128 bits: one 64 × 64 → 128 bit multiplication, folded, twice (the shape of
/// wyhash); the seed keeps apart the two indexes.
#[inline(always)]
pub const fn hash(key: u128, seed: u64) -> u64 {
    const fn fold(a: u64, b: u64) -> u64 {
        let product = a as u128 * b as u128;
        product as u64 ^ (product >> 64) as u64
    }
    let mixed = fold(key as u64 ^ 0x9E37_79B9_7F4A_7C15 ^ seed, (key >> 64) as u64 ^ 0xD1B5_4A32_D192_ED03);
    fold(mixed ^ 0xA076_1D64_78BD_642F, seed ^ key as u64 ^ 0xE703_7ED1_A0B4_28DB)
}

/// What the way back is hashed by.
#[inline(always)]
pub const fn owner_key(realm: u32, addr: [u8; 16]) -> u128 {
    // Realms differ in bits that IPv4-mapped addresses leave zero.
    u128::from_be_bytes(addr) ^ (realm as u128) << 96
}

const fn tag(hash: u64) -> u16 {
    match hash as u16 {
        0 => 1,
        tag => tag,
    }
}

#[inline(always)]
fn home(hash: u64, buckets: usize) -> usize {
    ((u128::from(hash) * buckets as u128) >> 64) as usize
}

/// An index under construction: buckets and the seed that they were filled with.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Index {
    seed: u64,
    buckets: Vec<Bucket>,
}

impl Index {
    /// How many buckets this many entries take.
    pub const fn bucket_count(entries: usize) -> usize {
        (entries * 100).div_ceil(WAYS * LOAD_PERCENT) + 1
    }

    /// An index of these entries: 128-bit key and line number.
    ///
    /// # Panics
    /// When so many entries have the same key that their bucket's neighbours cannot take them.
    pub fn build(seed: u64, entries: impl ExactSizeIterator<Item = (u128, u32)>) -> Self {
        let count = Self::bucket_count(entries.len());
        let mut buckets = vec![Bucket::default(); count];
        for (key, line) in entries {
            let hash = hash(key, seed);
            let home = home(hash, count);
            let mut distance = 0;
            loop {
                assert!(distance < count, "the index has room for every entry");
                let bucket = &mut buckets[(home + distance) % count];
                if let Some(way) = bucket.tags.iter().position(|tag| *tag == 0) {
                    (bucket.tags[way], bucket.lines[way]) = (tag(hash), line);
                    break;
                }
                distance += 1;
            }
            buckets[home].spill = buckets[home].spill.max(distance as u32);
        }
        Self { seed, buckets }
    }
}

/// How full an index is, and what a lookup costs because of it.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub struct Load {
    /// Entries in use.
    pub entries: usize,
    /// Buckets: cache lines of ten entries each.
    pub buckets: usize,
    /// Entries in use of all that there is room for.
    pub load_factor: f64,
    /// Buckets that a lookup of what is there reads, on average.
    pub buckets_a_hit: f64,
    /// Buckets that a lookup of something unknown reads, on average.
    pub buckets_a_miss: f64,
    /// The most buckets that one lookup reads.
    pub buckets_max: usize,
}

impl ArchivedBucket {
    /// The entries with this tag, a bit each.
    #[inline(always)]
    fn ways(&self, tag: u16) -> u32 {
        let mut ways = 0;
        for (way, stored) in self.tags.iter().enumerate() {
            ways |= u32::from(stored.to_native() == tag) << way;
        }
        ways
    }
}

impl ArchivedIndex {
    /// How full it is, given the hash and line of every entry.
    pub fn load(&self, entries: impl Iterator<Item = (u64, usize)>) -> Load {
        let buckets = self.buckets.len();
        let spills = || self.buckets.iter().map(|bucket| bucket.spill.to_native() as usize);
        let (mut count, mut read) = (0, 0);
        for (hash, line) in entries {
            let (home, tag) = (home(hash, buckets), tag(hash));
            let holds = |distance: &usize| {
                let bucket = &self.buckets[(home + distance) % buckets];
                bucket
                    .tags
                    .iter()
                    .zip(&bucket.lines)
                    .any(|found| (found.0.to_native(), found.1.to_native() as usize) == (tag, line))
            };
            count += 1;
            read += 1 + (0..buckets).find(holds).unwrap_or(0);
        }
        Load {
            entries: count,
            buckets,
            load_factor: count as f64 / (buckets * WAYS).max(1) as f64,
            buckets_a_hit: read as f64 / count.max(1) as f64,
            buckets_a_miss: 1.0 + spills().sum::<usize>() as f64 / buckets.max(1) as f64,
            buckets_max: 1 + spills().max().unwrap_or(0),
        }
    }

    /// The seed that the index was filled with.
    pub fn seed(&self) -> u64 {
        self.seed.to_native()
    }

    /// Starts to bring the bucket of this hash near.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets, home(hash, self.buckets.len()));
    }

    /// Line numbers that may have the key with this hash: those whose tag agrees.
    #[inline]
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let count = self.buckets.len();
        let home = home(hash, count);
        let tag = tag(hash);
        let spill = self.buckets.get(home).map_or(0, |bucket| bucket.spill.to_native() as usize);
        (0..=spill).flat_map(move |distance| {
            // The home is below count and a sound spill is too.
            let at = home + distance;
            let bucket = &self.buckets[if at < count { at } else { at - count }];
            let mut ways = bucket.ways(tag);
            std::iter::from_fn(move || {
                let way = ways.checked_ilog2()?;
                ways &= !(1 << way);
                Some(bucket.lines[way as usize].to_native() as usize)
            })
        })
    }

    /// The first line of which `is` is true among those that may have the key with this hash: as
    /// [`ArchivedIndex::candidates`], for where every nanosecond counts.
    #[inline(always)]
    pub fn find(&self, hash: u64, is: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.buckets.len();
        let (home, tag) = (home(hash, count), tag(hash));
        let spill = self.buckets.get(home)?.spill.to_native() as usize;
        for at in home..=home + spill {
            let bucket = &self.buckets[if at < count { at } else { at - count }];
            let mut ways = bucket.ways(tag);
            while let Some(way) = ways.checked_ilog2() {
                ways &= !(1 << way);
                let line = bucket.lines[way as usize].to_native() as usize;
                if is(line) {
                    return Some(line);
                }
            }
        }
        None
    }

    /// The first candidate; `None` when nothing here has this hash.
    #[inline(always)]
    pub fn first_candidate(&self, hash: u64) -> Option<usize> {
        self.find(hash, |_| true)
    }

    /// Entries in use, if every one of them names a line below `lines` and no spill leaves the array.
    pub fn entries(&self, lines: usize) -> Option<usize> {
        let mut used = 0;
        for bucket in self.buckets.iter() {
            if bucket.spill.to_native() as usize >= self.buckets.len() {
                return None;
            }
            for (tag, line) in bucket.tags.iter().zip(&bucket.lines) {
                if tag.to_native() != 0 {
                    used += 1;
                    if line.to_native() as usize >= lines {
                        return None;
                    }
                }
            }
        }
        (!self.buckets.is_empty()).then_some(used)
    }

    /// Bytes that the index takes.
    pub fn size(&self) -> usize {
        size_of_val(&self.buckets[..])
    }
}

impl Line {
    /// The line of a terminal. `more`: the next line is the same user's; `has_key`: so is a key; a
    /// public IPv6 address goes to `nat6`.
    pub fn new(user: &User, more: bool, has_key: bool, nat6: &mut Vec<[u8; 16]>) -> Self {
        let (endpoint, mut flags) = match (user.private, user.serving) {
            (Some(private), _) => (private, flag::PRIVATE),
            (None, Some(serving)) => (serving, flag::SERVING),
            (None, None) => (Endpoint::NONE, 0),
        };
        flags |= if more { flag::MORE } else { 0 } | if has_key { flag::KEY } else { 0 };
        let mut nat = [0; 4];
        if let Some(public) = user.nat {
            flags |= flag::NAT;
            nat = public.ipv4().unwrap_or_else(|| {
                flags |= flag::NAT6;
                nat6.push(public.octets());
                (nat6.len() as u32 - 1).to_be_bytes()
            });
        }
        Self {
            user: user.push_id.to_bytes(),
            addr: endpoint.octets(),
            imsi: user.imsi.map_or([0; 8], Imsi::to_tbcd),
            realm: user.realm,
            valid_until: user.valid_until.map_or(0, |until| u32::try_from(until).unwrap_or(u32::MAX).max(1)),
            nat,
            port: endpoint.port(),
            nat_port: user.nat.map_or(0, Endpoint::port),
            device: user.device,
            bearers: user.bearers,
            flags,
            reserved: [0; 5],
        }
    }
}

impl ArchivedLine {
    /// The user.
    #[inline(always)]
    pub fn user(&self) -> PushId {
        PushId::from_bytes(self.user)
    }

    /// Which of the user's terminals.
    #[inline(always)]
    pub fn device(&self) -> u8 {
        self.device
    }

    /// Whether the next line is the same user's.
    #[inline(always)]
    pub fn has_more(&self) -> bool {
        self.flags & flag::MORE != 0
    }

    /// Whether the user has a key of its own.
    #[inline(always)]
    pub fn has_key(&self) -> bool {
        self.flags & flag::KEY != 0
    }

    /// Whether the binding holds at this time (seconds since 1970).
    #[inline(always)]
    pub fn is_live(&self, unix_s: u64) -> bool {
        let until = self.valid_until.to_native();
        until == 0 || unix_s < u64::from(until)
    }

    /// The private address space.
    #[inline(always)]
    pub fn realm(&self) -> u32 {
        self.realm.to_native()
    }

    /// What the terminal can take.
    #[inline(always)]
    pub fn bearers(&self) -> u8 {
        self.bearers
    }

    fn endpoint(&self, wanted: u8) -> Option<Endpoint> {
        (self.flags & wanted != 0).then(|| Endpoint::from_octets(self.addr, self.port.to_native()))
    }

    /// Private address and port.
    #[inline(always)]
    pub fn private(&self) -> Option<Endpoint> {
        self.endpoint(flag::PRIVATE)
    }

    /// The serving server's address.
    #[inline(always)]
    pub fn serving(&self) -> Option<Endpoint> {
        self.endpoint(flag::SERVING)
    }

    /// Public address and port; `nat6` is the table's array of public IPv6 addresses.
    #[inline(always)]
    pub fn nat(&self, nat6: &[[u8; 16]]) -> Option<Endpoint> {
        if self.flags & flag::NAT == 0 {
            return None;
        }
        let port = self.nat_port.to_native();
        if self.flags & flag::NAT6 == 0 {
            return Some(Endpoint::new(self.nat.into(), port));
        }
        let addr = nat6.get(u32::from_be_bytes(self.nat) as usize)?;
        Some(Endpoint::from_octets(*addr, port))
    }

    /// The subscriber.
    #[inline(always)]
    pub fn imsi(&self) -> Option<Imsi> {
        Imsi::from_tbcd(self.imsi)
    }

    /// The row of `users.csv` that this line was made from.
    pub fn to_user(&self, nat6: &[[u8; 16]]) -> User {
        let until = self.valid_until.to_native();
        User {
            push_id: self.user(),
            device: self.device,
            realm: self.realm(),
            private: self.private(),
            nat: self.nat(nat6),
            imsi: self.imsi(),
            bearers: self.bearers,
            serving: self.serving(),
            valid_until: (until != 0).then_some(u64::from(until)),
        }
    }

    /// Whether the flags agree with each other and with the side tables.
    pub fn is_sound(&self, nat6: usize) -> bool {
        let both = flag::PRIVATE | flag::SERVING;
        let nat6_right = self.flags & flag::NAT6 == 0
            || (self.flags & flag::NAT != 0 && (u32::from_be_bytes(self.nat) as usize) < nat6);
        let imsi_right = self.imsi == [0; 8] || self.imsi().is_some();
        self.flags & both != both && nat6_right && imsi_right && self.flags >> 6 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archived(index: &Index) -> rkyv::util::AlignedVec<64> {
        rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(index, rkyv::util::AlignedVec::new()).unwrap()
    }

    fn access(bytes: &[u8]) -> &ArchivedIndex {
        rkyv::access::<ArchivedIndex, rkyv::rancor::Error>(bytes).unwrap()
    }

    #[test]
    fn an_index_finds_every_entry_and_spills_when_full() {
        for entries in [0usize, 1, 10, 11, 1000, 50_000] {
            let keys: Vec<u128> = (0..entries as u128).map(|n| n * n + 7).collect();
            let pairs: Vec<_> = keys.iter().copied().zip(0..).collect();
            let bytes = archived(&Index::build(1, pairs.into_iter()));
            let index = access(&bytes);
            assert_eq!(index.entries(entries), Some(entries));
            for (line, key) in keys.iter().enumerate() {
                assert!(index.candidates(hash(*key, 1)).any(|found| found == line), "{key}");
            }
        }
    }

    /// What `tables/README.md` draws.
    #[test]
    fn the_layout_is_the_one_that_is_drawn() {
        use std::mem::offset_of;
        let line = [
            offset_of!(ArchivedLine, user),
            offset_of!(ArchivedLine, addr),
            offset_of!(ArchivedLine, imsi),
            offset_of!(ArchivedLine, realm),
            offset_of!(ArchivedLine, valid_until),
            offset_of!(ArchivedLine, nat),
            offset_of!(ArchivedLine, port),
            offset_of!(ArchivedLine, nat_port),
            offset_of!(ArchivedLine, device),
            offset_of!(ArchivedLine, bearers),
            offset_of!(ArchivedLine, flags),
        ];
        assert_eq!(line, [0, 16, 32, 40, 44, 48, 52, 54, 56, 57, 58]);
        let bucket = [
            offset_of!(ArchivedBucket, tags),
            offset_of!(ArchivedBucket, spill),
            offset_of!(ArchivedBucket, lines),
        ];
        assert_eq!(bucket, [0, 20, 24]);
        assert_eq!((offset_of!(ArchivedIndex, seed), offset_of!(ArchivedIndex, buckets)), (0, 8));
    }

    #[test]
    fn entries_of_one_key_are_all_found() {
        let pairs: Vec<_> = (0..40).map(|line| (5u128, line)).collect();
        let bytes = archived(&Index::build(0, pairs.into_iter()));
        let mut found: Vec<usize> = access(&bytes).candidates(hash(5, 0)).collect();
        found.sort_unstable();
        assert_eq!(found, (0..40).collect::<Vec<_>>());
    }
}
