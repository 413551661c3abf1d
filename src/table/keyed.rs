//! Which users may have a key of their own: a filter that a push to somebody who registered asks before it looks for
//! one, as a row of users.csv says by a flag.
//!
//! A Bloom filter blocked by words (Putze, Sanders and Singler, WEA 2007): three bits of one word a user. Costs 4
//! bytes a key; says yes of one in a thousand that have none, never no of one that has.

use super::memory::prefetch;

/// Bits a user.
const BITS: usize = 32;

/// The filter.
#[derive(Debug)]
pub(super) struct Keyed(Vec<u64>);

impl Keyed {
    /// Of users with these hashes, each of 64 even bits.
    pub(super) fn new(users: impl ExactSizeIterator<Item = u64>) -> Self {
        let mut keyed = Self(vec![0; (users.len() * BITS).div_ceil(64)]);
        for hash in users {
            let at = keyed.at(hash);
            keyed.0[at] |= bits(hash);
        }
        keyed
    }

    #[inline(always)]
    fn at(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.0.len() as u128) >> 64) as usize
    }

    /// Starts to bring near what [`Keyed::may_have`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&self.0, self.at(hash));
    }

    /// False only of a user that is not among them.
    #[inline(always)]
    pub(super) fn may_have(&self, hash: u64) -> bool {
        self.0.get(self.at(hash)).is_some_and(|word| word & bits(hash) == bits(hash))
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}

/// Three bits of a word, by the low bits of a hash: its high ones choose the word.
#[inline(always)]
const fn bits(hash: u64) -> u64 {
    1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 12 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::binding::hash;

    #[test]
    fn who_is_in_it_is_found_and_few_others_are() {
        let of = |n: u128| hash(n, 7);
        for users in [0u128, 1, 100, 10_000] {
            let keyed = Keyed::new((0..users).map(of).collect::<Vec<_>>().into_iter());
            assert!((0..users).all(|n| keyed.may_have(of(n))));
            let wrongly = (users..users + 100_000).filter(|n| keyed.may_have(of(*n))).count();
            assert!(wrongly < 300, "{wrongly} of {users}");
        }
    }
}
