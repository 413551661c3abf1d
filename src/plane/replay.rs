//! The replay window: signed messages that were accepted within the last 60 s, over the whole server
//! (PROTOCOL.md, ruling 17).
//!
//! A set of 64-bit words in buckets of one cache line, changed by compare-and-swap by any shard: 54 bits
//! of a keyed hash of (key, source, destination, message identifier), 10 bits of the second. A look costs
//! one line. Two different messages are taken for one with probability 2^-51 a look; full buckets refuse
//! the message rather than forget one.
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
const SECOND_BITS: u32 = 10;
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

    /// Looks for a message and remembers it.
    pub fn check(&self, key: u32, source: PushId, destination: PushId, message: u64, now_ns: u64) -> Seen {
        let place = self.hasher.hash_one((key, source.0, destination.0, message));
        let print = self.hasher.hash_one((place, message, source.0));
        // Seconds count from 1: a word of zero is empty.
        let second = (now_ns / 1_000_000_000) & SECOND_MASK;
        let word = (print & !SECOND_MASK).max(1 << SECOND_BITS) | second;
        let Bucket(ways) = &self.buckets[place as usize & (self.buckets.len() - 1)];
        let is_live =
            |word: u64| word != 0 && (second.wrapping_sub(word & SECOND_MASK) & SECOND_MASK) <= WINDOW_S;
        let is_same = |other: u64| is_live(other) && other >> SECOND_BITS == word >> SECOND_BITS;
        'put: loop {
            let mut free = None;
            for (way, slot) in ways.iter().enumerate() {
                let found = slot.load(Ordering::SeqCst);
                if is_same(found) {
                    return Seen::Before;
                }
                if !is_live(found) && free.is_none() {
                    free = Some((way, found));
                }
            }
            let Some((own, found)) = free else { return Seen::NoRoom };
            if ways[own].compare_exchange(found, word, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue 'put;
            }
            let others = ways.iter().enumerate().filter(|(way, _)| *way != own);
            for (_, slot) in others {
                if is_same(slot.load(Ordering::SeqCst)) {
                    return Seen::Before;
                }
            }
            return Seen::First;
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
