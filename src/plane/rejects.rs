//! At most 100 REJECTs a second for each source address, with bursts of 100 (PROTOCOL.md, ruling 31):
//! a server that answers failures must not become an amplifier.
//!
//! A word of 64 bits an address (IPv4 address or IPv6 /64): 24 bits of a keyed hash, 40 bits of the time
//! in 2^-14 s (16 µs) at which the next REJECT would be due. Eight words, one cache line, a bucket; when all are busy the
//! REJECT is not sent.

use ahash::RandomState;

use crate::id::Endpoint;
use crate::sync::{AtomicU64, Ordering};

const WAYS: usize = 8;
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// 16.384 µs: 40 bits of it last 208 days, and 0 is never now.
const TICK_NS: u64 = 1 << 14;
/// Rounded up: 99.9 a second, never more than a hundred.
const INTERVAL: u64 = 10_000_000_u64.div_ceil(TICK_NS);
const BURST: u64 = 100 * INTERVAL;

#[derive(Debug)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// The server's limiter.
#[derive(Debug)]
pub struct RejectLimiter {
    buckets: Box<[Bucket]>,
    hasher: RandomState,
}

impl RejectLimiter {
    /// A limiter that keeps so many addresses apart, rounded up to a power of two.
    pub fn new(sources: usize, seed: u64) -> Self {
        let buckets = sources.div_ceil(WAYS).next_power_of_two();
        let hasher = RandomState::with_seeds(seed, 0x7265_6A65, 0x6374_7321, !seed);
        Self {
            buckets: (0..buckets).map(|_| Bucket(std::array::from_fn(|_| AtomicU64::new(0)))).collect(),
            hasher,
        }
    }

    /// Whether one more REJECT may go to this address now; if so it has.
    pub fn take(&self, to: Endpoint, now_ns: u64) -> bool {
        let octets = to.octets();
        let network = u128::from_be_bytes(octets) >> if to.is_ipv4() { 0 } else { 64 };
        let hash = self.hasher.hash_one((network, to.is_ipv4()));
        let print = hash >> TIME_BITS;
        let now = (now_ns / TICK_NS) & TIME_MASK;
        let Bucket(ways) = &self.buckets[hash as usize & (self.buckets.len() - 1)];
        // How far ahead a word's time is, whatever has wrapped; further than a burst is long ago.
        let ahead = |word: u64| match (word & TIME_MASK).wrapping_sub(now) & TIME_MASK {
            ahead if ahead <= BURST => ahead,
            _ => 0,
        };
        loop {
            let mut chosen = None;
            for slot in ways {
                let found = slot.load(Ordering::Relaxed);
                if found >> TIME_BITS == print && found != 0 {
                    chosen = Some((slot, found, ahead(found)));
                    break;
                }
                if ahead(found) == 0 && chosen.is_none() {
                    chosen = Some((slot, found, 0));
                }
            }
            let Some((slot, found, ahead)) = chosen else { return false };
            let next = ahead + INTERVAL;
            if next > BURST {
                return false;
            }
            let word = print << TIME_BITS | (now + next) & TIME_MASK;
            if slot.compare_exchange(found, word, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;

    fn at(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn a_hundred_at_once_and_then_a_hundred_a_second() {
        let limiter = RejectLimiter::new(1024, 1);
        let one = at("192.0.2.1:1000");
        let start = 1_000_000_000;
        let first = (0..500).filter(|_| limiter.take(one, start)).count();
        assert!((99..=101).contains(&first), "{first}");
        let later = (0..500).filter(|_| limiter.take(one.with_port(7), start + 500_000_000)).count();
        assert!((49..=51).contains(&later), "{later}");
        assert!(limiter.take(at("192.0.2.2:1000"), start), "another address has its own");
    }

    /// Forty bits of time last 208 days; then they begin again.
    #[test]
    fn the_time_may_wrap() {
        let limiter = RejectLimiter::new(8, 1);
        let one = at("192.0.2.1:1000");
        for day in [1, 207, 209, 300, 500] {
            let start = day * 86_400 * 1_000_000_000;
            assert_eq!((0..500).filter(|_| limiter.take(one, start)).count(), 100, "day {day}");
        }
    }

    #[test]
    fn an_ipv6_sender_is_its_64() {
        let limiter = RejectLimiter::new(1024, 1);
        let start = 1_000_000_000;
        let sent = (0..500u16).filter(|n| limiter.take(at(&format!("[2001:db8::{n:x}]:1")), start)).count();
        assert!((99..=101).contains(&sent), "{sent}");
        assert!(limiter.take(at("[2001:db8:0:1::1]:1"), start));
    }
}
