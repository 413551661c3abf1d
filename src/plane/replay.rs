//! The replay window: signed messages that were accepted within the last 60 s, over the whole server
//! (PROTOCOL.md, ruling 17).
//!
//! A set of 64-bit words in buckets of one cache line, changed by compare-and-swap by any shard: 44 bits
//! of a keyed hash of (key, source, destination, message identifier), 20 bits of the second. A message has
//! two buckets to be in, the emptier one takes it; a look costs two lines. Two different messages of one
//! bucket are taken for one with probability 2^-40 a look; when both buckets are full the message is refused
//! rather than another forgotten.
//!
//! Two copies of one message may reach two shards at the same time. Each puts its word by
//! compare-and-swap and then looks through the bucket once more, all sequentially consistent: the later of
//! the two sees the earlier. If both see each other both are refused: a message may be lost that way, but
//! none is ever accepted twice.

use ahash::RandomState;

use crate::id::PushId;
use crate::sync::{AtomicU64, Ordering};

/// How long an accepted message is remembered, seconds.
pub(super) const WINDOW_S: u64 = 60;

const WAYS: usize = 8;
const SECOND_BITS: u32 = 20;
const SECOND_MASK: u64 = (1 << SECOND_BITS) - 1;

#[derive(Debug)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// The server's window.
#[derive(Debug)]
pub struct ReplayWindow {
    buckets: Box<[Bucket]>,
    hasher: RandomState,
}

/// What the window says of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Never within the window; from now on it was.
    First,
    /// Within the window.
    Before,
    /// Cannot be remembered: the bucket is full.
    NoRoom,
}

impl ReplayWindow {
    /// A window for so many messages, rounded up to a power of two.
    pub fn new(messages: usize, seed: u64) -> Self {
        let buckets = messages.div_ceil(WAYS).next_power_of_two();
        let hasher = RandomState::with_seeds(seed, 0x7265_706C, 0x6179_7761, !seed);
        Self {
            buckets: (0..buckets).map(|_| Bucket(std::array::from_fn(|_| AtomicU64::new(0)))).collect(),
            hasher,
        }
    }

    /// Looks for a message and remembers it. `key` is the key's identifier on the wire: its place in the
    /// tables changes with them.
    pub fn check(&self, key: u32, source: PushId, destination: PushId, message: u64, now_ns: u64) -> Seen {
        let place = self.hasher.hash_one((key, source.0, destination.0, message));
        let print = self.hasher.hash_one((place, message, source.0));
        // A word of zero is empty: prints are not.
        let second = (now_ns / 1_000_000_000) & SECOND_MASK;
        let word = (print & !SECOND_MASK).max(1 << SECOND_BITS) | second;
        // Shards read their clocks apart: a word may be of a later second than this burst's.
        let age = |word: u64| second.wrapping_sub(word) & SECOND_MASK;
        let is_live = |word: u64| word != 0 && (age(word) <= WINDOW_S || age(word) > SECOND_MASK - WINDOW_S);
        let is_same = |other: u64| is_live(other) && other >> SECOND_BITS == word >> SECOND_BITS;
        let bucket = |hash: u64| &self.buckets[hash as usize & (self.buckets.len() - 1)].0;
        let choices = [bucket(place), bucket(place >> 32)];
        let ways = || choices.into_iter().flatten();
        loop {
            if ways().any(|slot| is_same(slot.load(Ordering::SeqCst))) {
                return Seen::Before;
            }
            // The emptier bucket, so that both fill alike.
            let free = choices.map(|ways| {
                let mut free = ways.iter().map(|slot| (slot, slot.load(Ordering::SeqCst)));
                let first = free.find(|(_, found)| !is_live(*found));
                first.map(|first| (1 + free.filter(|(_, found)| !is_live(*found)).count(), first))
            });
            let most = free.into_iter().flatten().reduce(|a, b| if b.0 > a.0 { b } else { a });
            let Some((_, (own, found))) = most else { return Seen::NoRoom };
            if own.compare_exchange(found, word, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue;
            }
            let mut others = ways().filter(|slot| !std::ptr::eq(*slot, own));
            let twice = others.any(|slot| is_same(slot.load(Ordering::SeqCst)));
            return if twice { Seen::Before } else { Seen::First };
        }
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_message_is_seen_once_in_sixty_seconds() {
        let window = ReplayWindow::new(1024, 1);
        let check = |id, at| window.check(1, PushId(2), PushId(3), id, at * SECOND);
        assert_eq!(check(7, 1), Seen::First);
        assert_eq!(check(7, 1), Seen::Before);
        assert_eq!(check(7, 61), Seen::Before);
        assert_eq!(check(8, 61), Seen::First);
        assert_eq!(check(7, 62), Seen::First);
        assert_eq!(window.check(2, PushId(2), PushId(3), 7, 62 * SECOND), Seen::First);
        assert_eq!(window.check(1, PushId(9), PushId(3), 7, 62 * SECOND), Seen::First);
        assert_eq!(window.check(1, PushId(2), PushId(9), 7, 62 * SECOND), Seen::First);
    }

    /// Shards read their clocks apart, and a second may begin between two of them.
    #[test]
    fn a_clock_that_is_behind_still_sees_it() {
        let window = ReplayWindow::new(1024, 1);
        let check = |at| window.check(1, PushId(2), PushId(3), 7, at);
        assert_eq!(check(5 * SECOND), Seen::First);
        assert_eq!(check(5 * SECOND - 1), Seen::Before);
        assert_eq!(check(4 * SECOND), Seen::Before);
    }

    /// What was remembered long ago is no message of today, however the seconds have wrapped.
    #[test]
    fn an_old_word_is_free_again() {
        let window = ReplayWindow::new(1024, 1);
        let check = |at| window.check(1, PushId(2), PushId(3), 7, at * SECOND);
        for at in [1, 1025, 3000, 100_000] {
            assert_eq!(check(at), Seen::First, "{at}");
        }
    }

    /// The load that the configuration promises is taken.
    #[test]
    fn a_window_takes_five_eighths_of_its_size() {
        let window = ReplayWindow::new(1 << 16, 1);
        let check = |id| window.check(1, PushId(2), PushId(3), id, 5 * SECOND);
        assert!((0..5 << 13).all(|id| check(id) == Seen::First));
    }

    #[test]
    fn the_seconds_may_wrap() {
        let window = ReplayWindow::new(1024, 1);
        for at in (0..5000).step_by(50) {
            assert_eq!(
                window.check(1, PushId(2), PushId(3), at / 100, at * SECOND),
                if at % 100 == 0 { Seen::First } else { Seen::Before }
            );
        }
    }

    #[test]
    fn a_full_window_refuses_and_forgets_nothing() {
        let window = ReplayWindow::new(64, 1);
        let check = |id| window.check(1, PushId(2), PushId(3), id, 5 * SECOND);
        let accepted: Vec<u64> = (0..500).filter(|id| check(*id) == Seen::First).collect();
        assert!(accepted.len() <= 64 && accepted.len() > 32);
        assert!(accepted.iter().all(|id| check(*id) == Seen::Before));
    }

    #[test]
    fn two_shards_never_both_accept_one_message() {
        let window = ReplayWindow::new(1 << 20, 1);
        let accepted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for id in 0..100_000 {
                        if window.check(1, PushId(2), PushId(3), id, 5 * SECOND) == Seen::First {
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(accepted.into_inner() <= 100_000);
    }
}
